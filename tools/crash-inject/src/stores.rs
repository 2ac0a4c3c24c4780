//! Stores on simulated disks, as the tests of the storage crate have them.

#[path = "../../../storage/tests/crash_store/lives.rs"]
pub(crate) mod lives;
#[allow(dead_code, reason = "what the tests of the storage crate need besides")]
#[path = "../../../storage/tests/crash_store/support.rs"]
pub(crate) mod support;
