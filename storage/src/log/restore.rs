//! Filling an empty table from the blocks of a checkpoint, oldest first.
//!
//! A block becomes a clean page at its place, so the next snapshot need not write it. All rows are checked before the first is
//! used. Rows that later ones supersede go gone as in normal use; a tombstone that finds nothing to delete is gone at once: an
//! earlier one does its work, or nothing has to be done.

use super::core::Log;
use super::leaf::SLOTS_MAX;
use super::page_table::{NONE, Pages, Place, memory_for};
use crate::codec::DecodeError;
use crate::key_group::KeyGroup;
use crate::segment::{BlockPlace, Rows};

impl Log {
    /// See [`crate::table::StateTable::restore_rows`].
    pub fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError> {
        let hashes = self.check(group, rows)?;
        self.make_room();
        let shape = self.pages.shape;
        for (row, hash) in hashes.iter().enumerate() {
            let (key, value) = rows.get(row);
            match (self.find(shape, *hash, key), value) {
                (Some(hit), Some(value)) => {
                    self.store(shape, *hash, key, hit, value.len(), |out| out.copy_from_slice(value));
                }
                (None, Some(value)) => {
                    let (page, slot) =
                        self.add(shape, *hash, key, value.len(), |out| out.copy_from_slice(value));
                    // Its segment may stay part of checkpoints for other rows: a removal must leave a tombstone.
                    self.pages.meta_mut(page).fresh.unset(slot);
                }
                (Some(hit), None) => self.delete(shape, *hash, key, hit),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// See [`crate::table::StateTable::restore_block`].
    pub fn restore_block(
        &mut self,
        group: KeyGroup,
        rows: &Rows,
        place: &BlockPlace,
    ) -> Result<(), DecodeError> {
        let index = usize::from(group - self.range.start);
        if rows.is_empty() || rows.len() > SLOTS_MAX || self.pages.groups[index].first_dirty != NONE {
            // A clean page must not follow a dirty one, whose rows will be written, and so replayed, after those of all places.
            // The segment may stay for the sake of other groups; then these rows are in it as well, and tombstones must not die.
            let segment = self.segments.number_of(&place.segment);
            self.segments.add_block(segment, index as u16, rows.len() as u32, place.bytes);
            return self.restore_rows(group, rows);
        }
        let hashes = self.check(group, rows)?;
        self.make_room();
        let segment = self.segments.number_of(&place.segment);
        let place = Place { segment, index: place.index, bytes: place.bytes, offset: place.offset };
        let page = self.pages.create(index as u16, 0, Some(place));
        self.pages.fill(page, rows);
        let count = rows.len() as u32;
        let meta = self.pages.meta_mut(page);
        // One more than there are rows, so that the page stays while they are looked at.
        (meta.count, meta.live) = (count, count + 1);
        self.bytes += u64::from(meta.used);
        self.rows += u64::from(count);
        self.segments.add_block(segment, index as u16, count, place.bytes);
        self.segments.place(segment, count + 1);
        for (slot, hash) in (0..).zip(&hashes) {
            let (key, value) = rows.get(slot as usize);
            let hit = self.find(self.pages.shape, *hash, key);
            if value.is_none() {
                self.pages.set_tombstone(page, slot);
                self.tombstones += 1;
            }
            match (hit, value) {
                (Some(hit), Some(_)) => {
                    self.index.replace(hit.cursor, *hash, page, slot);
                    self.retire(hit.page, hit.slot);
                }
                (None, Some(_)) => self.index.insert(*hash, page, slot),
                (Some(hit), None) => {
                    self.index.remove(hit.cursor);
                    self.retire(hit.page, hit.slot);
                }
                (None, None) => self.retire(page, slot),
            }
        }
        self.segments.retire(segment);
        let meta = self.pages.meta_mut(page);
        meta.live -= 1;
        if meta.live == 0 {
            self.emptied(page);
        }
        Ok(())
    }

    /// Checks that all rows are of the table's types and of the group, and returns the hashes of their keys.
    fn check(&self, group: KeyGroup, rows: &Rows) -> Result<Vec<u64>, DecodeError> {
        let mut hashes = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            let (key, value) = rows.get(row);
            let hash = (self.codec.hash_of)(key, self.key_groups)?;
            self.key_groups.check(hash, group)?;
            if let Some(value) = value {
                (self.codec.check_value)(value)?;
                let length = self.pages.shape.value;
                if length.is_some_and(|length| length != value.len()) {
                    return Err(DecodeError(format!("a value of {} bytes", value.len())));
                }
            }
            self.index.prefetch(hash);
            hashes.push(hash);
        }
        Ok(hashes)
    }
}

impl Pages {
    /// Gives a page without memory that of `rows`, slot by slot: also when a cold page is read back.
    pub fn fill(&mut self, page: u32, rows: &Rows) {
        let shape = self.shape;
        if let (Some(key), Some(value), Some((keys, values))) = (shape.key, shape.value, rows.plain()) {
            let used = rows.len() * (key + value);
            // Constants where they are common: then a key and a value are a load and a store each.
            match (key, value) {
                (8, 8) => self.attach_rows(page, memory_for(used), (8, keys), (8, values)),
                (8, _) => self.attach_rows(page, memory_for(used), (8, keys), (value, values)),
                _ => self.attach_rows(page, memory_for(used), (key, keys), (value, values)),
            }
            self.meta_mut(page).used = used as u32;
            return;
        }
        let value_bytes = |value: Option<&[u8]>| shape.value.unwrap_or(value.map_or(0, <[u8]>::len));
        let row_bytes = |(key, value): (&[u8], Option<&[u8]>)| shape.row_bytes(key.len(), value_bytes(value));
        let used: usize = (0..rows.len()).map(|row| row_bytes(rows.get(row))).sum();
        let needed = shape.needed(rows.len(), used);
        self.attach(page, memory_for(needed));
        let bytes = self.rows_mut(page);
        let mut start = 0;
        for slot in 0..rows.len() {
            let (key, value) = rows.get(slot);
            let at = shape.write(bytes, slot, start, key, value_bytes(value));
            match value {
                Some(value) => bytes[at.clone()].copy_from_slice(value),
                None => bytes[at.clone()].fill(0),
            }
            start = at.end;
        }
        self.meta_mut(page).used = used as u32;
    }
}
