//! Restores the keyed state of a deployment's tasks in parallel, and turns what goes wrong with a task into the failure of
//! its deployment.
//!
//! Always true: when the work returns every task has either been restored or has failed, and the failure that is
//! reported is that of the first such task, whatever the threads' order.

use crate::control::TaskId;
use crate::coordinator::DeployError;
use crate::operator::{Failure, Site};
use crate::task::Task;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use thalweg_storage::threads;

/// Restores the keyed state of all tasks, `most` at a time. Of several failures the first task's counts.
pub(super) fn restore_tasks(
    tasks: &mut [(usize, TaskId, Box<dyn Task>)],
    most: usize,
) -> Result<(), DeployError> {
    let count = tasks.len();
    let queue = Mutex::new(tasks.iter_mut().enumerate());
    let failures = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            // Taken in a statement of its own: the lock must not be held while a task restores.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, (_, _, task))) = next else { return };
            let (name, partition) = (task.name().to_owned(), task.partition());
            let restore = AssertUnwindSafe(|| task.restore().map_err(Box::new));
            if let Err(error) = guarded(&name, partition, restore) {
                failures.lock().unwrap_or_else(PoisonError::into_inner).insert(index, error);
            }
        }
    };
    // The workers wait for this: their cores are free.
    threads::on_all_cores(|| {
        std::thread::scope(|scope| {
            for _ in 1..most.min(count) {
                let restorer = std::thread::Builder::new().name("thalweg-restore".to_owned());
                // Where no thread is to be had, the others do its part.
                let _ = restorer.spawn_scoped(scope, work);
            }
            work();
        });
    });
    match failures.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Makes or restores a task; its failure, or a panic of user code, becomes the deployment's.
pub(super) fn guarded<R>(
    name: &str,
    partition: u32,
    step: AssertUnwindSafe<impl FnOnce() -> Result<R, Failure>>,
) -> Result<R, DeployError> {
    match catch_unwind(step) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(failure)) => Err(DeployError {
            message: format!("partition {partition}: {}", failure.message),
            fatal: failure.fatal,
            operator: Some(failure.operator),
        }),
        Err(panic) => {
            let operator = Site::take_blamed().map(|uid| uid.to_string());
            let message = format!("partition {partition}: panicked: {}", panic_message(&*panic));
            Err(DeployError { message, fatal: false, operator: operator.or(Some(name.to_owned())) })
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Nanos;
    use crate::control::{TaskCommand, TaskFailure};
    use crate::task::{Budget, Progress};
    use std::sync::{Arc, Barrier};

    /// A task that only restores.
    struct Restored {
        partition: u32,
        restore: Box<dyn FnMut() -> Result<(), TaskFailure> + Send>,
    }

    impl Task for Restored {
        fn name(&self) -> &str {
            "count"
        }
        fn partition(&self) -> u32 {
            self.partition
        }
        fn command(&mut self, _: TaskCommand) {}
        fn restore(&mut self) -> Result<(), TaskFailure> {
            (self.restore)()
        }
        fn poll(&mut self, _: Nanos, _: Budget) -> Result<Progress, TaskFailure> {
            Ok(Progress::Finished)
        }
        fn failure_of_panic(&self, message: String) -> TaskFailure {
            TaskFailure { operator: "count".into(), partition: self.partition, message, fatal: false }
        }
    }

    type Tasks = Vec<(usize, TaskId, Box<dyn Task>)>;

    fn tasks<R>(count: u32, restore: impl Fn(u32) -> R) -> Tasks
    where
        R: FnMut() -> Result<(), TaskFailure> + Send + 'static,
    {
        let task = |partition| Restored { partition, restore: Box::new(restore(partition)) };
        (0..count).map(|n| (0, TaskId(n), Box::new(task(n)) as Box<dyn Task>)).collect()
    }

    #[test]
    fn tasks_are_restored_at_the_same_time() {
        // Each waits for another one, which no single thread could give it.
        let pair = Arc::new(Barrier::new(2));
        let mut tasks = tasks(4, |_| {
            let pair = Arc::clone(&pair);
            move || {
                pair.wait();
                Ok(())
            }
        });
        restore_tasks(&mut tasks, 2).unwrap();
    }

    #[test]
    fn the_first_tasks_failure_counts_and_names_operator_and_partition() {
        for threads in [1, 2, 8] {
            let mut tasks = tasks(8, |partition| {
                move || match partition {
                    0..3 => Ok(()),
                    5 => panic!("boom"),
                    _ => Err(TaskFailure {
                        operator: "sums".into(),
                        partition,
                        message: format!("damaged in {partition}"),
                        fatal: true,
                    }),
                }
            });
            let error = restore_tasks(&mut tasks, threads).unwrap_err();
            assert_eq!(error.operator.as_deref(), Some("sums"));
            assert_eq!((error.message.as_str(), error.fatal), ("partition 3: damaged in 3", true));
        }
    }

    #[test]
    fn a_panic_fails_the_deployment_in_the_name_of_its_task() {
        let mut tasks = tasks(2, |_| || panic!("boom"));
        let error = restore_tasks(&mut tasks, 2).unwrap_err();
        assert_eq!(error.operator.as_deref(), Some("count"));
        assert_eq!((error.message.as_str(), error.fatal), ("partition 0: panicked: boom", false));
    }
}
