//! Two outside systems of files, each with the least that its kind of sink asks for.
//!
//! Always true: a file under its last name is complete and durable.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use thalweg::connector::{
    BoxError, CommitError, MarkerKey, TransactionId, TwoPhaseCommitSink, WriteAheadStore,
};

/// Account, number of its booking, balance after it.
pub type Row = (u64, u64, u64);

/// A system with transactions in two phases. A transaction is a file: in `open` until it is committed, then in `committed`.
#[derive(Clone)]
pub struct Ledger {
    open: PathBuf,
    committed: PathBuf,
}

impl Ledger {
    /// The ledger in `dir`.
    pub fn open(dir: &Path) -> io::Result<Ledger> {
        let ledger = Ledger { open: dir.join("open"), committed: dir.join("committed") };
        fs::create_dir_all(&ledger.open)?;
        fs::create_dir_all(&ledger.committed)?;
        Ok(ledger)
    }

    fn sync_dirs(&self) -> io::Result<()> {
        sync(&self.committed)?;
        sync(&self.open)
    }
}

impl TwoPhaseCommitSink for Ledger {
    type Record = Row;
    type Transaction = BufWriter<File>;
    type Committable = ();

    fn begin(&mut self, id: &TransactionId) -> Result<BufWriter<File>, BoxError> {
        Ok(BufWriter::new(File::create_new(self.open.join(file_name(id)))?))
    }

    fn write(&mut self, transaction: &mut BufWriter<File>, row: Row) -> Result<(), BoxError> {
        Ok(write_row(transaction, row)?)
    }

    fn pre_commit(&mut self, _: &TransactionId, transaction: BufWriter<File>) -> Result<(), BoxError> {
        transaction.into_inner()?.sync_all()?;
        Ok(sync(&self.open)?)
    }

    fn commit(&mut self, id: &TransactionId, (): &()) -> Result<(), CommitError> {
        let (from, to) = (self.open.join(file_name(id)), self.committed.join(file_name(id)));
        match fs::rename(from, &to) {
            Err(error) if error.kind() == ErrorKind::NotFound && !to.exists() => {
                return Err(CommitError::lost(format!("there is no transaction {id}")));
            }
            // Committed before, perhaps by a process that died before it was durable.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed.map_err(CommitError::retry)?,
        }
        self.sync_dirs().map_err(CommitError::retry)
    }

    fn abort(&mut self, id: &TransactionId, _: BufWriter<File>) -> Result<(), BoxError> {
        self.recover_and_abort(id)
    }

    fn list_prepared(&mut self, prefix: &str) -> Result<Vec<String>, BoxError> {
        let names = names(&self.open)?.into_iter().map(|name| name.replace('+', "/"));
        Ok(names.filter(|id| id.starts_with(prefix)).collect())
    }

    fn recover_and_abort(&mut self, id: &TransactionId) -> Result<(), BoxError> {
        match fs::remove_file(self.open.join(file_name(id))) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A transaction's id as the name of a file.
fn file_name(id: &TransactionId) -> String {
    id.as_str().replace('/', "+")
}

/// A system whose transactions end with their connection. One writes one file, whose name is the marker:
/// `<epoch>-<subtask>-<run>`.
#[derive(Clone)]
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// The archive in `dir`.
    pub fn open(dir: &Path) -> io::Result<Archive> {
        fs::create_dir_all(dir)?;
        Ok(Archive { dir: dir.to_owned() })
    }
}

impl WriteAheadStore for Archive {
    type Record = Row;

    fn last_epoch(&mut self, key: &MarkerKey) -> Result<Option<u64>, BoxError> {
        // A process may have died before it could make the names durable that are found here.
        sync(&self.dir)?;
        let of_key = format!("-{}-{:016x}", key.subtask, key.run);
        let names = names(&self.dir)?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(&of_key)?.parse().ok()).max())
    }

    fn write_epoch(&mut self, key: &MarkerKey, epoch: u64, rows: Vec<Row>) -> Result<(), CommitError> {
        let name = format!("{epoch:020}-{}-{:016x}", key.subtask, key.run);
        let unfinished = self.dir.join(format!("{name}.new"));
        let write = || {
            let mut file = BufWriter::new(File::create(&unfinished)?);
            rows.into_iter().try_for_each(|row| write_row(&mut file, row))?;
            file.into_inner()?.sync_all()?;
            fs::rename(&unfinished, self.dir.join(name))?;
            sync(&self.dir)
        };
        write().map_err(CommitError::retry)
    }
}

fn write_row(out: &mut impl Write, (account, number, balance): Row) -> io::Result<()> {
    writeln!(out, "{account},{number},{balance}")
}

/// Makes the names in a directory durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The names of all files in a directory.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    fs::read_dir(dir)?.map(|entry| entry.map(name)).collect()
}
