//! Channels between tasks: rings of record batches, side rings of announcements, doorbells.
pub mod doorbell;
