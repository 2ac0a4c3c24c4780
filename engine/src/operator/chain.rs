//! How a chain is described before it runs, and how the description becomes one fused stage.

use super::{OperatorRestore, Site, Stage};
use crate::clock::Clock;
use std::collections::HashMap;
use std::sync::Arc;
use thalweg_storage::io::{DiskHandle, Notify};
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::table::Backend;
use thalweg_storage::{AttemptId, CheckpointId};

/// A description of one or more operators that take records of type `T`: pristine, and cloned for each partition and
/// attempt.
pub trait Link<T: 'static>: Clone + Send + 'static {
    /// What comes out.
    type Out: 'static;
    /// The running operators on top of `D`.
    type Bound<D: Stage<Self::Out> + 'static>: Stage<T> + 'static;

    /// Number of keyed state tables that they have, at each partition.
    fn table_count(&self) -> usize {
        0
    }

    /// Makes the running operators, with their state restored, on top of `down`.
    ///
    /// # Errors
    /// An operator could not be opened or restored.
    fn bind<D: Stage<Self::Out> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, super::Failure>;
}

/// The empty chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl<T: 'static> Link<T> for Identity {
    type Out = T;
    type Bound<D: Stage<T> + 'static> = D;

    fn bind<D: Stage<T> + 'static>(self, _: &mut BindContext, down: D) -> Result<D, super::Failure> {
        Ok(down)
    }
}

/// `A`, then `B`.
#[derive(Clone, Copy, Debug)]
pub struct Then<A, B>(pub A, pub B);

impl<T: 'static, A: Link<T>, B: Link<A::Out>> Link<T> for Then<A, B> {
    type Out = B::Out;
    type Bound<D: Stage<B::Out> + 'static> = A::Bound<B::Bound<D>>;

    fn table_count(&self) -> usize {
        self.0.table_count() + self.1.table_count()
    }

    fn bind<D: Stage<B::Out> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, super::Failure> {
        let down = self.1.bind(context, down)?;
        self.0.bind(context, down)
    }
}

/// What an operator finds when it is made for a partition.
pub struct BindContext {
    /// The job's name.
    pub job: Arc<str>,
    /// The partition (subtask index).
    pub partition: u32,
    /// Number of partitions.
    pub parallelism: u32,
    /// The execution attempt.
    pub attempt: AttemptId,
    /// The checkpoint that is being restored, if any.
    pub restored_from: Option<CheckpointId>,
    /// The job's key groups.
    pub key_groups: KeyGroups,
    /// What keyed state lives on, with this task's share of the memory for each table.
    pub backend: Backend,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// State to restore, by uid; operators take theirs.
    pub restore: HashMap<String, OperatorRestore>,
    /// The disk; completions wake this task's worker.
    pub disk: DiskHandle,
    /// Wakes this task's worker.
    pub waker: Arc<dyn Notify>,
}

impl BindContext {
    /// The site of operator `uid` in this task.
    pub fn site(&self, uid: &Arc<str>) -> Site {
        Site { uid: Arc::clone(uid), partition: self.partition }
    }

    /// The key groups of this partition.
    pub fn group_range(&self) -> std::ops::Range<KeyGroup> {
        self.key_groups.range_of(self.partition, self.parallelism)
    }

    /// Takes what is to be restored for `uid`.
    pub fn take_restore(&mut self, uid: &str) -> OperatorRestore {
        self.restore.remove(uid).unwrap_or_default()
    }

    /// Once the chain is made: the uid of an operator with state that nothing has taken, if there is one.
    pub(crate) fn unclaimed(&self) -> Option<&str> {
        let holds = |restore: &OperatorRestore| {
            !restore.operator_state.is_empty() || !restore.committables.is_empty()
        };
        self.restore.iter().find(|(_, restore)| holds(restore)).map(|(uid, _)| uid.as_str())
    }
}
