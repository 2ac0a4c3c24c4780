//! State into which values are folded: reducing state, whose result is one of them, and aggregating state, whose input,
//! accumulator and result may differ.

use super::{CurrentKey, StateSpec, StateTtlConfig, tables_of_states};
use std::marker::PhantomData;
use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::state::{AggregatingStates, ReducingStates};
use thalweg_storage::table::Backend;
use thalweg_storage::{Data, Key};

pub use thalweg_storage::state::Aggregate;

/// Describes one value per key into which others are folded.
///
/// ```
/// # use thalweg::connector::{CollectSink, VecSource};
/// # use thalweg::{Dataflow, operator::Collector};
/// use thalweg::state::{ReducingState, ReducingStateDescriptor};
/// # let flow = Dataflow::new("highest");
/// # let numbers = flow.source("numbers", VecSource::new(vec![1_u64, 2, 3, 4]));
/// let highest = numbers.key_by(|n| n % 2).process(
///     "highest",
///     ReducingStateDescriptor::new("highest", |highest: &mut u64, n| *highest = n.max(*highest)),
///     |_: &u64, n, mut highest: ReducingState<'_, u64, u64, _>, out: &mut Collector<Option<u64>>| {
///         highest.add(n);
///         out.collect(highest.get());
///         Ok(())
///     },
/// );
/// # highest.sink("sink", CollectSink::new());
/// ```
pub struct ReducingStateDescriptor<V, F> {
    name: String,
    ttl: Option<StateTtlConfig>,
    reduce: F,
    value: PhantomData<fn() -> V>,
}

impl<V, F: Clone> Clone for ReducingStateDescriptor<V, F> {
    fn clone(&self) -> Self {
        let reduce = self.reduce.clone();
        ReducingStateDescriptor { name: self.name.clone(), ttl: self.ttl, reduce, value: PhantomData }
    }
}

impl<V: Data, F: Fn(&mut V, V)> ReducingStateDescriptor<V, F> {
    /// A reducing state called `name`, unique within its operator; it is found again by that name. `reduce` folds a value
    /// into the present one.
    pub fn new(name: impl Into<String>, reduce: F) -> Self {
        ReducingStateDescriptor { name: name.into(), ttl: None, reduce, value: PhantomData }
    }

    /// Lets values expire; adding renews.
    pub fn enable_time_to_live(mut self, ttl: StateTtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The reduction of the current key. Survives a failure once a checkpoint that began later has completed.
pub struct ReducingState<'a, K: Key, V: Data, F> {
    states: &'a mut ReducingStates<K, V, F>,
    at: CurrentKey<'a, K>,
}

impl<K: Key, V: Data, F: Fn(&mut V, V)> ReducingState<'_, K, V, F> {
    /// Folds `value` in; the first one is the reduction.
    #[inline]
    pub fn add(&mut self, value: V) {
        self.states.add(self.at.now_ms, self.at.hash, self.at.key, value);
    }

    /// The reduction so far, or `None` if nothing was added.
    #[inline]
    pub fn get(&mut self) -> Option<V> {
        self.states.get(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.states.clear(self.at.hash, self.at.key);
    }
}

impl<K: Key, V: Data, F: Fn(&mut V, V) + Clone + Send + 'static> StateSpec<K>
    for ReducingStateDescriptor<V, F>
{
    type Tables = ReducingStates<K, V, F>;
    type View<'a> = ReducingState<'a, K, V, F>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        let (name, reduce) = (self.name.clone(), self.reduce.clone());
        match self.ttl {
            None => ReducingStates::new(backend, name, groups, range, reduce),
            Some(ttl) => ReducingStates::with_ttl(backend, name, groups, range, reduce, ttl.ttl()),
        }
    }
    fn view<'a>(states: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> ReducingState<'a, K, V, F> {
        ReducingState { states, at }
    }
}

/// Describes one accumulator per key, by an [`Aggregate`].
///
/// ```
/// # use thalweg::connector::{CollectSink, VecSource};
/// # use thalweg::{Dataflow, operator::Collector};
/// use thalweg::state::{Aggregate, AggregatingState, AggregatingStateDescriptor};
///
/// #[derive(Clone)]
/// struct Mean;
///
/// impl Aggregate for Mean {
///     type Input = u64;
///     type Accumulator = (u64, u64);
///     type Output = u64;
///     fn create(&self) -> (u64, u64) {
///         (0, 0)
///     }
///     fn add(&self, (sum, count): &mut (u64, u64), n: u64) {
///         *sum += n;
///         *count += 1;
///     }
///     fn result(&self, (sum, count): &(u64, u64)) -> u64 {
///         sum / count
///     }
///     fn merge(&self, (sum, count): &mut (u64, u64), other: (u64, u64)) {
///         *sum += other.0;
///         *count += other.1;
///     }
/// }
/// # let flow = Dataflow::new("means");
/// # let numbers = flow.source("numbers", VecSource::new(vec![1_u64, 2, 3, 4]));
///
/// let means = numbers.key_by(|n| n % 2).process(
///     "means",
///     AggregatingStateDescriptor::new("mean", Mean),
///     |_: &u64, n, mut mean: AggregatingState<'_, u64, Mean>, out: &mut Collector<Option<u64>>| {
///         mean.add(n);
///         out.collect(mean.get());
///         Ok(())
///     },
/// );
/// # means.sink("sink", CollectSink::new());
/// ```
#[derive(Clone)]
pub struct AggregatingStateDescriptor<A> {
    name: String,
    ttl: Option<StateTtlConfig>,
    aggregate: A,
}

impl<A: Aggregate> AggregatingStateDescriptor<A> {
    /// An aggregating state called `name`, unique within its operator; it is found again by that name.
    pub fn new(name: impl Into<String>, aggregate: A) -> Self {
        AggregatingStateDescriptor { name: name.into(), ttl: None, aggregate }
    }

    /// Lets accumulators expire; adding renews.
    pub fn enable_time_to_live(mut self, ttl: StateTtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The accumulator of the current key. Survives a failure once a checkpoint that began later has completed.
pub struct AggregatingState<'a, K: Key, A: Aggregate> {
    states: &'a mut AggregatingStates<K, A>,
    at: CurrentKey<'a, K>,
}

impl<K: Key, A: Aggregate> AggregatingState<'_, K, A> {
    /// Adds `input`.
    #[inline]
    pub fn add(&mut self, input: A::Input) {
        self.states.add(self.at.now_ms, self.at.hash, self.at.key, input);
    }

    /// The result so far, or `None` if nothing was added.
    #[inline]
    pub fn get(&mut self) -> Option<A::Output> {
        self.states.get(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.states.clear(self.at.hash, self.at.key);
    }
}

impl<K: Key, A: Aggregate + Clone> StateSpec<K> for AggregatingStateDescriptor<A> {
    type Tables = AggregatingStates<K, A>;
    type View<'a> = AggregatingState<'a, K, A>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        let (name, aggregate) = (self.name.clone(), self.aggregate.clone());
        match self.ttl {
            None => AggregatingStates::new(backend, name, groups, range, aggregate),
            Some(ttl) => AggregatingStates::with_ttl(backend, name, groups, range, aggregate, ttl.ttl()),
        }
    }
    fn view<'a>(states: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> AggregatingState<'a, K, A> {
        AggregatingState { states, at }
    }
}

tables_of_states!(ReducingStates<K: Key, V: Data, F: StaticReduce<V>>);
tables_of_states!(AggregatingStates<K: Key, A: Aggregate>);

/// What folds values, as a task owns it.
trait StaticReduce<V>: Fn(&mut V, V) + Send + 'static {}

impl<V, F: Fn(&mut V, V) + Send + 'static> StaticReduce<V> for F {}
