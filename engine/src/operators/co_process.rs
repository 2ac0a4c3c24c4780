//! Two connected streams, processed by one operator: with operator state, or keyed.

use super::keyed::Upcoming;
use super::process::{RuntimeContext, restored_state, state_blobs};
use crate::clock::Clock;
use crate::connector::BoxError;
use crate::operator::{
    BindContext, ChainSnapshot, Collector, Failure, Flow, OperatorSnapshot, Site, Stage, StageControl,
    TwoStage,
};
use crate::state::{CurrentKey, StateSpec, StateTables};
use std::marker::PhantomData;
use std::sync::Arc;
use thalweg_storage::manifest::OperatorStateMode;
use thalweg_storage::table::StateTable;
use thalweg_storage::{CheckpointId, Data, Key};

/// User code that processes the records of two inputs, with operator state. Cloned for each partition and attempt.
pub trait CoProcessFunction<A, B>: Clone + Send + 'static {
    /// The records it emits.
    type Out: Send + 'static;
    /// One element of its operator state, a list; `()` for none.
    type State: Data;

    /// How the list is spread over the subtasks of a job that starts from a checkpoint, as
    /// [`STATE_MODE`](super::ProcessFunction::STATE_MODE) of other functions.
    const STATE_MODE: OperatorStateMode = OperatorStateMode::Split;

    /// Called before the first record, with the state of the checkpoint that is being restored.
    ///
    /// # Errors
    /// The attempt fails.
    fn open(&mut self, _context: &RuntimeContext, _restored: Vec<Self::State>) -> Result<(), BoxError> {
        Ok(())
    }

    /// Processes a record of the first input.
    ///
    /// # Errors
    /// The attempt fails.
    fn process_first(&mut self, record: A, out: &mut Collector<Self::Out>) -> Result<(), BoxError>;

    /// Processes a record of the second input.
    ///
    /// # Errors
    /// The attempt fails.
    fn process_second(&mut self, record: B, out: &mut Collector<Self::Out>) -> Result<(), BoxError>;

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

    /// Both inputs have ended; last records may be emitted.
    ///
    /// # Errors
    /// The attempt fails.
    fn close(&mut self, _out: &mut Collector<Self::Out>) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Makes the operator of two connected streams.
pub trait TwoLink<A: 'static, B: 'static>: Clone + Send + 'static {
    /// What comes out.
    type Out: 'static;
    /// The running operator on top of `D`.
    type Bound<D: Stage<Self::Out> + 'static>: TwoStage<A, B> + 'static;

    /// The operator's uid.
    fn uid(&self) -> &Arc<str>;

    /// Number of keyed state tables that it has, at each partition.
    fn table_count(&self) -> usize {
        0
    }

    /// Makes the running operator, with its state restored, on top of `down`.
    ///
    /// # Errors
    /// The operator could not be opened or restored.
    fn bind<D: Stage<Self::Out> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure>;
}

/// A [`CoProcessFunction`] in a job.
#[derive(Clone)]
pub struct CoProcess<P> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: P,
}

/// A [`CoProcessFunction`] at one partition.
pub struct CoProcessStage<A, B, P: CoProcessFunction<A, B>, D> {
    site: Site,
    function: P,
    emitted: Collector<P::Out>,
    closed: bool,
    down: D,
    inputs: PhantomData<fn(A, B)>,
}

impl<A: 'static, B: 'static, P: CoProcessFunction<A, B>> TwoLink<A, B> for CoProcess<P> {
    type Out = P::Out;
    type Bound<D: Stage<P::Out> + 'static> = CoProcessStage<A, B, P, D>;

    fn uid(&self) -> &Arc<str> {
        &self.uid
    }

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
        Ok(CoProcessStage {
            site,
            function: self.function,
            emitted: Collector::default(),
            closed: restore.finished,
            down,
            inputs: PhantomData,
        })
    }
}

impl<A, B, P: CoProcessFunction<A, B>, D> CoProcessStage<A, B, P, D> {
    /// Closes the function, once in all of the job's attempts that continue each other.
    fn close(&mut self) -> Result<(), Failure> {
        if !self.closed {
            self.closed = true;
            self.site.call(|| self.function.close(&mut self.emitted))?;
        }
        Ok(())
    }
}

impl<A: 'static, B: 'static, P: CoProcessFunction<A, B>, D: Stage<P::Out>> StageControl
    for CoProcessStage<A, B, P, D>
{
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

impl<A: 'static, B: 'static, P: CoProcessFunction<A, B>, D: Stage<P::Out>> TwoStage<A, B>
    for CoProcessStage<A, B, P, D>
{
    fn process_first(&mut self, record: A) -> Result<Flow, Failure> {
        self.site.call(|| self.function.process_first(record, &mut self.emitted))?;
        self.emitted.drain(&mut self.down)
    }
    fn process_second(&mut self, record: B) -> Result<Flow, Failure> {
        self.site.call(|| self.function.process_second(record, &mut self.emitted))?;
        self.emitted.drain(&mut self.down)
    }
}

/// User code over the keyed state that two connected keyed streams share.
pub struct KeyedCoProcess<K, EA, EB, S, FA, FB, U> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// Extracts the key of a record of the first input.
    pub extract_first: EA,
    /// Extracts the key of a record of the second input.
    pub extract_second: EB,
    /// The states.
    pub spec: S,
    /// Processes a record of the first input.
    pub first: FA,
    /// Processes a record of the second input.
    pub second: FB,
    /// Key and output types.
    pub types: PhantomData<fn() -> (K, U)>,
}

impl<K, EA: Clone, EB: Clone, S: Clone, FA: Clone, FB: Clone, U> Clone
    for KeyedCoProcess<K, EA, EB, S, FA, FB, U>
{
    fn clone(&self) -> Self {
        KeyedCoProcess {
            uid: Arc::clone(&self.uid),
            extract_first: self.extract_first.clone(),
            extract_second: self.extract_second.clone(),
            spec: self.spec.clone(),
            first: self.first.clone(),
            second: self.second.clone(),
            types: PhantomData,
        }
    }
}

/// A [`KeyedCoProcess`] at one partition.
pub struct KeyedCoProcessStage<K: Key, EA, EB, S: StateSpec<K>, FA, FB, U, D> {
    site: Site,
    extract_first: EA,
    extract_second: EB,
    upcoming: Upcoming<K>,
    tables: S::Tables,
    clock: Arc<dyn Clock>,
    /// Processing time, as looked up since the poll before last.
    now_ms: u64,
    first: FA,
    second: FB,
    emitted: Collector<U>,
    down: D,
}

impl<A, B, K, EA, EB, S, FA, FB, U> TwoLink<A, B> for KeyedCoProcess<K, EA, EB, S, FA, FB, U>
where
    A: 'static,
    B: 'static,
    K: Key,
    U: Send + 'static,
    S: StateSpec<K>,
    EA: FnMut(&A) -> K + Clone + Send + 'static,
    EB: FnMut(&B) -> K + Clone + Send + 'static,
    FA: FnMut(&K, A, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
    FB: FnMut(&K, B, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
{
    type Out = U;
    type Bound<D: Stage<U> + 'static> = KeyedCoProcessStage<K, EA, EB, S, FA, FB, U, D>;

    fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    fn table_count(&self) -> usize {
        self.spec.count()
    }

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        Ok(KeyedCoProcessStage {
            site: context.site(&self.uid),
            extract_first: self.extract_first,
            extract_second: self.extract_second,
            upcoming: Upcoming::new(&context.backend),
            clock: Arc::clone(&context.clock),
            now_ms: 0,
            tables: self.spec.tables(&context.backend, context.key_groups, context.group_range()),
            first: self.first,
            second: self.second,
            emitted: Collector::default(),
            down,
        })
    }
}

impl<K, EA, EB, S, FA, FB, U, D> StageControl for KeyedCoProcessStage<K, EA, EB, S, FA, FB, U, D>
where
    K: Key,
    EA: Send,
    EB: Send,
    S: StateSpec<K>,
    FA: Send,
    FB: Send,
    U: Send,
    D: Stage<U>,
{
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
        self.tables.advance_time(self.clock.unix_ms());
        let mut own = OperatorSnapshot::of(&self.site.uid);
        own.keyed = (0..self.tables.count()).filter_map(|i| Some(self.tables.table(i)?.meta())).collect();
        snapshot.operators.push(own);
        self.down.snapshot(snapshot)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        self.now_ms = self.clock.unix_ms();
        self.tables.ready().map_err(|error| self.site.failure(error))
    }
    fn maintain(&mut self, rows: usize) -> Result<bool, Failure> {
        self.now_ms = self.clock.unix_ms();
        self.tables.advance_time(self.now_ms);
        let more = self.tables.maintain(rows).map_err(|error| self.site.failure(error))?;
        if more { Ok(true) } else { self.down.maintain(rows) }
    }
    fn table_count(&mut self) -> usize {
        self.tables.count() + self.down.table_count()
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        let own = self.tables.count();
        if index < own { self.tables.table(index) } else { self.down.table(index - own) }
    }
}

impl<A, B, K, EA, EB, S, FA, FB, U, D> TwoStage<A, B> for KeyedCoProcessStage<K, EA, EB, S, FA, FB, U, D>
where
    K: Key,
    U: Send,
    S: StateSpec<K>,
    EA: FnMut(&A) -> K + Send,
    EB: FnMut(&B) -> K + Send,
    FA: FnMut(&K, A, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
    FB: FnMut(&K, B, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
    D: Stage<U>,
{
    fn prepare_first(&mut self, records: &[A]) -> usize {
        self.site.blame(|| self.upcoming.prepare(records, &mut self.extract_first, &mut self.tables))
    }
    fn prepare_second(&mut self, records: &[B]) -> usize {
        self.site.blame(|| self.upcoming.prepare(records, &mut self.extract_second, &mut self.tables))
    }
    fn process_first(&mut self, record: A) -> Result<Flow, Failure> {
        let (hash, key) = self.upcoming.take(|| (self.extract_first)(&record));
        let at = CurrentKey { key, hash: *hash, now_ms: self.now_ms };
        let view = S::view(&mut self.tables, at);
        self.site.call(|| (self.first)(key, record, view, &mut self.emitted))?;
        self.emitted.drain(&mut self.down)
    }
    fn process_second(&mut self, record: B) -> Result<Flow, Failure> {
        let (hash, key) = self.upcoming.take(|| (self.extract_second)(&record));
        let at = CurrentKey { key, hash: *hash, now_ms: self.now_ms };
        let view = S::view(&mut self.tables, at);
        self.site.call(|| (self.second)(key, record, view, &mut self.emitted))?;
        self.emitted.drain(&mut self.down)
    }
}
