//! Names and uids of operators.

use std::sync::Arc;

/// The name of an operator and its uid, under which its state is found again. The uid is the name unless given.
///
/// ```
/// use thalweg::dataflow::OperatorName;
/// let renamed = OperatorName::new("count per user").with_uid("count");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorName {
    name: String,
    uid: Option<String>,
}

impl OperatorName {
    /// A name that is its own uid.
    pub fn new(name: impl Into<String>) -> Self {
        OperatorName { name: name.into(), uid: None }
    }

    /// Keeps state under `uid`, so that the name may change.
    pub fn with_uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }

    pub(crate) fn uid(&self) -> Arc<str> {
        self.uid.as_deref().unwrap_or(&self.name).into()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl From<&str> for OperatorName {
    fn from(name: &str) -> Self {
        OperatorName::new(name)
    }
}

impl From<String> for OperatorName {
    fn from(name: String) -> Self {
        OperatorName::new(name)
    }
}
