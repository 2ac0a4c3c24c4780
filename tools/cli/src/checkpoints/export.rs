//! `thalweg checkpoints export`: JSON lines, each with the operator's uid and the state's name, or with the edge that a record
//! in flight lay on.

use crate::{Error, Outcome};
use std::io::Write;
use std::path::Path;
use thalweg_storage::checkpoint::read_payload;
use thalweg_storage::codec::{Json, take_json, to_json};
use thalweg_storage::inspect::{self, KeyedStates, Snapshot, StateShape};
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::{ChannelOrigin, OperatorState};

pub fn run(
    disk: &DiskHandle,
    dir: &Path,
    operator: Option<&str>,
    state: Option<&str>,
    out: &mut dyn Write,
) -> Result<Outcome, Error> {
    let snapshot = inspect::open(disk, dir)?;
    let operators = &snapshot.manifest.operators;
    if let Some(uid) = operator.filter(|uid| !operators.iter().any(|operator| operator.uid == *uid)) {
        let uids: Vec<&str> = operators.iter().map(|operator| operator.uid.as_str()).collect();
        return Err(format!("there is no operator {uid:?} in it, but {}", uids.join(", ")).into());
    }
    let mut found = false;
    for of in operators.iter().filter(|of| operator.is_none_or(|uid| of.uid == uid)) {
        found |= operator_state(of, state, out)?;
        let wanted = |name: &str| state.is_none_or(|state| state == name);
        let keyed: Vec<_> = of.keyed.iter().filter(|meta| wanted(&meta.name)).collect();
        if keyed.is_empty() {
            continue;
        }
        found = true;
        let states = KeyedStates::open(disk, &snapshot, of)?;
        for meta in keyed {
            let kind = StateShape::of(&meta.key, &meta.value).as_str();
            let mut failed = None;
            states.read(meta, |entry| {
                let mut fields = vec![
                    ("operator".to_owned(), Json::from(of.uid.as_str())),
                    ("state".to_owned(), meta.name.as_str().into()),
                    ("kind".to_owned(), kind.into()),
                    ("group".to_owned(), entry.group.into()),
                ];
                fields.extend(entry.fields);
                if failed.is_none() {
                    failed = writeln!(out, "{}", Json::Object(fields)).err();
                }
                Ok(())
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
    }
    if operator.is_none() && state.is_none() {
        in_flight(disk, &snapshot, out)?;
    }
    match state {
        Some(state) if !found => {
            Err(format!("there is no state {state:?} in it; `thalweg checkpoints inspect` lists all").into())
        }
        _ => Ok(Outcome::Good),
    }
}

/// Prints the elements of operator state; true when there were any of that name.
fn operator_state(of: &OperatorState, state: Option<&str>, out: &mut dyn Write) -> Result<bool, Error> {
    let mut found = false;
    for subtask in &of.subtasks {
        for blob in subtask.operator_state.iter().filter(|blob| state.is_none_or(|state| blob.name == state))
        {
            found = true;
            let value = to_json(&blob.schema, &blob.bytes)
                .map_err(|error| format!("operator {:?}, state {:?}: {error}", of.uid, blob.name))?;
            let line = Json::object([
                ("operator", of.uid.as_str().into()),
                ("state", blob.name.as_str().into()),
                ("kind", "operator".into()),
                ("subtask", subtask.index.into()),
                ("value", value),
            ]);
            writeln!(out, "{line}")?;
        }
    }
    Ok(found)
}

/// Prints the records in flight of each channel, in their order.
fn in_flight(disk: &DiskHandle, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), Error> {
    for channel in &snapshot.manifest.channels {
        let edge = snapshot.manifest.edges.iter().find(|edge| edge.name == channel.edge);
        let edge =
            edge.ok_or_else(|| format!("edge {:?}: the manifest does not describe it", channel.edge))?;
        let bytes = read_payload(disk, &snapshot.root, &channel.data)?;
        let mut rest = bytes.as_slice();
        let origin = match channel.origin {
            ChannelOrigin::Consumer => "captured",
            ChannelOrigin::Producer => "held back",
        };
        for number in 0..channel.records {
            let value = take_json(&edge.record, &mut rest).map_err(|error| {
                let (producer, consumer) = (channel.producer, channel.consumer);
                format!("edge {:?}, {producer} to {consumer}, record {number}: {error}", edge.name)
            })?;
            let line = Json::object([
                ("edge", edge.name.as_str().into()),
                ("kind", "in-flight".into()),
                ("origin", origin.into()),
                ("producer", channel.producer.into()),
                ("consumer", channel.consumer.into()),
                ("value", value),
            ]);
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
