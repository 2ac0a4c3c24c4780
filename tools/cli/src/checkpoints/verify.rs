//! `thalweg checkpoints verify`.

use crate::{Error, Outcome, text};
use std::io::Write;
use std::path::Path;
use thalweg_storage::StoreError;
use thalweg_storage::codec::Json;
use thalweg_storage::inspect::{self, Problem};
use thalweg_storage::io::DiskHandle;

pub fn run(disk: &DiskHandle, dir: &Path, json: bool, out: &mut dyn Write) -> Result<Outcome, Error> {
    let snapshot = match inspect::open(disk, dir) {
        Ok(snapshot) => snapshot,
        // A damaged manifest is a finding like any other; the rest of the checkpoint cannot be known.
        Err(error @ (StoreError::Corrupt { .. } | StoreError::NewerFormat { .. })) if json => {
            let problem = Json::object([
                ("path", dir.to_string_lossy().as_ref().into()),
                ("error", error.to_string().into()),
            ]);
            writeln!(out, "{}", Json::object([("sound", false.into()), ("problems", vec![problem].into())]))?;
            return Ok(Outcome::Bad);
        }
        Err(error) => return Err(error.into()),
    };
    let report = inspect::verify(disk, &snapshot)?;
    let sound = report.problems.is_empty();
    if json {
        let problem = |problem: &Problem| {
            let offset = match problem.error {
                StoreError::Corrupt { offset, .. } => Json::from(offset),
                _ => Json::Null,
            };
            Json::object([
                ("path", problem.path.to_string_lossy().as_ref().into()),
                ("offset", offset),
                ("error", problem.error.to_string().into()),
            ])
        };
        let extra =
            report.extra.iter().map(|path| path.to_string_lossy().as_ref().into()).collect::<Vec<Json>>();
        let document = Json::object([
            ("sound", sound.into()),
            ("id", snapshot.manifest.checkpoint.0.into()),
            ("files", report.files.into()),
            ("bytes", report.bytes.into()),
            ("problems", report.problems.iter().map(problem).collect::<Vec<Json>>().into()),
            ("extra", extra.into()),
        ]);
        writeln!(out, "{document}")?;
    } else {
        for Problem { path, error } in &report.problems {
            writeln!(out, "damaged: {}\n         {error}", path.display())?;
        }
        for path in &report.extra {
            writeln!(out, "extra: {} (no manifest names it)", path.display())?;
        }
        let (kind, id) = (snapshot.kind(), snapshot.manifest.checkpoint);
        let read = format!("{}, {}", text::count(report.files as u64, "file"), text::bytes(report.bytes));
        match sound {
            true => writeln!(out, "{kind} {id} is sound: {read}, every byte checked")?,
            false => writeln!(
                out,
                "{kind} {id} is damaged: {} among {read}; start the job from another checkpoint or savepoint",
                text::count(report.problems.len() as u64, "finding")
            )?,
        }
    }
    Ok(if sound { Outcome::Good } else { Outcome::Bad })
}
