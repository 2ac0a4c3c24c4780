//! The runner's part about attempts: what they are restored from, and how their tasks get to the workers.
//!
//! Always true: what a user has named to start from becomes the job's newest checkpoint only once tasks could be made from it.

use super::Runner;
use crate::control::{TaskId, WorkerCommand};
use crate::coordinator::deploy::Deployment;
use crate::coordinator::event::{Deployed, Event};
use crate::coordinator::files::files_of;
use crate::task::Task;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use thalweg_storage::StoreError;
use thalweg_storage::manifest::Manifest;

type TasksOfWorker = Vec<(TaskId, Box<dyn Task>)>;

impl Runner {
    pub(super) fn deploy_next(&mut self) -> Event {
        match self.try_deploy() {
            Ok(deployed) => {
                let restored = deployed.restored.as_ref().map(|(id, _)| id.0);
                tracing::info!(job = self.job, attempt = deployed.attempt.0, restored, "the job runs");
                Event::Deployed(deployed)
            }
            Err(event) => event,
        }
    }

    fn try_deploy(&mut self) -> Result<Deployed, Event> {
        let refused = |error: StoreError| Event::DeployFailed {
            // Only an I/O error may be gone the next time; damage and mismatch are for people to decide on.
            fatal: !error.may_pass(),
            message: error.to_string(),
        };
        crash_point!("deploy.before_attempt");
        let manifest = match (&mut self.backend, &self.restore) {
            (Some(backend), restore) => {
                // What is taken over may be of a later attempt than any here, so it comes first.
                let taken_over = restore.as_ref().map(|r| backend.take_over(r.found.clone(), r.claim));
                let taken_over = taken_over.transpose().map_err(refused)?;
                self.attempt = backend.next_attempt().map_err(refused)?;
                match taken_over {
                    Some(manifest) => Some(manifest),
                    None => backend.latest().map_err(refused)?,
                }
            }
            (None, _) => {
                self.attempt = self.attempt.next();
                None
            }
        };
        crash_point!("deploy.after_manifest");
        let attempt = self.attempt;
        let resolved = manifest.clone().map(Manifest::resolved);
        let built = catch_unwind(AssertUnwindSafe(|| {
            self.deploy.deploy(attempt, resolved.as_ref(), Arc::clone(&self.reports))
        }));
        let built = match built {
            Ok(Ok(deployment)) => Ok(deployment),
            Ok(Err(error)) => Err(Event::DeployFailed {
                fatal: error.fatal,
                message: format!("{error}{}", stands_for(manifest.as_ref())),
            }),
            Err(panic) => Err(Event::DeployFailed { fatal: false, message: panic_message(&*panic) }),
        };
        let deployment = self.settle_restore(built, manifest.as_ref())?;

        crash_point!("deploy.after_build");
        let mut by_worker: BTreeMap<usize, TasksOfWorker> = BTreeMap::new();
        for (worker, id, task) in deployment.tasks {
            assert!(
                worker < self.workers.len(),
                "task {} is placed on worker {worker}, which does not exist",
                id.0
            );
            by_worker.entry(worker).or_default().push((id, task));
        }
        let deployed = Deployed {
            attempt,
            tasks: by_worker.values().flatten().map(|(id, _)| *id).collect(),
            workers: by_worker.keys().copied().collect(),
            restored: manifest.map(|m| {
                // Files of other directories are not this job's to keep or to delete.
                let own = m.origin.is_none().then(|| files_of(&m.operators, &m.channels));
                (m.checkpoint, own.unwrap_or_default())
            }),
            restored_records: deployment.restored_records,
        };
        self.operators = deployment.operators;
        self.edges = deployment.edges;
        for (worker, tasks) in by_worker {
            self.workers[worker].send(WorkerCommand::Deploy(attempt, tasks, Arc::clone(&self.reports)));
        }
        crash_point!("deploy.after_start");
        Ok(deployed)
    }

    /// Makes what the job starts from its newest checkpoint if the tasks could be built, so that any restart goes on
    /// from there; else leaves everything as it was.
    fn settle_restore(
        &mut self,
        built: Result<Deployment, Event>,
        manifest: Option<&Manifest>,
    ) -> Result<Deployment, Event> {
        let (Some(_), Some(backend), Some(manifest)) = (&self.restore, &mut self.backend, manifest) else {
            return built;
        };
        let core = &self.core;
        let in_use = |path: &str| core.in_use(path);
        let settled = built.and_then(|deployment| {
            crash_point!("take_over.before_publish");
            // Older checkpoints stay until one of this run completes.
            let published = backend.publish(manifest, usize::MAX, &in_use).map_err(|error| {
                Event::DeployFailed { fatal: !error.may_pass(), message: error.to_string() }
            });
            crash_point!("take_over.after_publish");
            published.map(|_| deployment)
        });
        match &settled {
            Ok(_) => self.restore = None,
            Err(_) => {
                if let Err(error) = backend.discard(manifest.checkpoint, &[], &in_use) {
                    tracing::warn!(job = self.job, %error, "a checkpoint's empty directory remains");
                }
            }
        }
        settled
    }
}

/// Adds to an error where the state was to come from, if from elsewhere, and what to do.
fn stands_for(manifest: Option<&Manifest>) -> String {
    match manifest.and_then(|manifest| manifest.origin.as_ref()) {
        None => String::new(),
        Some(origin) => format!(
            "; this was to be restored from {}: if it has been moved or deleted, put it back, or start from another \
             savepoint or checkpoint",
            origin.dir
        ),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}
