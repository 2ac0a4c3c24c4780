//! [`TimerQueue`]: the timers of a task, by time; event-time or processing-time, each kind in a queue of its own.
//!
//! A timer is a row without a value, always in a hash table in memory; a heap says which is next. A deleted timer leaves
//! its row at once and the heap when its time has come, or when the heap holds mostly such.
//!
//! Always true:
//! - a timer is registered exactly when its row is there, so registering it twice is registering it once;
//! - timers come in the order of time, then of an order that depends on key and namespace only: neither on when they
//!   were registered nor on a restore;
//! - between two timers the queue is as any operator's state: a snapshot there holds exactly those that have not fired.

use super::scoped::Scoped;
use crate::codec::{Data, DecodeError, Key, Schema};
use crate::error::StoreError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::KeyedStateMeta;
use crate::segment::{BlockPlace, Migration, Rows, SegmentBuilder};
use crate::table::{GroupPlan, SegmentPaths, StateTable, TableStats, ValueTable, Written};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

/// A timer of `key` in `namespace`, due at `time`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer<K, N> {
    /// The key whose callback is to run.
    pub key: K,
    /// Its namespace, such as a window.
    pub namespace: N,
    /// When it is due: milliseconds, of event time or of processing time.
    pub time: i64,
}

/// Key of a timer's row.
type Row<K, N> = Scoped<Scoped<K, N>, i64>;

/// Timers of a heap that may have been deleted, before it is checked whether most have.
const HEAP_SLACK: usize = 1024;

/// The timers of a task's keys.
pub struct TimerQueue<K: Key, N: Key> {
    rows: ValueTable<Row<K, N>, ()>,
    /// Every registered timer, at least once, and some that have been deleted.
    heap: BinaryHeap<Entry<K, N>>,
    /// Rows were restored that the heap does not have yet.
    restored: bool,
}

/// The greatest entry is the next timer.
struct Entry<K, N> {
    hash: u64,
    row: Row<K, N>,
}

impl<K: Key, N: Key> Ord for Entry<K, N> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_bytes = || {
            let bytes = |entry: &Self| {
                let mut bytes = Vec::new();
                entry.row.key.encode(&mut bytes);
                bytes
            };
            bytes(other).cmp(&bytes(self))
        };
        let by_time = other.row.scope.cmp(&self.row.scope);
        by_time.then_with(|| other.hash.cmp(&self.hash)).then_with(by_bytes)
    }
}

impl<K: Key, N: Key> PartialOrd for Entry<K, N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Key, N: Key> PartialEq for Entry<K, N> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K: Key, N: Key> Eq for Entry<K, N> {}

impl<K: Key, N: Key> TimerQueue<K, N> {
    /// The empty queue `name` for the keys of the groups in `range`.
    pub fn new(name: impl Into<String>, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        TimerQueue { rows: ValueTable::new(name, groups, range), heap: BinaryHeap::new(), restored: false }
    }

    fn row(&self, key: &K, namespace: &N, time: i64) -> Entry<K, N> {
        let row = Scoped::new(Scoped::new(key.clone(), namespace.clone()), time);
        Entry { hash: row.group_hash(self.rows.key_groups()), row }
    }

    /// Registers a timer; false when it was there already.
    pub fn register(&mut self, key: &K, namespace: &N, time: i64) -> bool {
        let entry = self.row(key, namespace, time);
        if self.rows.insert(entry.hash, &entry.row, ()).is_some() {
            return false;
        }
        if self.heap.len() > 2 * self.rows.len() + HEAP_SLACK {
            self.restored = true;
        }
        if !self.restored {
            self.heap.push(entry);
        }
        true
    }

    /// Deletes a timer; false when there was none.
    pub fn delete(&mut self, key: &K, namespace: &N, time: i64) -> bool {
        let entry = self.row(key, namespace, time);
        self.rows.remove(entry.hash, &entry.row).is_some()
    }

    /// When the next timer is due.
    pub fn next_time(&mut self) -> Option<i64> {
        self.drop_deleted();
        self.heap.peek().map(|entry| entry.row.scope)
    }

    /// Removes and returns the next timer if it is due at `time`. Its callback may register and delete timers, those
    /// that are due as well.
    pub fn pop(&mut self, time: i64) -> Option<Timer<K, N>> {
        self.drop_deleted();
        if self.heap.peek()?.row.scope > time {
            return None;
        }
        let Entry { hash, row } = self.heap.pop()?;
        self.rows.remove(hash, &row);
        Some(Timer { key: row.key.key, namespace: row.key.scope, time: row.scope })
    }

    /// Number of timers.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without timers.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Calls `visit` for every timer, in no order.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &N, i64)) {
        self.rows.for_each(|row, ()| visit(&row.key.key, &row.key.scope, row.scope));
    }

    /// The table, for snapshots and restores.
    pub fn table(&mut self) -> &mut dyn StateTable {
        self
    }

    /// Makes the heap's first entry a registered timer.
    fn drop_deleted(&mut self) {
        if self.restored {
            self.restored = false;
            let mut entries = std::mem::take(&mut self.heap).into_vec();
            entries.clear();
            let groups = self.rows.key_groups();
            self.rows.for_each(|row, ()| {
                entries.push(Entry { hash: row.group_hash(groups), row: row.clone() });
            });
            self.heap = BinaryHeap::from(entries);
        }
        while let Some(first) = self.heap.peek()
            && self.rows.get(first.hash, &first.row).is_none()
        {
            self.heap.pop();
        }
    }
}

impl<K: Key, N: Key> StateTable for TimerQueue<K, N> {
    fn meta(&self) -> KeyedStateMeta {
        self.rows.meta()
    }

    fn key_groups(&self) -> KeyGroups {
        self.rows.key_groups()
    }

    fn groups(&self) -> Range<KeyGroup> {
        self.rows.groups()
    }

    fn begin_snapshot(&mut self, state: u16, plan: &[GroupPlan]) -> u64 {
        self.rows.begin_snapshot(state, plan)
    }

    fn advance_snapshot(&mut self, out: &mut SegmentBuilder, rows: usize) -> Written {
        self.rows.advance_snapshot(out, rows)
    }

    fn completed(&mut self, epoch: u64) {
        self.rows.completed(epoch);
    }

    fn aborted(&mut self, epoch: u64) {
        self.rows.aborted(epoch);
    }

    fn is_log_structured(&self) -> bool {
        self.rows.is_log_structured()
    }

    fn segments_needed(&self) -> SegmentPaths {
        self.rows.segments_needed()
    }

    fn migration(&self, stored: &Schema) -> Option<Migration> {
        self.rows.migration(stored)
    }

    fn expect_rows(&mut self, group: KeyGroup, rows: u64) {
        self.rows.expect_rows(group, rows);
    }

    fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError> {
        self.restored = true;
        self.rows.restore_rows(group, rows)
    }

    fn restore_block(&mut self, group: KeyGroup, rows: &Rows, place: &BlockPlace) -> Result<(), DecodeError> {
        self.restored = true;
        self.rows.restore_block(group, rows, place)
    }

    fn restored(&mut self) {
        self.rows.restored();
    }

    fn detach(&mut self) {
        self.rows.detach();
    }

    fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        self.rows.maintain(rows)
    }

    fn ready(&mut self) -> Result<bool, StoreError> {
        self.rows.ready()
    }

    fn stats(&self) -> TableStats {
        let entry_bytes = size_of::<Entry<K, N>>() as u64;
        let mut stats = self.rows.stats();
        stats.index_bytes += self.heap.capacity() as u64 * entry_bytes;
        stats
    }
}
