//! A batch that is being consumed: records leave by value, the allocation stays for reuse.
//!
//! Always true: `records` has length zero while a cursor holds it, and the elements `next..len` of its buffer are
//! initialised and owned by the cursor; those before `next` have been moved out.
#![expect(unsafe_code, reason = "moves records out of a vector one by one and keeps its allocation")]

/// Consumes one batch at a time.
pub struct Cursor<T> {
    records: Vec<T>,
    next: usize,
    len: usize,
}

impl<T> Default for Cursor<T> {
    fn default() -> Self {
        Cursor { records: Vec::new(), next: 0, len: 0 }
    }
}

impl<T> Cursor<T> {
    /// Starts on `batch`.
    ///
    /// # Panics
    /// When the batch before it is not consumed.
    pub fn load(&mut self, mut batch: Vec<T>) {
        assert!(self.is_empty(), "a batch was loaded over an unfinished one");
        let len = batch.len();
        // SAFETY: 0 is within capacity; the `len` initialised elements are now ours by the invariant above.
        unsafe { batch.set_len(0) };
        self.records = batch;
        self.next = 0;
        self.len = len;
    }

    /// Records not consumed yet.
    pub fn remaining(&self) -> usize {
        self.len - self.next
    }

    /// True when every record of the batch has been consumed, or none was ever loaded.
    pub fn is_empty(&self) -> bool {
        self.next == self.len
    }

    /// The records not consumed yet.
    #[inline]
    pub fn rest(&self) -> &[T] {
        // SAFETY: elements `next..len` are initialised and owned by us; the borrow of `self` keeps them in place.
        unsafe { std::slice::from_raw_parts(self.records.as_ptr().add(self.next), self.len - self.next) }
    }

    /// Moves the next record out.
    #[inline(always)]
    pub fn take(&mut self) -> Option<T> {
        if self.next == self.len {
            return None;
        }
        // SAFETY: element `next` is initialised and owned by us; advancing `next` gives up that ownership, so it is
        // read exactly once.
        let record = unsafe { self.records.as_ptr().add(self.next).read() };
        self.next += 1;
        Some(record)
    }

    /// Takes the emptied batch, to be filled again.
    ///
    /// # Panics
    /// When records are left.
    pub fn unload(&mut self) -> Vec<T> {
        assert!(self.is_empty(), "a batch was given back before it was consumed");
        self.next = 0;
        self.len = 0;
        std::mem::take(&mut self.records)
    }
}

impl<T> Drop for Cursor<T> {
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn records_leave_in_order_and_the_allocation_comes_back() {
        let mut cursor = Cursor::default();
        let batch = vec![String::from("a"), String::from("b")];
        let capacity = batch.capacity();
        cursor.load(batch);
        assert_eq!(cursor.take().as_deref(), Some("a"));
        assert_eq!(cursor.rest(), ["b".to_owned()]);
        assert_eq!(cursor.take().as_deref(), Some("b"));
        assert_eq!(cursor.take(), None);
        let empty = cursor.unload();
        assert!(empty.is_empty() && empty.capacity() == capacity);
    }

    #[test]
    fn dropping_a_half_consumed_cursor_drops_each_record_once() {
        let witness = Rc::new(());
        let mut cursor = Cursor::default();
        cursor.load(vec![Rc::clone(&witness), Rc::clone(&witness), Rc::clone(&witness)]);
        let first = cursor.take();
        drop(cursor);
        assert_eq!(Rc::strong_count(&witness), 2);
        drop(first);
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
