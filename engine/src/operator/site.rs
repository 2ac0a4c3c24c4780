//! Where in the job something happens: names the operator and partition in every failure.

use crate::error::{BoxError, OutputLost, TaskFailure};
use std::cell::RefCell;
use std::fmt::Display;
use std::sync::Arc;

/// A task's failure, boxed so that the happy path of a record stays in registers.
pub type Failure = Box<TaskFailure>;

thread_local! {
    /// The operator whose user code is being unwound by a panic.
    static BLAMED: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// One operator at one partition.
#[derive(Clone, Debug)]
pub struct Site {
    /// Uid of the operator.
    pub uid: Arc<str>,
    /// The partition (subtask index).
    pub partition: u32,
}

impl Site {
    /// A failure of this operator; the job restarts by its strategy.
    #[cold]
    pub fn failure(&self, cause: impl Display) -> Failure {
        Box::new(TaskFailure {
            operator: self.uid.to_string(),
            partition: self.partition,
            message: cause.to_string(),
            fatal: false,
        })
    }

    /// A restore that would fail in the same way each time: the job must not restart, people have to decide.
    #[cold]
    pub fn refusal(&self, cause: impl Display) -> Failure {
        let mut failure = self.failure(cause);
        failure.fatal = true;
        failure
    }

    /// A failure of user code, with its chain of causes.
    #[cold]
    pub fn user_failure(&self, error: BoxError) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        let mut failure = self.failure(message);
        failure.fatal = error.is::<OutputLost>();
        failure
    }

    /// Runs user code; should it panic, the panic is put down to this operator. Costs nothing while it does not.
    #[inline(always)]
    pub fn blame<R>(&self, user_code: impl FnOnce() -> R) -> R {
        let guard = Blame(&self.uid);
        let result = user_code();
        std::mem::forget(guard);
        result
    }

    /// Runs user code that may fail: its error and its panic are this operator's.
    ///
    /// # Errors
    /// [`Site::user_failure`] of the code's error.
    #[inline(always)]
    pub fn call<R>(&self, user_code: impl FnOnce() -> Result<R, BoxError>) -> Result<R, Failure> {
        self.blame(user_code).map_err(|error| self.user_failure(error))
    }

    /// The operator that the panic just caught on this thread was put down to.
    pub fn take_blamed() -> Option<Arc<str>> {
        BLAMED.take()
    }
}

/// Dropped only by unwinding.
struct Blame<'a>(&'a Arc<str>);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        BLAMED.with_borrow_mut(|blamed| blamed.get_or_insert_with(|| Arc::clone(self.0)).clone());
    }
}
