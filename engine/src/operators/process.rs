//! `process`: user code with a lifecycle and operator state.

use crate::connector::BoxError;
use crate::operator::{
    BindContext, ChainSnapshot, Collector, Failure, Flow, Link, OperatorSnapshot, Site, Stage, StageControl,
};
use std::sync::Arc;
use thalweg_storage::manifest::{OperatorStateMode, StateBlob};
use thalweg_storage::operator_state;
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// Name under which a function's operator state is stored.
const STATE_NAME: &str = "state";

/// What a function knows of its surroundings.
#[derive(Clone, Debug)]
pub struct RuntimeContext {
    /// Uid of the operator.
    pub uid: Arc<str>,
    /// Index of this subtask.
    pub subtask: u32,
    /// Number of subtasks.
    pub parallelism: u32,
    /// The execution attempt.
    pub attempt: AttemptId,
    /// The checkpoint that this attempt was restored from, if any.
    pub restored_from: Option<CheckpointId>,
}

impl RuntimeContext {
    pub(super) fn of(uid: &Arc<str>, context: &BindContext) -> Self {
        RuntimeContext {
            uid: Arc::clone(uid),
            subtask: context.partition,
            parallelism: context.parallelism,
            attempt: context.attempt,
            restored_from: context.restored_from,
        }
    }
}

/// User code that processes records of one input, with operator state. Cloned for each partition and attempt.
pub trait ProcessFunction<T>: Clone + Send + 'static {
    /// The records it emits.
    type Out: Send + 'static;
    /// One element of its operator state, a list; `()` for none.
    type State: Data;

    /// How the list is spread over the subtasks of a job that starts from a checkpoint (Flink's split list, union list and
    /// broadcast state). With a union list, no checkpoint completes while some of the operator's subtasks have finished and
    /// others have not.
    const STATE_MODE: OperatorStateMode = OperatorStateMode::Split;

    /// Called before the first record, with the state of the checkpoint that is being restored.
    ///
    /// # Errors
    /// The attempt fails.
    fn open(&mut self, _context: &RuntimeContext, _restored: Vec<Self::State>) -> Result<(), BoxError> {
        Ok(())
    }

    /// Processes a record.
    ///
    /// # Errors
    /// The attempt fails.
    fn process(&mut self, record: T, out: &mut Collector<Self::Out>) -> Result<(), BoxError>;

    /// Gives the state to store with `checkpoint`. Part of the pause: keep it short.
    ///
    /// # Errors
    /// The attempt fails.
    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Result<Vec<Self::State>, BoxError> {
        Ok(Vec::new())
    }

    /// `checkpoint` is complete.
    ///
    /// # Errors
    /// The attempt fails.
    fn checkpoint_complete(&mut self, _checkpoint: CheckpointId) -> Result<(), BoxError> {
        Ok(())
    }

    /// `checkpoint` has failed, whether its barrier has come or not; nothing will be restored from it.
    /// `latest_completed` is the latest complete one. Each checkpoint ends once: by this, or by
    /// [`checkpoint_complete`](Self::checkpoint_complete).
    ///
    /// # Errors
    /// The attempt fails.
    fn checkpoint_aborted(
        &mut self,
        _checkpoint: CheckpointId,
        _latest_completed: Option<CheckpointId>,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    /// All input has ended; last records may be emitted. Not called when the job fails or is cancelled.
    ///
    /// # Errors
    /// The attempt fails.
    fn close(&mut self, _out: &mut Collector<Self::Out>) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A [`ProcessFunction`] in a chain.
#[derive(Clone)]
pub struct Process<P> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: P,
}

/// A [`ProcessFunction`] at one partition.
pub struct ProcessStage<T, P: ProcessFunction<T>, D> {
    site: Site,
    function: P,
    emitted: Collector<P::Out>,
    closed: bool,
    down: D,
}

/// Encodes operator state for a snapshot.
pub(super) fn state_blobs<S: Data>(mode: OperatorStateMode, state: &[S]) -> Vec<StateBlob> {
    operator_state::encode(STATE_NAME, mode, state)
}

/// Decodes operator state of a snapshot; elements of an older version of their type are migrated.
pub(super) fn restored_state<S: Data>(
    site: &Site,
    mode: OperatorStateMode,
    blobs: &[StateBlob],
) -> Result<Vec<S>, Failure> {
    let decoded = operator_state::check_names(blobs, &[STATE_NAME]);
    let decoded = decoded.and_then(|()| operator_state::decode(STATE_NAME, mode, blobs));
    decoded.map_err(|error| site.refusal(format!("{error}, or give the operator a new uid")))
}

impl<T: 'static, P: ProcessFunction<T>> Link<T> for Process<P> {
    type Out = P::Out;
    type Bound<D: Stage<P::Out> + 'static> = ProcessStage<T, P, D>;

    fn bind<D: Stage<P::Out> + 'static>(
        mut self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let site = context.site(&self.uid);
        let restore = context.take_restore(&self.uid);
        let restored = restored_state(&site, P::STATE_MODE, &restore.operator_state)?;
        let runtime = RuntimeContext::of(&self.uid, context);
        site.call(|| self.function.open(&runtime, restored))?;
        Ok(ProcessStage {
            site,
            function: self.function,
            emitted: Collector::default(),
            closed: restore.finished,
            down,
        })
    }
}

impl<T, P: ProcessFunction<T>, D> ProcessStage<T, P, D> {
    /// Closes the function, once in all of the job's attempts that continue each other.
    fn close(&mut self) -> Result<(), Failure> {
        if !self.closed {
            self.closed = true;
            self.site.call(|| self.function.close(&mut self.emitted))?;
        }
        Ok(())
    }
}

impl<T: 'static, P: ProcessFunction<T>, D: Stage<P::Out>> StageControl for ProcessStage<T, P, D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.down)
    }

    fn resume(&mut self) -> Result<Flow, Failure> {
        if self.down.resume()? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.emitted.drain(&mut self.down)
    }

    fn finish_record(&mut self) -> Result<(), Failure> {
        self.emitted.finish(&mut self.down)
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        let state = self
            .site
            .blame(|| self.function.snapshot(snapshot.checkpoint))
            .map_err(|e| self.site.user_failure(e))?;
        let mut own = OperatorSnapshot::of(&self.site.uid);
        own.operator_state = state_blobs(P::STATE_MODE, &state);
        snapshot.operators.push(own);
        self.down.snapshot(snapshot)
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) -> Result<(), Failure> {
        self.site.call(|| self.function.checkpoint_complete(checkpoint))?;
        self.down.checkpoint_complete(checkpoint)
    }

    fn checkpoint_aborted(
        &mut self,
        checkpoint: CheckpointId,
        latest_completed: Option<CheckpointId>,
    ) -> Result<(), Failure> {
        self.site.call(|| self.function.checkpoint_aborted(checkpoint, latest_completed))?;
        self.down.checkpoint_aborted(checkpoint, latest_completed)
    }

    fn end_input(&mut self) -> Result<Flow, Failure> {
        self.close()?;
        if self.resume()? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.down.end_input()
    }

    fn finish_input(&mut self) -> Result<(), Failure> {
        self.close()?;
        self.finish_record()?;
        self.down.finish_input()
    }
}

impl<T: 'static, P: ProcessFunction<T>, D: Stage<P::Out>> Stage<T> for ProcessStage<T, P, D> {
    #[inline]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        self.site.call(|| self.function.process(record, &mut self.emitted))?;
        self.emitted.drain(&mut self.down)
    }
}
