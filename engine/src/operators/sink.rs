//! A sink at one partition: writes, prepares at checkpoints, commits once they are complete.
//!
//! Always true:
//! - every checkpoint lists all output that is prepared up to it and not known to be committed, oldest first, whichever
//!   checkpoint it was prepared for, aborted ones included; the list is made when all of that is durable;
//! - nothing is committed before a checkpoint whose snapshot listed it has completed;
//! - the sink is done only when its input has ended and everything it prepared is committed.

use crate::clock::Nanos;
use crate::connector::{ConnectorContext, PreparedOutput, Sink, SinkWriter};
use crate::operator::{
    BindContext, ChainSnapshot, Ending, Failure, Flow, OperatorSnapshot, Site, Stage, StageControl,
};
use std::collections::VecDeque;
use std::sync::Arc;
use thalweg_storage::manifest::{Committable, OperatorStateMode, StateBlob};
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// Name under which a writer's state is stored.
const STATE_NAME: &str = "writer";

/// Stands for "all of it" where a job without checkpoints commits at its end.
const FINAL: CheckpointId = CheckpointId(u64::MAX);

/// The last stage of a chain that ends in a sink.
pub struct SinkStage<W: SinkWriter> {
    site: Site,
    attempt: AttemptId,
    writer: W,
    now: Nanos,
    has_room: bool,
    /// Prepared, and not handed to the writer's `commit`.
    prepared: VecDeque<Committable>,
    /// Handed to the writer's `commit`, and not known to be done.
    committing: Vec<Committable>,
    /// The newest completed checkpoint.
    completed: CheckpointId,
    input_ended: bool,
}

impl<W: SinkWriter> SinkStage<W> {
    /// Opens the sink's writer, which first commits what the restored checkpoint lists.
    ///
    /// # Errors
    /// The writer could not be opened.
    pub fn open<S>(sink: &S, uid: &Arc<str>, context: &mut BindContext) -> Result<Self, Failure>
    where
        S: Sink<Writer = W, Record = W::Record, State = W::State>,
    {
        let site = context.site(uid);
        let restore = context.take_restore(uid);
        let states = restore
            .operator_state
            .iter()
            .map(|blob| restored_state(&site, blob))
            .collect::<Result<Vec<_>, _>>()?;
        // The writer commits these first. Until it says that it has, each snapshot lists them.
        let committing = restore.committables.clone();
        crash_point!("sink.before_open");
        let connector = ConnectorContext {
            job: Arc::clone(&context.job),
            uid: Arc::clone(uid),
            subtask: context.partition,
            parallelism: context.parallelism,
            attempt: context.attempt,
            disk: context.disk.clone(),
            waker: Arc::clone(&context.waker),
        };
        let writer = site.call(|| sink.writer(connector, states, restore.committables))?;
        crash_point!("sink.after_open");
        Ok(SinkStage {
            site,
            attempt: context.attempt,
            writer,
            now: Nanos::default(),
            has_room: true,
            prepared: VecDeque::new(),
            committing,
            completed: CheckpointId(0),
            input_ended: false,
        })
    }

    fn prepare(&mut self, checkpoint: CheckpointId, end: bool) -> Result<Option<W::State>, Failure> {
        crash_point!("sink.before_prepare");
        let snapshot = self
            .site
            .blame(|| self.writer.prepare(checkpoint, end))
            .map_err(|e| self.site.user_failure(e))?;
        crash_point!("sink.after_prepare");
        for bytes in snapshot.committables {
            let subtask = self.site.partition;
            self.add_prepared(PreparedOutput { checkpoint, subtask, bytes });
        }
        Ok(snapshot.state)
    }

    fn add_prepared(&mut self, output: PreparedOutput) {
        let PreparedOutput { checkpoint, subtask, bytes } = output;
        let attempt = self.attempt;
        let behind = self.prepared.partition_point(|known| known.checkpoint <= checkpoint);
        self.prepared.insert(behind, Committable { checkpoint, subtask, attempt, bytes });
    }

    /// Whether everything that was prepared for `checkpoint` is durable; if so, all of it is known, too.
    fn is_prepared(&mut self, checkpoint: CheckpointId) -> Result<bool, Failure> {
        let prepared = self
            .site
            .blame(|| self.writer.prepared(checkpoint))
            .map_err(|error| self.site.user_failure(error))?;
        if prepared {
            let outputs = self.site.blame(|| self.writer.take_prepared());
            outputs.into_iter().for_each(|output| self.add_prepared(output));
        }
        Ok(prepared)
    }

    /// Hands over what the newest completed checkpoint lists, once the writer has done the batch before.
    fn commit_completed(&mut self) -> Result<(), Failure> {
        if !self.committing.is_empty() {
            if !self.writer.committed() {
                return Ok(());
            }
            self.committing.clear();
        }
        let count = self.prepared.iter().take_while(|c| c.checkpoint <= self.completed).count();
        if count > 0 {
            self.committing = self.prepared.drain(..count).collect();
            let batch = self.committing.clone();
            crash_point!("sink.before_commit");
            self.site.call(|| self.writer.commit(batch))?;
            crash_point!("sink.after_commit");
        }
        Ok(())
    }
}

fn restored_state<S: Data>(site: &Site, blob: &StateBlob) -> Result<S, Failure> {
    if blob.name != STATE_NAME || blob.schema != S::schema() {
        return Err(site.refusal(format!(
            "the checkpoint holds the state `{}` of another kind of sink: restore with the sink that wrote it, or give \
             this one a new uid",
            blob.name
        )));
    }
    S::decode(&mut blob.bytes.as_slice())
        .map_err(|e| site.refusal(format!("the sink's state in the checkpoint is not readable: {e}")))
}

impl<W: SinkWriter> StageControl for SinkStage<W> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        None
    }

    fn resume(&mut self) -> Result<Flow, Failure> {
        if !self.has_room {
            self.has_room = self.site.call(|| self.writer.poll(self.now))?;
        }
        Ok(if self.has_room { Flow::Continue } else { Flow::Blocked })
    }

    fn finish_record(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn tick(&mut self, now: Nanos) -> Result<(), Failure> {
        self.now = now;
        self.has_room = self.site.call(|| self.writer.poll(now))?;
        // A job without checkpoints commits at its end, as soon as that output is safe.
        let waits = self.completed == FINAL && !self.is_prepared(FINAL)?;
        if waits { Ok(()) } else { self.commit_completed() }
    }

    fn wake_at(&mut self) -> Option<Nanos> {
        self.writer.wake_at()
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        let state = self.prepare(snapshot.checkpoint, self.input_ended)?;
        let mut own = OperatorSnapshot::of(&self.site.uid);
        own.operator_state = state
            .iter()
            .map(|state| {
                let mut bytes = Vec::new();
                state.encode(&mut bytes);
                StateBlob {
                    name: STATE_NAME.to_owned(),
                    mode: OperatorStateMode::Split,
                    schema: W::State::schema(),
                    bytes,
                }
            })
            .collect();
        snapshot.operators.push(own);
        Ok(())
    }

    fn snapshot_durable(&mut self, checkpoint: CheckpointId) -> Result<bool, Failure> {
        let prepared = self.is_prepared(checkpoint)?;
        if prepared && broken!(CommitsBeforeManifest) {
            self.checkpoint_complete(checkpoint)?;
        }
        Ok(prepared)
    }

    fn list_committables(&mut self, checkpoint: CheckpointId, operators: &mut [OperatorSnapshot]) {
        let prepared = self.prepared.iter().take_while(|known| known.checkpoint <= checkpoint);
        let listed = self.committing.iter().chain(prepared).cloned();
        let listed =
            listed.filter(|known| known.checkpoint == checkpoint || !broken!(ListsOwnCommittablesOnly));
        if let Some(own) = operators.iter_mut().find(|operator| operator.uid == self.site.uid) {
            own.committables = listed.collect();
        }
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) -> Result<(), Failure> {
        self.completed = self.completed.max(checkpoint);
        self.commit_completed()
    }

    fn end_input(&mut self) -> Result<Flow, Failure> {
        self.input_ended = true;
        self.resume()
    }

    fn finish_input(&mut self) -> Result<(), Failure> {
        self.input_ended = true;
        Ok(())
    }

    fn ending(&mut self) -> Ending {
        let unprepared = self.writer.has_unprepared();
        if unprepared || !self.prepared.is_empty() {
            // Once everything is prepared for a completed checkpoint, what is left is under way.
            let under_way = !unprepared && self.prepared.iter().all(|c| c.checkpoint <= self.completed);
            if under_way { Ending::Committing } else { Ending::AwaitsCommit }
        } else if !self.committing.is_empty() {
            Ending::Committing
        } else {
            Ending::Done
        }
    }

    fn is_committed(&mut self) -> bool {
        self.prepared.is_empty() && self.committing.is_empty()
    }

    fn commit_final(&mut self) -> Result<(), Failure> {
        if self.completed != FINAL {
            self.prepare(FINAL, true)?;
            self.completed = FINAL;
        }
        Ok(())
    }
}

impl<W: SinkWriter> Stage<W::Record> for SinkStage<W> {
    #[inline(always)]
    fn process(&mut self, record: W::Record) -> Result<Flow, Failure> {
        match self.site.blame(|| self.writer.write(self.now, record)) {
            Ok(true) => Ok(Flow::Continue),
            Ok(false) => {
                self.has_room = false;
                Ok(Flow::Blocked)
            }
            Err(error) => Err(self.site.user_failure(error)),
        }
    }
}
