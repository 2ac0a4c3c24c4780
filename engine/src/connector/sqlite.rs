//! A sink to SQLite: rows that appear exactly once, by way of a write-ahead log.
//!
//! A transaction of SQLite ends with its connection, so nothing can be prepared: the output waits in the checkpoint, and is written
//! together with its marker, which stands in the table `thalweg_markers` of the same database.
//!
//! Always true:
//! - rows and their marker appear in one transaction, synced before it counts as committed (`synchronous = FULL`);
//! - nothing here goes through the engine's disk: the database belongs to the outside world, and SQLite alone touches its files.

use super::{BoxError, CommitError, ConnectorContext, MarkerKey, WriteAheadStore};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, TransactionBehavior, params};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::Data;

/// A SQLite database, for a [`WriteAheadSink`](super::WriteAheadSink).
///
/// Each record is bound to the parameters of one statement, an `INSERT` or an upsert, say. All subtasks write to the same
/// database, one after another, for SQLite has one writer at a time.
///
/// ```
/// use thalweg::connector::{GeneratorSource, SqliteStore, WriteAheadSink};
/// use thalweg::{Dataflow, Engine};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("numbers.db");
/// let database = rusqlite::Connection::open(&path)?;
/// database.execute_batch("CREATE TABLE squares (n INTEGER PRIMARY KEY, square INTEGER)")?;
///
/// let squares = SqliteStore::new(&path, "INSERT INTO squares VALUES (?1, ?2)", |n: u64| (n as i64, (n * n) as i64));
/// let flow = Dataflow::new("squares");
/// flow.source("numbers", GeneratorSource::new(Some(100), |n| n)).sink("write", WriteAheadSink::new(squares));
/// Engine::builder().workers(1).pin(false).build()?.run(flow)?.wait()?;
///
/// let count: i64 = database.query_row("SELECT count(*) FROM squares WHERE square = n * n", [], |row| row.get(0))?;
/// assert_eq!(count, 100);
/// # Ok::<(), thalweg::connector::BoxError>(())
/// ```
pub struct SqliteStore<T, F> {
    path: PathBuf,
    statement: Arc<str>,
    bind: F,
    busy_timeout: Duration,
    connection: Option<Connection>,
    record: PhantomData<fn(T)>,
}

impl<T, F: Clone> Clone for SqliteStore<T, F> {
    /// The same database, not connected yet.
    fn clone(&self) -> Self {
        SqliteStore {
            path: self.path.clone(),
            statement: Arc::clone(&self.statement),
            bind: self.bind.clone(),
            busy_timeout: self.busy_timeout,
            connection: None,
            record: PhantomData,
        }
    }
}

impl<T, F> SqliteStore<T, F> {
    /// Runs `statement` once for each record, with the parameters that `bind` makes of it, on the database at `path`. The
    /// database is created if need be; the tables that the statement names must be there.
    pub fn new<P: Params>(path: impl Into<PathBuf>, statement: &str, bind: F) -> Self
    where
        F: Fn(T) -> P,
    {
        SqliteStore {
            path: path.into(),
            statement: statement.into(),
            bind,
            busy_timeout: Duration::from_secs(5),
            connection: None,
            record: PhantomData,
        }
    }

    /// How long a write waits while another connection writes, before it fails and is tried again; 5 s by default.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    fn connect(&self) -> Result<Connection, BoxError> {
        let connect = || {
            let connection = Connection::open(&self.path)?;
            connection.busy_timeout(self.busy_timeout)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS thalweg_markers (key TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID",
            )?;
            // A statement that does not fit the database is noticed before any record comes.
            connection.prepare(&self.statement)?;
            Ok(connection)
        };
        connect().map_err(|error: rusqlite::Error| {
            format!(
                "SQLite database {}: {error}: check the path, its permissions and tables",
                self.path.display()
            )
            .into()
        })
    }

    fn connection(&mut self) -> Result<&mut Connection, CommitError> {
        self.connection.as_mut().ok_or_else(|| CommitError::retry("the database was not opened"))
    }
}

impl<T, F, P> WriteAheadStore for SqliteStore<T, F>
where
    T: Data,
    P: Params,
    F: Fn(T) -> P + Clone + Send + 'static,
{
    type Record = T;

    fn check(&self) -> Result<(), BoxError> {
        self.connect().map(drop)
    }

    fn open(&mut self, _: &ConnectorContext) -> Result<(), BoxError> {
        self.connection = Some(self.connect()?);
        Ok(())
    }

    fn last_epoch(&mut self, key: &MarkerKey) -> Result<Option<u64>, BoxError> {
        let query = "SELECT epoch FROM thalweg_markers WHERE key = ?1";
        let found = self.connection()?.query_row(query, [key.to_string()], |row| row.get::<_, i64>(0));
        // SQLite's integers are signed; the bits are the same.
        Ok(found.optional()?.map(|epoch| epoch as u64))
    }

    fn write_epoch(&mut self, key: &MarkerKey, epoch: u64, records: Vec<T>) -> Result<(), CommitError> {
        let (statement, bind) = (Arc::clone(&self.statement), self.bind.clone());
        let connection = self.connection()?;
        let write = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached(&statement)?;
                for record in records {
                    insert.execute(bind(record))?;
                }
            }
            transaction.execute(
                "INSERT INTO thalweg_markers VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch",
                params![key.to_string(), epoch as i64],
            )?;
            transaction.commit()
        };
        write().map_err(|error: rusqlite::Error| match error.sqlite_error_code() {
            // These would come again each time.
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => CommitError::lost(error),
            _ => CommitError::retry(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::context;
    use crate::connector::{GeneratorSource, WriteAheadSink};
    use crate::{Dataflow, Engine, RestartStrategy};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tempfile::TempDir;

    fn database(dir: &TempDir) -> (PathBuf, Connection) {
        let path = dir.path().join("numbers.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE numbers (n INTEGER CHECK (n < 1000000))").unwrap();
        (path, connection)
    }

    fn numbers(connection: &Connection) -> Vec<u64> {
        let mut query = connection.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
        let rows = query.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        rows.map(|n| n.unwrap() as u64).collect()
    }

    fn store(path: &Path) -> SqliteStore<u64, impl Fn(u64) -> (i64,) + Clone + Send + 'static> {
        let mut store = SqliteStore::new(path, "INSERT INTO numbers VALUES (?1)", |n: u64| (n as i64,))
            .busy_timeout(Duration::ZERO);
        store.open(&context(0, 1)).unwrap();
        store
    }

    fn key(run: u64) -> MarkerKey {
        MarkerKey { job: "job".into(), uid: "sink".into(), subtask: 0, run }
    }

    #[test]
    fn rows_and_marker_appear_together_or_not_at_all() {
        let dir = TempDir::new().unwrap();
        let (path, reader) = database(&dir);
        let mut store = store(&path);
        assert_eq!(store.last_epoch(&key(1)).unwrap(), None);
        store.write_epoch(&key(1), 4, vec![1, 2]).unwrap();
        let refused = store.write_epoch(&key(1), 5, vec![3, 1_000_000]).unwrap_err();
        assert!(matches!(refused, CommitError::Lost(_)), "{refused}");
        assert_eq!((numbers(&reader), store.last_epoch(&key(1)).unwrap()), (vec![1, 2], Some(4)));
        store.write_epoch(&key(2), u64::MAX, vec![3]).unwrap();
        assert_eq!(store.last_epoch(&key(2)).unwrap(), Some(u64::MAX));
        assert_eq!((numbers(&reader), store.last_epoch(&key(1)).unwrap()), (vec![1, 2, 3], Some(4)));
    }

    #[test]
    fn a_database_that_is_being_written_is_tried_again() {
        let dir = TempDir::new().unwrap();
        let (path, other) = database(&dir);
        let mut store = store(&path);
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let busy = store.write_epoch(&key(1), 1, vec![1]).unwrap_err();
        assert!(matches!(busy, CommitError::Retry(_)), "{busy}");
        other.execute_batch("COMMIT").unwrap();
        store.write_epoch(&key(1), 1, vec![1]).unwrap();
        assert_eq!(numbers(&other), [1]);
    }

    #[test]
    fn a_statement_that_does_not_fit_the_database_is_refused_before_the_job_starts() {
        let dir = TempDir::new().unwrap();
        let (path, _) = database(&dir);
        let store = SqliteStore::new(&path, "INSERT INTO missing VALUES (?1)", |n: u64| (n as i64,));
        let error = store.check().unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("numbers.db"), "{error}");
    }

    #[test]
    fn a_job_that_fails_and_restarts_writes_each_row_once() {
        let dir = TempDir::new().unwrap();
        let (path, reader) = database(&dir);
        let insert = SqliteStore::new(&path, "INSERT INTO numbers VALUES (?1)", |n: u64| (n as i64,));
        let engine = Engine::builder()
            .workers(2)
            .parallelism(2)
            .pin(false)
            .checkpoint_dir(dir.path().join("checkpoints"))
            .checkpoint_interval(Duration::from_millis(10))
            .restart_strategy(RestartStrategy::FixedDelay { attempts: 5, delay: Duration::ZERO })
            .build()
            .unwrap();
        let flow = Dataflow::new("numbers");
        let tripped = Arc::new(AtomicBool::new(false));
        let trip = move |n: u64| {
            assert!(n != 1_500 || tripped.swap(true, Ordering::SeqCst), "boom");
            n
        };
        flow.source("numbers", GeneratorSource::new(Some(2_000), |n| n))
            .with_rate_limit(20_000.0)
            .map("trip", trip)
            .rebalance()
            .sink("write", WriteAheadSink::new(insert));
        let job = engine.run(flow).unwrap();
        job.wait().unwrap();
        assert_eq!(job.metrics().checkpoints.restarts, 1);
        assert_eq!(numbers(&reader), (0..2_000).collect::<Vec<_>>());
    }
}
