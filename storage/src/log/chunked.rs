//! A vector that grows a chunk at a time: what it holds never moves, so that growing takes no time in proportion to its length.

use std::ops::{Index, IndexMut};

/// Elements of a chunk.
const CHUNK: usize = 512;

/// Elements by index. Those behind the length, up to the end of a chunk, are as `make` made them.
pub(super) struct Chunked<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    len: usize,
}

impl<T> Chunked<T> {
    pub fn new() -> Self {
        Chunked { chunks: Vec::new(), len: 0 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory of the elements themselves.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<[T; CHUNK]>() + self.chunks.capacity() * size_of::<usize>()
    }

    /// The element at `index`; the filler, if it lies behind the last one in the same chunk.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK).map(|chunk| &chunk[index % CHUNK])
    }

    /// Appends `element`; `filler` makes what lies behind it for now.
    pub fn push(&mut self, element: T, filler: impl Fn() -> T) {
        if self.len == self.chunks.len() * CHUNK {
            let chunk: Vec<T> = std::iter::repeat_with(filler).take(CHUNK).collect();
            let chunk = chunk.into_boxed_slice().try_into();
            self.chunks.push(chunk.unwrap_or_else(|_| unreachable!("a chunk has its length")));
        }
        self.len += 1;
        let last = self.len - 1;
        self[last] = element;
    }

    /// The elements, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut()).take(self.len)
    }
}

#[cfg(test)]
impl<T> Chunked<T> {
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl<T> Index<usize> for Chunked<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunked<T> {
    #[inline(always)]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_where_they_are_while_it_grows() {
        let mut chunked = Chunked::new();
        chunked.push(7, || 0);
        let first = std::ptr::from_ref(&chunked[0]);
        (1..2_000).for_each(|number| chunked.push(number, || 0));
        assert_eq!((chunked.len(), std::ptr::from_ref(&chunked[0])), (2_000, first));
        chunked.iter_mut().for_each(|number| *number += 1);
        assert!(chunked.iter().copied().eq([8].into_iter().chain(2..2_001)));
        assert_eq!((chunked.get(1_999), chunked.get(1 << 20)), (Some(&2_000), None));
    }
}
