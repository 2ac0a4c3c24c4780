//! Ids of transactions, as the outside system knows them: `<job>/<uid>/<subtask>/<attempt>/<run>/<sequence>`.
//!
//! Always true:
//! - no two transactions ever have the same id, be they of other jobs, operators, subtasks, attempts or checkpoints; not even
//!   those of a job that starts from scratch, because each writer draws a random `run`;
//! - whose transaction it is can be read from its id alone, at any parallelism.

use crate::connector::ConnectorContext;
use std::fmt::{self, Display};
use std::hash::{BuildHasher, RandomState};

/// Id of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    text: String,
    subtask: u32,
}

impl TransactionId {
    /// As a checkpoint holds it.
    pub(super) fn stored(text: String, subtask: u32) -> Self {
        TransactionId { text, subtask }
    }

    /// The id, as given to the outside system.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The subtask that began the transaction.
    pub fn subtask(&self) -> u32 {
        self.subtask
    }
}

impl Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What all transaction ids of one sink begin with.
#[derive(Clone, Debug)]
pub(super) struct Prefix(String);

impl Prefix {
    /// Of the sink `uid` of `job`.
    pub fn new(job: &str, uid: &str) -> Self {
        Prefix(format!("{}/{}/", escaped(job), escaped(uid)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an id; `None` when it is not of this sink.
    pub fn parse(&self, id: &str) -> Option<TransactionId> {
        let rest = id.strip_prefix(&self.0)?;
        let parts: Vec<_> = rest.split('/').collect();
        let [subtask, attempt, run, sequence] = parts[..] else { return None };
        let subtask = subtask.parse().ok()?;
        attempt.parse::<u64>().ok()?;
        u64::from_str_radix(run, 16).ok()?;
        sequence.parse::<u64>().ok()?;
        Some(TransactionId { text: id.to_owned(), subtask })
    }
}

/// `/` separates the parts of an id.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// Makes the ids of one writer.
#[derive(Debug)]
pub(super) struct TransactionIds {
    stem: String,
    subtask: u32,
    next: u64,
}

impl TransactionIds {
    pub fn new(prefix: &Prefix, context: &ConnectorContext) -> Self {
        // The only use of randomness: it is never compared, and no decision hangs on it.
        let run = RandomState::new().hash_one(context.attempt.0);
        let stem = format!("{}{}/{}/{run:016x}", prefix.as_str(), context.subtask, context.attempt);
        TransactionIds { stem, subtask: context.subtask, next: 0 }
    }

    pub fn next(&mut self) -> TransactionId {
        self.next += 1;
        TransactionId { text: format!("{}/{}", self.stem, self.next), subtask: self.subtask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::{TestDisk, context_on};
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_over_jobs_operators_subtasks_attempts_and_fresh_starts() {
        let disk = TestDisk::new();
        let mut seen = HashSet::new();
        for (job, uid) in [("a", "b/c"), ("a/b", "c"), ("a", "b%2Fc"), ("a%2Fb", "c"), ("a", "b")] {
            for (subtask, attempt) in [(0, 1), (0, 1), (1, 1), (0, 2), (11, 1), (1, 11)] {
                let prefix = Prefix::new(job, uid);
                let mut ids = TransactionIds::new(&prefix, &context_on(&disk, subtask, 20, attempt));
                for _ in 0..12 {
                    let id = ids.next();
                    assert_eq!(prefix.parse(id.as_str()), Some(id.clone()));
                    assert_eq!(id.subtask(), subtask);
                    assert!(seen.insert(id.as_str().to_owned()), "{id} came twice");
                }
            }
        }
        assert_eq!(seen.len(), 5 * 6 * 12);
    }

    #[test]
    fn ids_of_others_are_not_read() {
        let prefix = Prefix::new("job", "sink");
        for id in [
            "job/sink2/0/1/00/1",
            "job/sink/0/1/00",
            "job/sink/0/1/00/1/2",
            "job/sink/x/1/00/1",
            "other/sink/0/1/00/1",
            "",
        ] {
            assert_eq!(prefix.parse(id), None, "{id}");
        }
    }
}
