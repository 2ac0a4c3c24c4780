//! RocksDB as Flink 2 sets it up with managed memory.
//!
//! | setting | value | from Flink's |
//! |---|---|---|
//! | predefined options | `SPINNING_DISK_OPTIMIZED`: levelled compaction with dynamic level sizes, 4 background threads, all files open, no fsync, no statistics | `PredefinedOptions`; what it recommends where it does not take `DEFAULT`, which has fewer threads; `FLASH_SSD_OPTIMIZED` is the same without dynamic level sizes, which RocksDB has by default since version 8.4 |
//! | memory | one LRU cache of (3 − w)/3 of it, a write buffer manager of 2w/3 of it that charges the cache; w = 0.5 | `RocksDBMemoryControllerUtils` |
//! | blocks | index and filter blocks in the cache, with high priority, pinned for level 0; 4 KiB; no bloom filter | `RocksDBResourceContainer` |
//! | compression | snappy | RocksDB's default, which Flink keeps |
//! | log | none, as every write says | `RocksDBResourceContainer::getWriteOptions` |
//!
//! Beyond Flink, which reads key by key and writes without batches: a batch's keys are read by one multi-get, and written back by
//! one write batch. Both are quicker. Short of Flink: the tenth of the cache that it keeps for index and filter blocks, for which the binding
//! has no setting.

use crate::spec::PeerSpec;
use crate::{Result, Store, bump_all};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, LruCacheOptions, Options,
    WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};
use std::collections::HashMap;
use std::path::Path;

/// Flink's `state.backend.rocksdb.memory.write-buffer-ratio`.
const WRITE_BUFFER_RATIO: f64 = 0.5;
/// Background threads of Flink's predefined options.
const BACKGROUND_JOBS: i32 = 4;

/// The column family that every database has; named, since only named ones can be read from by the batch.
const FAMILY: &str = "default";

/// A database with one column family.
pub struct RocksStore {
    db: DB,
    writes: WriteOptions,
    settings: String,
    /// Files of the last checkpoint, with their bytes.
    uploaded: HashMap<String, u64>,
}

impl RocksStore {
    /// Opens the database in `spec.dir`, or makes it.
    pub fn open(spec: &PeerSpec) -> Result<Self> {
        let memory = spec.memory_bytes as f64;
        let cache_bytes = ((3.0 - WRITE_BUFFER_RATIO) * memory / 3.0) as usize;
        let buffer_bytes = (2.0 * memory * WRITE_BUFFER_RATIO / 3.0) as usize;
        let mut cache_options = LruCacheOptions::default();
        cache_options.set_capacity(cache_bytes);
        cache_options.set_num_shard_bits(-1);
        let cache = Cache::new_lru_cache_opts(&cache_options);
        let buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(buffer_bytes, false, cache.clone());

        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(BACKGROUND_JOBS);
        options.set_use_fsync(false);
        options.set_max_open_files(-1);
        options.set_log_level(LogLevel::Header);
        options.set_stats_dump_period_sec(0);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(DBCompressionType::Snappy);
        options.set_write_buffer_manager(&buffers);
        options.set_block_based_table_factory(&blocks);
        options.set_use_direct_reads(spec.direct_io);
        options.set_use_direct_io_for_flush_and_compaction(spec.direct_io);
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        let settings = format!(
            "SPINNING_DISK_OPTIMIZED, cache {cache_bytes} B of which write buffers {buffer_bytes} B, no log, snappy, direct I/O {}",
            if spec.direct_io { "on" } else { "off" }
        );
        let db = DB::open_cf_with_opts(&options.clone(), &spec.dir, [(FAMILY, options)])?;
        Ok(RocksStore { db, writes, settings, uploaded: HashMap::new() })
    }
}

impl Store for RocksStore {
    fn describe(&self) -> (String, String) {
        ("rocksdb 0.25.0 (RocksDB 11.8.1)".to_owned(), self.settings.clone())
    }

    fn load(&mut self, key: u64, count: u64, values: &[u8], value_bytes: usize) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in (key..key + count).zip(values.chunks(value_bytes)) {
            batch.put(key.to_be_bytes(), value);
        }
        Ok(self.db.write_opt(batch, &self.writes)?)
    }

    fn settle(&mut self) -> Result<()> {
        self.db.flush()?;
        Ok(self.db.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn update(&mut self, keys: &[u64]) -> Result<()> {
        let encoded: Vec<[u8; 8]> = keys.iter().map(|key| key.to_be_bytes()).collect();
        let family = self.db.cf_handle(FAMILY).ok_or("no default column family")?;
        let found = self.db.batched_multi_get_cf(&family, encoded.iter().map(|key| &key[..]), false);
        let mut values = Vec::with_capacity(keys.len());
        for value in found {
            values.push(value?.ok_or("a key is missing")?.to_vec());
        }
        let mut batch = WriteBatch::default();
        for index in bump_all(keys, &mut values) {
            batch.put(encoded[index], &values[index]);
        }
        Ok(self.db.write_opt(batch, &self.writes)?)
    }

    /// As Flink's native incremental snapshot: flush, hard links to all files, upload of those that are new.
    fn checkpoint(&mut self, dir: &Path) -> Result<u64> {
        Checkpoint::new(&self.db)?.create_checkpoint(dir)?;
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
        }
        // Files of tables never change; the others are uploaded each time.
        let shared = |name: &str| name.ends_with(".sst") && self.uploaded.contains_key(name);
        let bytes = files.iter().filter(|(name, _)| !shared(name)).map(|(_, bytes)| bytes).sum();
        self.uploaded = files;
        Ok(bytes)
    }
}
