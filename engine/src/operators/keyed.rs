//! Keyed operators: user code, `reduce` and `sum` over the state of each record's key.
//!
//! Always true: `upcoming[next..]` are the hashes and keys of the records that will be processed next, in order.
//! They are computed for many records at once, so that the state of all of them is on its way from memory while the
//! first is processed.

use crate::clock::Clock;
use crate::connector::BoxError;
use crate::operator::{
    BindContext, ChainSnapshot, Collector, Failure, Flow, Link, OperatorSnapshot, Site, Stage, StageControl,
};
use crate::state::{CurrentKey, StateSpec, StateTables};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use thalweg_storage::table::{Backend, KeyedTable, StateTable};
use thalweg_storage::{Data, Key};

/// User code over keyed state.
pub struct KeyedProcess<K, E, S, F, U> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// Extracts a record's key.
    pub extract: E,
    /// The states.
    pub spec: S,
    /// The function.
    pub function: F,
    /// Key and output types.
    pub types: PhantomData<fn() -> (K, U)>,
}

/// A rolling reduction of the records of each key.
pub struct KeyedReduce<K, E, F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// Extracts a record's key.
    pub extract: E,
    /// Combines the reduction so far with a record.
    pub function: F,
    /// The key type.
    pub key: PhantomData<fn() -> K>,
}

/// A running total of a number per record, for each key.
pub struct KeyedSum<K, E, F, N> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// Extracts a record's key.
    pub extract: E,
    /// The number that a record adds.
    pub addend: F,
    /// Key and number types.
    pub types: PhantomData<fn() -> (K, N)>,
}

impl<K, E: Clone, S: Clone, F: Clone, U> Clone for KeyedProcess<K, E, S, F, U> {
    fn clone(&self) -> Self {
        KeyedProcess {
            uid: Arc::clone(&self.uid),
            extract: self.extract.clone(),
            spec: self.spec.clone(),
            function: self.function.clone(),
            types: PhantomData,
        }
    }
}

impl<K, E: Clone, F: Clone> Clone for KeyedReduce<K, E, F> {
    fn clone(&self) -> Self {
        KeyedReduce {
            uid: Arc::clone(&self.uid),
            extract: self.extract.clone(),
            function: self.function.clone(),
            key: PhantomData,
        }
    }
}

impl<K, E: Clone, F: Clone, N> Clone for KeyedSum<K, E, F, N> {
    fn clone(&self) -> Self {
        KeyedSum {
            uid: Arc::clone(&self.uid),
            extract: self.extract.clone(),
            addend: self.addend.clone(),
            types: PhantomData,
        }
    }
}

/// The keys of the records that come next.
pub(super) struct Upcoming<K> {
    keys: Vec<(u64, K)>,
    next: usize,
    /// Records that are announced at once, at most.
    window: usize,
}

impl<K: Key> Upcoming<K> {
    pub(super) fn new(backend: &Backend) -> Self {
        Upcoming { keys: Vec::new(), next: 0, window: backend.window() }
    }

    /// Announces the keys of `records`; returns for how many of them, from the first on, state is there once `tables` are
    /// ready.
    #[inline(always)]
    pub(super) fn prepare<T>(
        &mut self,
        records: &[T],
        mut extract: impl FnMut(&T) -> K,
        tables: &mut impl StateTables,
    ) -> usize {
        self.next = 0;
        self.keys.clear();
        self.keys.extend(records[..records.len().min(self.window)].iter().map(|record| {
            let key = extract(record);
            (key.key_hash(), key)
        }));
        let count = tables.announce(self.keys.iter().map(|(hash, _)| *hash));
        self.keys.truncate(count);
        count
    }

    /// Hash and key of the record that is processed now; `key` computes it where nothing was prepared.
    #[inline(always)]
    pub(super) fn take(&mut self, key: impl FnOnce() -> K) -> &(u64, K) {
        if self.next == self.keys.len() {
            self.keys.clear();
            self.next = 0;
            let key = key();
            self.keys.push((key.key_hash(), key));
        }
        let current = &self.keys[self.next];
        self.next += 1;
        current
    }
}

/// The state and surroundings that all keyed stages share.
pub(super) struct Keyed<K, E, S: StateTables, D> {
    pub(super) site: Site,
    pub(super) extract: E,
    pub(super) upcoming: Upcoming<K>,
    pub(super) tables: S,
    pub(super) clock: Arc<dyn Clock>,
    /// Processing time, as looked up since the poll before last.
    pub(super) now_ms: u64,
    pub(super) down: D,
}

impl<K: Key, E, S: StateTables, D: StageControl> Keyed<K, E, S, D> {
    pub(super) fn new(uid: &Arc<str>, extract: E, tables: S, context: &BindContext, down: D) -> Self {
        Keyed {
            site: context.site(uid),
            extract,
            upcoming: Upcoming::new(&context.backend),
            tables,
            clock: Arc::clone(&context.clock),
            now_ms: 0,
            down,
        }
    }

    pub(super) fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        self.tables.advance_time(self.clock.unix_ms());
        let mut own = OperatorSnapshot::of(&self.site.uid);
        own.keyed = (0..self.tables.count()).filter_map(|i| Some(self.tables.table(i)?.meta())).collect();
        snapshot.operators.push(own);
        self.down.snapshot(snapshot)
    }

    pub(super) fn ready(&mut self) -> Result<bool, Failure> {
        self.now_ms = self.clock.unix_ms();
        self.tables.ready().map_err(|error| self.site.failure(error))
    }

    pub(super) fn maintain(&mut self, rows: usize) -> Result<bool, Failure> {
        self.now_ms = self.clock.unix_ms();
        self.tables.advance_time(self.now_ms);
        let more = self.tables.maintain(rows).map_err(|error| self.site.failure(error))?;
        if more { Ok(true) } else { self.down.maintain(rows) }
    }

    pub(super) fn table_count(&mut self) -> usize {
        self.tables.count() + self.down.table_count()
    }

    pub(super) fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        let own = self.tables.count();
        if index < own { self.tables.table(index) } else { self.down.table(index - own) }
    }
}

/// A [`KeyedProcess`] at one partition.
pub struct KeyedProcessStage<K: Key, E, S: StateSpec<K>, F, U, D> {
    keyed: Keyed<K, E, S::Tables, D>,
    function: F,
    emitted: Collector<U>,
}

impl<T, K, E, S, F, U> Link<T> for KeyedProcess<K, E, S, F, U>
where
    T: 'static,
    K: Key,
    U: Send + 'static,
    E: FnMut(&T) -> K + Clone + Send + 'static,
    S: StateSpec<K>,
    F: FnMut(&K, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
{
    type Out = U;
    type Bound<D: Stage<U> + 'static> = KeyedProcessStage<K, E, S, F, U, D>;

    fn table_count(&self) -> usize {
        self.spec.count()
    }

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let tables = self.spec.tables(&context.backend, context.key_groups, context.group_range());
        Ok(KeyedProcessStage {
            keyed: Keyed::new(&self.uid, self.extract, tables, context, down),
            function: self.function,
            emitted: Collector::default(),
        })
    }
}

impl<K: Key, E: Send, S: StateSpec<K>, F: Send, U: Send, D: Stage<U>> StageControl
    for KeyedProcessStage<K, E, S, F, U, D>
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

impl<T, K, E, S, F, U, D> Stage<T> for KeyedProcessStage<K, E, S, F, U, D>
where
    K: Key,
    U: Send,
    E: FnMut(&T) -> K + Send,
    S: StateSpec<K>,
    F: FnMut(&K, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Send,
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
        let view = S::view(&mut keyed.tables, at);
        keyed
            .site
            .blame(|| (self.function)(key, record, view, &mut self.emitted))
            .map_err(|e| keyed.site.user_failure(e))?;
        self.emitted.drain(&mut keyed.down)
    }
}

/// A [`KeyedReduce`] at one partition.
pub struct KeyedReduceStage<T: Data, K: Key, E, F, D> {
    keyed: Keyed<K, E, KeyedTable<K, T>, D>,
    function: F,
}

impl<T, K, E, F> Link<T> for KeyedReduce<K, E, F>
where
    T: Data,
    K: Key,
    E: FnMut(&T) -> K + Clone + Send + 'static,
    F: FnMut(&T, T) -> T + Clone + Send + 'static,
{
    type Out = T;
    type Bound<D: Stage<T> + 'static> = KeyedReduceStage<T, K, E, F, D>;

    fn table_count(&self) -> usize {
        1
    }

    fn bind<D: Stage<T> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let tables =
            KeyedTable::new(&context.backend, "reduction", context.key_groups, context.group_range());
        Ok(KeyedReduceStage {
            keyed: Keyed::new(&self.uid, self.extract, tables, context, down),
            function: self.function,
        })
    }
}

/// A [`KeyedSum`] at one partition.
pub struct KeyedSumStage<K: Key, E, F, N: Data, D> {
    keyed: Keyed<K, E, KeyedTable<K, N>, D>,
    addend: F,
}

macro_rules! control_of_keyed {
    ($stage:ident < $($param:ident : $($bound:path)?),* ; $down:ident : $out:ty >) => {
        impl<$($param: Send $(+ $bound)?,)* $down: Stage<$out>> StageControl for $stage<$($param,)* $down> {
            fn down(&mut self) -> Option<&mut dyn StageControl> {
                Some(&mut self.keyed.down)
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
    };
}
control_of_keyed!(KeyedReduceStage<T: Data, K: Key, E:, F: ; D: T>);
control_of_keyed!(KeyedSumStage<K: Key, E:, F:, N: Data; D: (K, N)>);

impl<T, K, E, F, D> Stage<T> for KeyedReduceStage<T, K, E, F, D>
where
    T: Data,
    K: Key,
    E: FnMut(&T) -> K + Send,
    F: FnMut(&T, T) -> T + Send,
    D: Stage<T>,
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
        let function = &mut self.function;
        let record = Cell::new(Some(record));
        let reduced = keyed.site.blame(|| {
            keyed.tables.update(
                *hash,
                key,
                || record.take().expect("the first record of a key becomes its reduction"),
                |reduction| {
                    if let Some(record) = record.take() {
                        *reduction = function(reduction, record);
                    }
                    reduction.clone()
                },
            )
        });
        keyed.down.process(reduced)
    }
}

impl<T, K, E, F, N> Link<T> for KeyedSum<K, E, F, N>
where
    T: 'static,
    K: Key,
    E: FnMut(&T) -> K + Clone + Send + 'static,
    N: Data + Default + std::ops::AddAssign,
    F: FnMut(&T) -> N + Clone + Send + 'static,
{
    type Out = (K, N);
    type Bound<D: Stage<(K, N)> + 'static> = KeyedSumStage<K, E, F, N, D>;

    fn table_count(&self) -> usize {
        1
    }

    fn bind<D: Stage<(K, N)> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let tables = KeyedTable::new(&context.backend, "sum", context.key_groups, context.group_range());
        Ok(KeyedSumStage {
            keyed: Keyed::new(&self.uid, self.extract, tables, context, down),
            addend: self.addend,
        })
    }
}

impl<T, K, E, F, N, D> Stage<T> for KeyedSumStage<K, E, F, N, D>
where
    K: Key,
    E: FnMut(&T) -> K + Send,
    N: Data + Default + std::ops::AddAssign,
    F: FnMut(&T) -> N + Send,
    D: Stage<(K, N)>,
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
        let total = keyed.site.blame(|| {
            let addend = (self.addend)(&record);
            keyed.tables.update(*hash, key, N::default, |total| {
                *total += addend;
                total.clone()
            })
        });
        keyed.down.process((key.clone(), total))
    }
}
