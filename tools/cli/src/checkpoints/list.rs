//! `thalweg checkpoints list`.

use crate::{Error, Outcome, text};
use std::io::Write;
use std::path::Path;
use thalweg_storage::codec::Json;
use thalweg_storage::inspect::{Found, Listed, list};
use thalweg_storage::io::DiskHandle;

pub fn run(disk: &DiskHandle, dir: &Path, json: bool, out: &mut dyn Write) -> Result<Outcome, Error> {
    let listed = list(disk, dir)?;
    if json {
        writeln!(out, "{}", Json::Array(listed.iter().map(as_json).collect()))?;
    } else if listed.is_empty() {
        writeln!(out, "no checkpoint or savepoint at or below {}", dir.display())?;
    } else {
        table(&listed, out)?;
    }
    let damaged = listed.iter().any(|listed| matches!(listed.found, Found::Damaged(_)));
    Ok(if damaged { Outcome::Bad } else { Outcome::Good })
}

fn table(listed: &[Listed], out: &mut dyn Write) -> Result<(), Error> {
    writeln!(
        out,
        "{:>6}  {:<10}  {:<20}  {:>11}  {:>5}  {:<10}  path",
        "id", "kind", "taken", "size", "files", "state"
    )?;
    for Listed { dir, found } in listed {
        let path = dir.display();
        match found {
            Found::Complete(snapshot) => writeln!(
                out,
                "{:>6}  {:<10}  {:<20}  {:>11}  {:>5}  {:<10}  {path}",
                snapshot.manifest.checkpoint.0,
                snapshot.kind(),
                text::time(snapshot.manifest.triggered_unix_ms),
                text::bytes(snapshot.bytes()),
                snapshot.files().len() + 1,
                "complete",
            )?,
            Found::Incomplete => writeln!(
                out,
                "{:>6}  {:<10}  {:<20}  {:>11}  {:>5}  {:<10}  {path}",
                "-", "-", "-", "-", "-", "incomplete"
            )?,
            Found::Damaged(error) => {
                writeln!(
                    out,
                    "{:>6}  {:<10}  {:<20}  {:>11}  {:>5}  {:<10}  {path}",
                    "-", "-", "-", "-", "-", "damaged"
                )?;
                writeln!(out, "        {error}")?;
            }
        }
    }
    Ok(())
}

fn as_json(Listed { dir, found }: &Listed) -> Json {
    let path = Json::from(dir.to_string_lossy().into_owned());
    match found {
        Found::Complete(snapshot) => Json::object([
            ("path", path),
            ("state", "complete".into()),
            ("id", snapshot.manifest.checkpoint.0.into()),
            ("kind", snapshot.kind().into()),
            ("job", snapshot.manifest.job.as_str().into()),
            ("triggered_unix_ms", snapshot.manifest.triggered_unix_ms.into()),
            ("bytes", snapshot.bytes().into()),
            ("files", (snapshot.files().len() + 1).into()),
        ]),
        Found::Incomplete => Json::object([("path", path), ("state", "incomplete".into())]),
        Found::Damaged(error) => {
            Json::object([("path", path), ("state", "damaged".into()), ("error", error.to_string().into())])
        }
    }
}
