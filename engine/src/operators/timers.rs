//! User code over keyed state with processing-time timers.
//!
//! Always true:
//! - timers are state: each fires once for all runs of the job that continue each other, as far as output is exactly once;
//! - they fire one at a time between two records, in the order of their times, and never while output waits for room;
//! - a snapshot holds exactly the timers that have not fired before it.

use super::keyed::Keyed;
use crate::clock::Nanos;
use crate::connector::BoxError;
use crate::operator::{
    BindContext, ChainSnapshot, Collector, Failure, Fired, Flow, Link, Stage, StageControl,
};
use crate::state::{CurrentKey, StateSpec, StateTables};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::Key;
use thalweg_storage::state::TimerQueue;
use thalweg_storage::table::StateTable;

/// Name of the state that holds the timers.
const TIMERS_STATE: &str = "processing-time-timers";

/// Timers that fire between two runs of records at most.
const TIMERS_MAX: usize = 256;

/// Timers stop firing for the sake of records after this long, in nanoseconds.
const TIMERS_NANOS: u64 = 100_000;

/// A task with timers looks at the wall clock this often at least, as that may be set forward.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What user code knows, and can do, besides using its state.
pub struct KeyedContext<'a, K: Key> {
    key: &'a K,
    now_ms: u64,
    timers: &'a mut TimerQueue<K, ()>,
}

impl<'a, K: Key> KeyedContext<'a, K> {
    /// The key of the record or timer.
    pub fn current_key(&self) -> &'a K {
        self.key
    }

    /// Registers and deletes the timers of the current key.
    pub fn timer_service(&mut self) -> TimerService<'_, K> {
        TimerService { key: self.key, now_ms: self.now_ms, timers: self.timers }
    }
}

/// The timers of the current key. Times are in milliseconds since 1970, by the engine's wall clock.
pub struct TimerService<'a, K: Key> {
    key: &'a K,
    now_ms: u64,
    timers: &'a mut TimerQueue<K, ()>,
}

impl<K: Key> TimerService<'_, K> {
    /// The processing time: accurate to about a poll of the task.
    pub fn current_processing_time(&self) -> i64 {
        to_time(self.now_ms)
    }

    /// Calls `on_timer` for this key once the processing time has reached `time`; at once if it has. Registered twice for a
    /// key and a time, it fires once.
    pub fn register_processing_time_timer(&mut self, time: i64) {
        self.timers.register(self.key, &(), time);
    }

    /// Deletes this key's timer of `time`, if there is one.
    pub fn delete_processing_time_timer(&mut self, time: i64) {
        self.timers.delete(self.key, &(), time);
    }
}

fn to_time(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

/// User code over keyed state with timers.
pub struct KeyedTimers<K, E, S, F, G, U> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// Extracts a record's key.
    pub extract: E,
    /// The states.
    pub spec: S,
    /// Processes a record.
    pub function: F,
    /// Is called for a timer that fires.
    pub on_timer: G,
    /// Key and output types.
    pub types: PhantomData<fn() -> (K, U)>,
}

impl<K, E: Clone, S: Clone, F: Clone, G: Clone, U> Clone for KeyedTimers<K, E, S, F, G, U> {
    fn clone(&self) -> Self {
        KeyedTimers {
            uid: Arc::clone(&self.uid),
            extract: self.extract.clone(),
            spec: self.spec.clone(),
            function: self.function.clone(),
            on_timer: self.on_timer.clone(),
            types: PhantomData,
        }
    }
}

/// The tables of an operator with timers: those of its states, then its timers.
struct WithTimers<S, K: Key> {
    states: S,
    timers: TimerQueue<K, ()>,
}

impl<S: StateTables, K: Key> StateTables for WithTimers<S, K> {
    fn count(&self) -> usize {
        self.states.count() + 1
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        let states = self.states.count();
        if index < states { self.states.table(index) } else { (index == states).then(|| self.timers.table()) }
    }
    #[inline(always)]
    fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.states.announce(hashes)
    }
    fn advance_time(&mut self, now_ms: u64) {
        self.states.advance_time(now_ms);
    }
}

/// A [`KeyedTimers`] at one partition.
pub struct KeyedTimersStage<K: Key, E, S: StateSpec<K>, F, G, U, D> {
    keyed: Keyed<K, E, WithTimers<S::Tables, K>, D>,
    function: F,
    on_timer: G,
    emitted: Collector<U>,
    /// State may have to be read before it can be used.
    reads: bool,
}

impl<T, K, E, S, F, G, U> Link<T> for KeyedTimers<K, E, S, F, G, U>
where
    T: 'static,
    K: Key,
    U: Send + 'static,
    E: FnMut(&T) -> K + Clone + Send + 'static,
    S: StateSpec<K>,
    F: FnMut(&mut KeyedContext<'_, K>, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError>
        + Clone
        + Send
        + 'static,
    G: FnMut(&mut KeyedContext<'_, K>, i64, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError>
        + Clone
        + Send
        + 'static,
{
    type Out = U;
    type Bound<D: Stage<U> + 'static> = KeyedTimersStage<K, E, S, F, G, U, D>;

    fn table_count(&self) -> usize {
        self.spec.count()
    }

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let (groups, range) = (context.key_groups, context.group_range());
        let tables = WithTimers {
            states: self.spec.tables(&context.backend, groups, range.clone()),
            timers: TimerQueue::new(TIMERS_STATE, groups, range),
        };
        Ok(KeyedTimersStage {
            keyed: Keyed::new(&self.uid, self.extract, tables, context, down),
            function: self.function,
            on_timer: self.on_timer,
            emitted: Collector::default(),
            reads: context.backend.reads_disk(),
        })
    }
}

impl<K, E, S, F, G, U, D> KeyedTimersStage<K, E, S, F, G, U, D>
where
    K: Key,
    S: StateSpec<K>,
    D: Stage<U>,
{
    /// Announces the keys of timers that are due at `time`; returns how many timers may fire once those are ready.
    fn announce_due(&mut self, time: i64) -> usize {
        let tables = &mut self.keyed.tables;
        if !self.reads {
            return TIMERS_MAX;
        }
        let due: Vec<_> = std::iter::from_fn(|| tables.timers.pop(time)).take(TIMERS_MAX).collect();
        // They are registered still: a snapshot may come before they fire.
        for timer in &due {
            tables.timers.register(&timer.key, &(), timer.time);
        }
        tables.states.announce(due.iter().map(|timer| timer.key.key_hash()))
    }
}

impl<K, E, S, F, G, U, D> StageControl for KeyedTimersStage<K, E, S, F, G, U, D>
where
    K: Key,
    E: Send,
    S: StateSpec<K>,
    F: Send,
    G: FnMut(&mut KeyedContext<'_, K>, i64, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
    U: Send,
    D: Stage<U>,
{
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.keyed.down)
    }
    fn resume(&mut self) -> Result<Flow, Failure> {
        if self.keyed.down.resume()? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.emitted.drain(&mut self.keyed.down)
    }
    fn finish_record(&mut self) -> Result<(), Failure> {
        self.emitted.finish(&mut self.keyed.down)
    }
    fn wake_at(&mut self) -> Option<Nanos> {
        let below = self.keyed.down.wake_at();
        let Some(time) = self.keyed.tables.timers.next_time() else { return below };
        let clock = &self.keyed.clock;
        // One that is due already waits for room or for its state, and is looked after when that comes.
        let left_ms = u64::try_from(time.saturating_sub(to_time(clock.unix_ms()))).unwrap_or(0).max(1);
        let due = clock.now().after(Duration::from_millis(left_ms).min(LOOK_INTERVAL));
        Some(below.map_or(due, |below| below.min(due)))
    }
    fn fire_timers(&mut self) -> Result<Fired, Failure> {
        let keyed = &mut self.keyed;
        keyed.now_ms = keyed.clock.unix_ms();
        let time = to_time(keyed.now_ms);
        if keyed.tables.timers.next_time().is_none_or(|next| next > time) {
            return Ok(Fired::None);
        }
        let announced = self.announce_due(time);
        if !self.keyed.ready()? {
            return Ok(Fired::Waiting);
        }
        let began = self.keyed.clock.now();
        let mut fired = 0;
        while fired < announced && self.keyed.clock.now().since(began).as_nanos() < u128::from(TIMERS_NANOS) {
            let keyed = &mut self.keyed;
            let Some(timer) = keyed.tables.timers.pop(time) else { break };
            fired += 1;
            let at = CurrentKey { key: &timer.key, hash: timer.key.key_hash(), now_ms: keyed.now_ms };
            let WithTimers { states, timers } = &mut keyed.tables;
            let mut context = KeyedContext { key: &timer.key, now_ms: keyed.now_ms, timers };
            keyed
                .site
                .blame(|| (self.on_timer)(&mut context, timer.time, S::view(states, at), &mut self.emitted))
                .map_err(|error| keyed.site.user_failure(error))?;
            if self.emitted.drain(&mut keyed.down)? == Flow::Blocked {
                return Ok(Fired::Blocked);
            }
        }
        Ok(Fired::Some)
    }
    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        self.keyed.snapshot(snapshot)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        self.keyed.ready()
    }
    fn maintain(&mut self, rows: usize) -> Result<bool, Failure> {
        self.keyed.maintain(rows)
    }
    fn table_count(&mut self) -> usize {
        self.keyed.table_count()
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        self.keyed.table(index)
    }
}

impl<T, K, E, S, F, G, U, D> Stage<T> for KeyedTimersStage<K, E, S, F, G, U, D>
where
    K: Key,
    U: Send,
    E: FnMut(&T) -> K + Send,
    S: StateSpec<K>,
    F: FnMut(&mut KeyedContext<'_, K>, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
    G: FnMut(&mut KeyedContext<'_, K>, i64, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
    D: Stage<U>,
{
    #[inline(always)]
    fn prepare(&mut self, records: &[T]) -> usize {
        let keyed = &mut self.keyed;
        keyed.site.blame(|| keyed.upcoming.prepare(records, &mut keyed.extract, &mut keyed.tables))
    }

    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        let keyed = &mut self.keyed;
        let (hash, key) = keyed.upcoming.take(|| (keyed.extract)(&record));
        let at = CurrentKey { key, hash: *hash, now_ms: keyed.now_ms };
        let WithTimers { states, timers } = &mut keyed.tables;
        let mut context = KeyedContext { key, now_ms: keyed.now_ms, timers };
        keyed
            .site
            .blame(|| (self.function)(&mut context, record, S::view(states, at), &mut self.emitted))
            .map_err(|e| keyed.site.user_failure(e))?;
        self.emitted.drain(&mut keyed.down)
    }
}
