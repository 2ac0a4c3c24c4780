//! Paths of segments by number, in chunks that copies share until one of them changes.
//!
//! Always true: a copy names what the original named when it was made, and making it takes one step for each chunk; so does the
//! first change of a chunk after it for each number in the chunk.

use std::sync::Arc;

/// Paths in a chunk.
const CHUNK: usize = 32;

/// Paths of some of a table's segments.
#[derive(Clone, Debug, Default)]
pub struct SegmentPaths {
    chunks: Vec<Arc<[Option<Arc<str>>; CHUNK]>>,
}

impl SegmentPaths {
    /// Names `path` at `number`, or nothing.
    pub fn set(&mut self, number: usize, path: Option<Arc<str>>) {
        if number / CHUNK >= self.chunks.len() {
            self.chunks.resize_with(number / CHUNK + 1, Arc::default);
        }
        Arc::make_mut(&mut self.chunks[number / CHUNK])[number % CHUNK] = path;
    }

    /// Names what `other` names as well, at numbers that do not matter any more.
    pub fn join(&mut self, other: &SegmentPaths) {
        self.chunks.extend_from_slice(&other.chunks);
    }

    /// The paths, in no order; after [`SegmentPaths::join`] some may come twice.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }
}

impl FromIterator<Arc<str>> for SegmentPaths {
    fn from_iter<T: IntoIterator<Item = Arc<str>>>(paths: T) -> Self {
        let mut all = SegmentPaths::default();
        paths.into_iter().enumerate().for_each(|(number, path)| all.set(number, Some(path)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &SegmentPaths) -> Vec<&str> {
        paths.iter().map(|path| &**path).collect()
    }

    #[test]
    fn a_copy_stays_as_it_was_while_the_original_changes() {
        let mut paths: SegmentPaths = (0..100).map(|number| number.to_string().into()).collect();
        let copy = paths.clone();
        paths.set(50, None);
        paths.set(7, Some("other".into()));
        paths.set(200, Some("far".into()));
        assert!(names(&copy).iter().enumerate().all(|(number, path)| *path == number.to_string()));
        assert_eq!(names(&copy).len(), 100);
        assert_eq!((names(&paths).len(), names(&paths)[7]), (100, "other"));
        assert!(!names(&paths).contains(&"50") && names(&paths).ends_with(&["99", "far"]));
    }

    #[test]
    fn joined_paths_are_those_of_both() {
        let mut paths: SegmentPaths = ["a".into(), "b".into()].into_iter().collect();
        let other: SegmentPaths = ["b".into(), "c".into()].into_iter().collect();
        paths.join(&other);
        assert_eq!(names(&paths), ["a", "b", "b", "c"]);
    }
}
