//! Committing to an outside system: how a commit can fail, and when it is tried again.
//!
//! Always true: committables are committed in the order in which they were handed over, one at a time, and one that fails is
//! tried again before any later one is tried at all.
//!
//! The queue is pure: results and times in, the next committable and wake-up times out.

use super::{BoxError, OutputLost};
use crate::clock::Nanos;
use std::collections::VecDeque;
use std::time::Duration;
use thalweg_storage::manifest::Committable;

/// Why a commit did not succeed.
///
/// There is no variant for "committed already": a commit of what is committed succeeds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It may succeed later, or its outcome is unknown: a network that fails, a lock that is held. Tried again after a pause, and
    /// after the last retry the attempt fails: the restart commits again what the checkpoint lists.
    #[error("{0}")]
    Retry(BoxError),
    /// The outside system can never commit it: it has expired, or is gone. Output of a completed checkpoint is lost, so
    /// the job stops and says so.
    #[error("{0}")]
    Lost(BoxError),
}

impl CommitError {
    /// A [`CommitError::Retry`].
    pub fn retry(error: impl Into<BoxError>) -> Self {
        CommitError::Retry(error.into())
    }

    /// A [`CommitError::Lost`].
    pub fn lost(error: impl Into<BoxError>) -> Self {
        CommitError::Lost(error.into())
    }
}

/// How often and when a failed commit is tried again: pauses double from the first to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRetries {
    /// Retries of one commit before the attempt fails; 10 by default, as Flink's `sink.committer.retries`.
    pub count: u32,
    /// Pause before the first retry; 100 ms by default.
    pub pause: Duration,
    /// No pause is longer; 10 s by default.
    pub pause_max: Duration,
}

impl Default for CommitRetries {
    fn default() -> Self {
        CommitRetries { count: 10, pause: Duration::from_millis(100), pause_max: Duration::from_secs(10) }
    }
}

impl CommitRetries {
    /// Pause before retry `number`, the first being 0.
    fn pause_before(&self, number: u32) -> Duration {
        let factor = 1_u32.checked_shl(number).unwrap_or(u32::MAX);
        self.pause.saturating_mul(factor).min(self.pause_max)
    }
}

/// What waits to be committed, in order.
pub(super) struct CommitQueue {
    retries: CommitRetries,
    waiting: VecDeque<Committable>,
    under_way: bool,
    failures: u32,
    /// The first may not be tried again before this.
    due: Option<Nanos>,
}

impl CommitQueue {
    pub fn new(retries: CommitRetries) -> Self {
        CommitQueue { retries, waiting: VecDeque::new(), under_way: false, failures: 0, due: None }
    }

    pub fn add(&mut self, committables: Vec<Committable>) {
        self.waiting.extend(committables);
    }

    /// True when everything is committed.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The committable to be tried now, if there is one; from here on it is under way.
    pub fn begin(&mut self, now: Nanos) -> Option<Committable> {
        if self.under_way || self.due.is_some_and(|due| due > now) {
            return None;
        }
        let first = self.waiting.front()?.clone();
        self.under_way = true;
        self.due = None;
        Some(first)
    }

    /// The commit under way has ended.
    ///
    /// # Errors
    /// There are no retries left, or it can never succeed.
    pub fn end(&mut self, now: Nanos, result: Result<(), CommitError>) -> Result<(), BoxError> {
        self.under_way = false;
        let Some(first) = self.waiting.front() else { return Ok(()) };
        let (checkpoint, subtask) = (first.checkpoint, first.subtask);
        match result {
            Ok(()) => {
                self.waiting.pop_front();
                self.failures = 0;
                Ok(())
            }
            Err(CommitError::Lost(error)) => Err(OutputLost(format!(
                "output of checkpoint {checkpoint}, subtask {subtask}, can never be committed and is lost: {error}: the \
                 checkpoint still lists it; mend the outside system, or restore an older checkpoint"
            ))
            .into()),
            Err(CommitError::Retry(error)) if self.failures >= self.retries.count => Err(format!(
                "committing the output of checkpoint {checkpoint}, subtask {subtask}, failed {} times, at last with: \
                 {error}: nothing is lost, a restart commits it again",
                self.failures + 1
            )
            .into()),
            Err(CommitError::Retry(error)) => {
                let pause = self.retries.pause_before(self.failures);
                tracing::debug!(%checkpoint, subtask, %error, ?pause, "a commit failed and will be tried again");
                self.failures += 1;
                self.due = Some(now.after(pause));
                Ok(())
            }
        }
    }

    /// When [`CommitQueue::begin`] has something that it refuses now.
    pub fn wake_at(&self) -> Option<Nanos> {
        self.due.filter(|_| !self.under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_storage::{AttemptId, CheckpointId};

    fn queue(count: u32) -> CommitQueue {
        let millis = Duration::from_millis;
        let mut queue = CommitQueue::new(CommitRetries { count, pause: millis(10), pause_max: millis(35) });
        queue.add((1..=2).map(committable).collect());
        queue
    }

    fn committable(checkpoint: u64) -> Committable {
        let checkpoint = CheckpointId(checkpoint);
        Committable { checkpoint, subtask: 0, attempt: AttemptId(1), bytes: Vec::new() }
    }

    fn at(millis: u64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    #[test]
    fn a_failed_commit_is_tried_again_after_growing_pauses_before_any_later_one() {
        let mut queue = queue(4);
        let mut now = 0;
        for pause in [10, 20, 35, 35] {
            assert_eq!(queue.begin(at(now)).unwrap().checkpoint, CheckpointId(1));
            assert!(queue.begin(at(now)).is_none(), "one at a time");
            queue.end(at(now), Err(CommitError::retry("busy"))).unwrap();
            assert_eq!(queue.wake_at(), Some(at(now + pause)));
            assert!(queue.begin(at(now + pause - 1)).is_none());
            now += pause;
        }
        assert_eq!(queue.begin(at(now)).unwrap().checkpoint, CheckpointId(1));
        queue.end(at(now), Ok(())).unwrap();
        assert_eq!(queue.begin(at(now)).unwrap().checkpoint, CheckpointId(2));
        queue.end(at(now), Ok(())).unwrap();
        assert!(queue.is_empty() && queue.begin(at(now)).is_none() && queue.wake_at().is_none());
    }

    #[test]
    fn the_last_retry_fails_the_attempt_and_a_loss_stops_the_job() {
        let mut queue = queue(1);
        queue.begin(at(0)).unwrap();
        queue.end(at(0), Err(CommitError::retry("busy"))).unwrap();
        queue.begin(at(10)).unwrap();
        let error = queue.end(at(10), Err(CommitError::retry("still busy"))).unwrap_err();
        assert!(!error.is::<OutputLost>() && error.to_string().contains("2 times"), "{error}");
        queue.begin(at(10)).unwrap();
        let error = queue.end(at(10), Err(CommitError::lost("expired"))).unwrap_err();
        assert!(error.is::<OutputLost>() && error.to_string().contains("checkpoint 1"), "{error}");
        assert!(!queue.is_empty(), "it stays listed");
    }

    #[test]
    fn pauses_never_overflow() {
        let retries = CommitRetries::default();
        assert_eq!(retries.pause_before(0), retries.pause);
        assert_eq!(retries.pause_before(40), retries.pause_max);
    }
}
