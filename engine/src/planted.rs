//! Planted bugs of the engine; how they work is told in [`thalweg_storage::planted`].
//!
//! Always true: without the cargo feature `testing` there are none.

/// True where a test has planted this bug.
#[cfg(feature = "testing")]
macro_rules! planted {
    ($bug:literal) => {
        thalweg_storage::planted::is_planted($bug)
    };
}

/// No bug is planted without the feature `testing`.
#[cfg(not(feature = "testing"))]
macro_rules! planted {
    ($bug:literal) => {
        false
    };
}
