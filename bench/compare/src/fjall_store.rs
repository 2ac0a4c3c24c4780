//! fjall 3 with its own defaults, save for memory: half of it is the block cache, half is for write buffers, as RocksDB has it.
//!
//! fjall always writes a journal; it is synced at checkpoints only. It has no checkpoints of its own: making the journal durable is
//! the nearest it has, as everything up to there survives a crash. What that has written is counted by the kernel. It has no direct
//! I/O either.

use crate::process;
use crate::spec::PeerSpec;
use crate::{Result, Store, bump_all};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

/// A database with one keyspace.
pub struct FjallStore {
    db: Database,
    keyspace: Keyspace,
    settings: String,
    written_before: u64,
}

impl FjallStore {
    /// Opens the database in `spec.dir`, or makes it.
    pub fn open(spec: &PeerSpec) -> Result<Self> {
        let half = spec.memory_bytes / 2;
        let memtable = (half / 4).clamp(1 << 20, 64 << 20);
        #[expect(deprecated, reason = "the only limit on all write buffers together")]
        let db = Database::builder(&spec.dir)
            .cache_size(half)
            .max_write_buffer_size(Some(half))
            .manual_journal_persist(true)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        let keyspace = db.keyspace("state", options)?;
        let settings =
            format!("cache {half} B, write buffers {half} B, memtable {memtable} B, journal not synced, lz4");
        Ok(FjallStore { db, keyspace, settings, written_before: process::io_bytes()?.1 })
    }
}

impl Store for FjallStore {
    fn describe(&self) -> (String, String) {
        ("fjall 3.1.13".to_owned(), self.settings.clone())
    }

    fn load(&mut self, key: u64, count: u64, values: &[u8], value_bytes: usize) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in (key..key + count).zip(values.chunks(value_bytes)) {
            batch.insert(&self.keyspace, key.to_be_bytes(), value);
        }
        Ok(batch.commit()?)
    }

    fn settle(&mut self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        while self.db.active_compactions() > 0 || self.db.outstanding_flushes() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    fn update(&mut self, keys: &[u64]) -> Result<()> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.keyspace.get(key.to_be_bytes())?.ok_or("a key is missing")?.to_vec());
        }
        let mut batch = self.db.batch();
        for index in bump_all(keys, &mut values) {
            batch.insert(&self.keyspace, keys[index].to_be_bytes(), values[index].as_slice());
        }
        Ok(batch.commit()?)
    }

    fn checkpoint(&mut self, _dir: &Path) -> Result<u64> {
        self.db.persist(PersistMode::SyncAll)?;
        let (_, written) = process::io_bytes()?;
        Ok(written - std::mem::replace(&mut self.written_before, written))
    }
}
