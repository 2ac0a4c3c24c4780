//! [`LogTable`] as [`StateTable`]: what is left to do once the types are known.

use super::table::LogTable;
use crate::codec::{Data, DecodeError, Key, Schema};
use crate::error::StoreError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::KeyedStateMeta;
use crate::segment::{BlockPlace, Migration, Rows, SegmentBuilder};
use crate::table::{GroupPlan, SegmentPaths, StateTable, TableStats, Written};
use std::ops::Range;

impl<K: Key, V: Data> StateTable for LogTable<K, V> {
    fn meta(&self) -> KeyedStateMeta {
        KeyedStateMeta { name: self.name.clone(), key: K::schema(), value: V::schema() }
    }

    fn key_groups(&self) -> KeyGroups {
        self.log.key_groups
    }

    fn groups(&self) -> Range<KeyGroup> {
        self.log.range.clone()
    }

    fn begin_snapshot(&mut self, state: u16, plan: &[GroupPlan]) -> u64 {
        self.log.begin_snapshot(&self.name, state, plan)
    }

    fn advance_snapshot(&mut self, out: &mut SegmentBuilder, rows: usize) -> Written {
        self.log.advance_snapshot(out, rows)
    }

    fn completed(&mut self, epoch: u64) {
        self.log.completed(epoch);
    }

    fn aborted(&mut self, epoch: u64) {
        self.log.aborted(epoch);
    }

    fn is_log_structured(&self) -> bool {
        true
    }

    fn segments_needed(&self) -> SegmentPaths {
        self.log.segments_needed()
    }

    fn migration(&self, stored: &Schema) -> Option<Migration> {
        Migration::of::<K, V>(stored)
    }

    fn expect_rows(&mut self, group: KeyGroup, rows: u64) {
        self.log.index.reserve(group, rows);
    }

    fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError> {
        self.log.restore_rows(group, rows)
    }

    fn restore_block(&mut self, group: KeyGroup, rows: &Rows, place: &BlockPlace) -> Result<(), DecodeError> {
        self.log.restore_block(group, rows, place)
    }

    fn restored(&mut self) {
        self.log.segments.sweep();
    }

    fn detach(&mut self) {
        self.log.detach();
    }

    fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        self.log.tend_memory()?;
        let settling = self.log.settle_slice();
        let expiring = self.log.remove_expired(Self::SHAPE, rows);
        Ok(self.log.compact(rows) || expiring || settling)
    }

    fn ready(&mut self) -> Result<bool, StoreError> {
        self.log.ready()
    }

    fn stats(&self) -> TableStats {
        let (log, totals) = (&self.log, self.log.segments.totals());
        TableStats {
            keys: log.index.len() as u64,
            data_bytes: log.pages.data_bytes() as u64,
            index_bytes: (log.index.bytes()
                + log.pages.meta_bytes()
                + log.cold.as_ref().map_or(0, |cold| cold.bytes())) as u64,
            page_reads: log.counters.page_reads,
            page_reads_blocking: log.counters.page_reads_blocking,
            page_hits: log.counters.page_hits,
            compacted_rows: log.counters.compacted_rows,
            segment_bytes: totals.bytes,
            segment_live_bytes: totals.live_bytes(),
        }
    }
}
