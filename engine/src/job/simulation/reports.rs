//! The way of reports from simulated tasks to the coordinator, on which a test may keep, repeat, reorder and forge them.
//!
//! Always true: without a filter, each report arrives once and in the order in which it was made.

use crate::control::{Report, ReportSink};
use std::sync::{Arc, Mutex, PoisonError};

type Filter = Box<dyn FnMut(Report) -> Vec<Report> + Send>;

/// Leads reports to the coordinator.
pub(super) struct ReportRoute {
    coordinator: Arc<dyn ReportSink>,
    filter: Mutex<Option<Filter>>,
}

impl ReportRoute {
    pub(super) fn new(coordinator: Arc<dyn ReportSink>) -> Self {
        ReportRoute { coordinator, filter: Mutex::default() }
    }

    pub(super) fn set_filter(&self, filter: Filter) {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
    }

    /// Past the filter.
    pub(super) fn deliver(&self, report: Report) {
        self.coordinator.report(report);
    }
}

impl ReportSink for ReportRoute {
    fn report(&self, mut report: Report) {
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(filter) = &mut *filter else { return self.deliver(report) };
        // It sees what the coordinator would.
        if let Report::Acknowledged(_, _, _, snapshot) = &mut report {
            snapshot.list_segments();
        }
        filter(report).into_iter().for_each(|report| self.deliver(report));
    }
}
