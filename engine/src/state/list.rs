//! A list per key: its descriptor and the view of the current key's list.

use super::{CurrentKey, StateSpec, StateTtlConfig, tables_of_states};
use std::marker::PhantomData;
use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::state::ListStates;
use thalweg_storage::table::Backend;
use thalweg_storage::{Data, Key};

/// Describes a list of elements per key.
///
/// ```
/// # use thalweg::connector::{CollectSink, VecSource};
/// # use thalweg::{Dataflow, operator::Collector};
/// use thalweg::state::{ListState, ListStateDescriptor};
/// # let flow = Dataflow::new("pairs");
/// # let numbers = flow.source("numbers", VecSource::new(vec![1_u64, 2, 3, 4]));
/// let pairs = numbers.key_by(|n| n % 2).process(
///     "pairs",
///     ListStateDescriptor::<u64>::new("waiting"),
///     |_: &u64, n, mut waiting: ListState<'_, u64, u64>, out: &mut Collector<Vec<u64>>| {
///         waiting.add(n);
///         let pair = waiting.get();
///         if pair.len() == 2 {
///             waiting.clear();
///             out.collect(pair);
///         }
///         Ok(())
///     },
/// );
/// # pairs.sink("sink", CollectSink::new());
/// ```
pub struct ListStateDescriptor<E> {
    name: String,
    ttl: Option<StateTtlConfig>,
    element: PhantomData<fn() -> E>,
}

impl<E> Clone for ListStateDescriptor<E> {
    fn clone(&self) -> Self {
        ListStateDescriptor { name: self.name.clone(), ttl: self.ttl, element: PhantomData }
    }
}

impl<E: Data> ListStateDescriptor<E> {
    /// A list state called `name`, unique within its operator; it is found again by that name.
    pub fn new(name: impl Into<String>) -> Self {
        ListStateDescriptor { name: name.into(), ttl: None, element: PhantomData }
    }

    /// Lets elements expire, each on its own.
    pub fn enable_time_to_live(mut self, ttl: StateTtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The list of the current key. Survives a failure once a checkpoint that began later has completed.
///
/// A list without elements and no list are the same. Adding to a long list rewrites its last part only.
pub struct ListState<'a, K: Key, E: Data> {
    states: &'a mut ListStates<K, E>,
    at: CurrentKey<'a, K>,
}

impl<K: Key, E: Data> ListState<'_, K, E> {
    /// Appends an element.
    #[inline]
    pub fn add(&mut self, element: E) {
        self.states.add(self.at.now_ms, self.at.hash, self.at.key, element);
    }

    /// Appends elements, in their order.
    pub fn add_all(&mut self, elements: impl IntoIterator<Item = E>) {
        self.states.add_all(self.at.now_ms, self.at.hash, self.at.key, elements);
    }

    /// Replaces the list.
    pub fn update(&mut self, elements: impl IntoIterator<Item = E>) {
        self.states.update(self.at.now_ms, self.at.hash, self.at.key, elements);
    }

    /// The elements, in their order.
    pub fn get(&mut self) -> Vec<E> {
        self.states.get(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// Calls `visit` for each element, in their order.
    pub fn for_each(&mut self, visit: impl FnMut(&E)) {
        self.states.for_each(self.at.now_ms, self.at.hash, self.at.key, visit);
    }

    /// True without elements.
    pub fn is_empty(&mut self) -> bool {
        self.states.is_empty(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// Removes all elements.
    pub fn clear(&mut self) {
        self.states.clear(self.at.hash, self.at.key);
    }
}

impl<K: Key, E: Data> StateSpec<K> for ListStateDescriptor<E> {
    type Tables = ListStates<K, E>;
    type View<'a> = ListState<'a, K, E>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        let name = self.name.clone();
        match self.ttl {
            None => ListStates::new(backend, name, groups, range),
            Some(ttl) => ListStates::with_ttl(backend, name, groups, range, ttl.ttl()),
        }
    }
    fn view<'a>(states: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> ListState<'a, K, E> {
        ListState { states, at }
    }
}

tables_of_states!(ListStates<K: Key, E: Data>);
