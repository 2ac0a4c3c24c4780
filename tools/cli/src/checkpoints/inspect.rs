//! `thalweg checkpoints inspect`.

use crate::{Error, Outcome, text};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use thalweg_storage::codec::{Json, describe, to_json};
use thalweg_storage::inspect::{self, BlockBytes, KeyedStates, Snapshot, StateShape};
use thalweg_storage::io::DiskHandle;
use thalweg_storage::key_group::KeyGroup;
use thalweg_storage::manifest::{
    ChannelOrigin, Committable, KeyedStateMeta, OperatorState, OperatorStateMode, Payload, StateBlob,
};

/// Elements of an operator state that are shown of each subtask.
const ELEMENTS_SHOWN: usize = 5;
/// Bytes of a committable that are shown.
const COMMITTABLE_SHOWN: usize = 24;

/// The keyed states of an operator with their sizes.
type Sizes<'a> = Vec<(&'a KeyedStateMeta, BTreeMap<KeyGroup, BlockBytes>)>;

pub fn run(
    disk: &DiskHandle,
    dir: &Path,
    groups: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<Outcome, Error> {
    let snapshot = inspect::open(disk, dir)?;
    let mut sizes = Vec::new();
    for operator in &snapshot.manifest.operators {
        let states = KeyedStates::open(disk, &snapshot, operator)?;
        let of_operator: Sizes = operator.keyed.iter().map(|meta| (meta, states.sizes(&meta.name))).collect();
        sizes.push(of_operator);
    }
    if json {
        writeln!(out, "{}", as_json(&snapshot, &sizes))?;
        return Ok(Outcome::Good);
    }
    let manifest = &snapshot.manifest;
    writeln!(out, "{} {} of job {:?}", snapshot.kind(), manifest.checkpoint, manifest.job)?;
    writeln!(
        out,
        "  taken            {} by attempt {}",
        text::time(manifest.triggered_unix_ms),
        manifest.attempt
    )?;
    writeln!(out, "  max parallelism  {}", manifest.max_parallelism)?;
    writeln!(
        out,
        "  size             {} in {}",
        text::bytes(snapshot.bytes()),
        text::count(snapshot.files().len() as u64 + 1, "file")
    )?;
    writeln!(out, "  files below      {}", snapshot.root.display())?;
    for (operator, sizes) in manifest.operators.iter().zip(&sizes) {
        show_operator(operator, sizes, groups, out)?;
    }
    show_channels(&snapshot, out)?;
    Ok(Outcome::Good)
}

fn show_operator(
    operator: &OperatorState,
    sizes: &Sizes,
    groups: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let finished = operator.subtasks.iter().filter(|subtask| subtask.finished).count();
    let finished = if finished > 0 { format!(", {finished} finished") } else { String::new() };
    writeln!(out, "\noperator {:?}: parallelism {}{finished}", operator.uid, operator.parallelism)?;
    for (meta, groups_of) in sizes {
        let (rows, bytes) =
            groups_of.values().fold((0, 0), |(rows, bytes), size| (rows + size.rows, bytes + size.bytes));
        writeln!(
            out,
            "  keyed state {:?}: {}; {} of {} in {}",
            meta.name,
            type_of(meta),
            text::bytes(bytes),
            text::count(rows, "row"),
            text::count(groups_of.len() as u64, "key group"),
        )?;
        if groups {
            for (group, size) in groups_of {
                writeln!(
                    out,
                    "    group {group:>5}: {:>11}, {}",
                    text::bytes(size.bytes),
                    text::count(size.rows, "row")
                )?;
            }
        } else if let Some((group, largest)) =
            groups_of.iter().max_by_key(|(_, size)| size.bytes).filter(|_| groups_of.len() > 1)
        {
            writeln!(out, "    largest: group {group} with {}", text::bytes(largest.bytes))?;
        }
    }
    for subtask in &operator.subtasks {
        let mut names: Vec<&StateBlob> = Vec::new();
        for blob in &subtask.operator_state {
            if !names.iter().any(|seen| seen.name == blob.name) {
                names.push(blob);
            }
        }
        for first in names {
            let elements: Vec<&StateBlob> =
                subtask.operator_state.iter().filter(|blob| blob.name == first.name).collect();
            writeln!(
                out,
                "  subtask {}: operator state {:?} ({} of {}): {}",
                subtask.index,
                first.name,
                mode(first.mode),
                describe(&first.schema),
                text::count(elements.len() as u64, "element")
            )?;
            for element in elements.iter().take(ELEMENTS_SHOWN) {
                writeln!(out, "    {}", value_of(element))?;
            }
            if elements.len() > ELEMENTS_SHOWN {
                writeln!(
                    out,
                    "    and {} more: `thalweg checkpoints export` prints all",
                    elements.len() - ELEMENTS_SHOWN
                )?;
            }
        }
        for committable in &subtask.committables {
            writeln!(
                out,
                "  subtask {}: committable of checkpoint {}, prepared by subtask {} of attempt {}: {}, {}",
                subtask.index,
                committable.checkpoint,
                committable.subtask,
                committable.attempt,
                text::count(committable.bytes.len() as u64, "byte"),
                text::hex(&committable.bytes, COMMITTABLE_SHOWN)
            )?;
        }
    }
    Ok(())
}

fn show_channels(snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), Error> {
    let channels = &snapshot.manifest.channels;
    if channels.is_empty() {
        writeln!(out, "\nno data in flight")?;
        return Ok(());
    }
    let mut edges: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
    for channel in channels {
        let edge = edges.entry(&channel.edge).or_default();
        let bytes = payload_bytes(&channel.data);
        edge.0 += 1;
        edge.1 += bytes;
        match channel.origin {
            ChannelOrigin::Consumer => edge.2 += channel.records,
            ChannelOrigin::Producer => edge.3 += channel.records,
        }
    }
    writeln!(out, "\ndata in flight")?;
    for (edge, (channels, bytes, captured, held)) in edges {
        writeln!(
            out,
            "  {edge}: {} captured and {held} held back, {} in {}",
            text::count(captured, "record"),
            text::bytes(bytes),
            text::count(channels, "part"),
        )?;
    }
    Ok(())
}

/// A keyed state as the type that its user declared.
fn type_of(meta: &KeyedStateMeta) -> String {
    let shape = StateShape::of(&meta.key, &meta.value);
    let (key, parts, expires) = shape.types(&meta.key, &meta.value);
    let parts: Vec<String> = parts.into_iter().map(describe).collect();
    let kind = match shape {
        StateShape::Value => parts.join(", "),
        StateShape::List => format!("list of {}", parts.join(", ")),
        StateShape::Map => format!("map of {}", parts.join(" to ")),
        StateShape::Timer => "timers".to_owned(),
    };
    format!("{kind} by {}{}", describe(key), if expires { ", with time to live" } else { "" })
}

fn mode(mode: OperatorStateMode) -> &'static str {
    match mode {
        OperatorStateMode::Split => "split list",
        OperatorStateMode::Union => "union list",
        OperatorStateMode::Broadcast => "broadcast",
    }
}

fn value_of(blob: &StateBlob) -> Json {
    let unreadable = |error: thalweg_storage::DecodeError| {
        Json::object([
            ("unreadable", error.to_string().into()),
            ("hex", text::hex(&blob.bytes, 1 << 10).into()),
        ])
    };
    to_json(&blob.schema, &blob.bytes).unwrap_or_else(unreadable)
}

fn payload_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(bytes) => bytes.len() as u64,
        Payload::File { bytes, .. } => *bytes,
    }
}

fn as_json(snapshot: &Snapshot, sizes: &[Sizes]) -> Json {
    let manifest = &snapshot.manifest;
    let operators: Vec<Json> = manifest
        .operators
        .iter()
        .zip(sizes)
        .map(|(operator, sizes)| operator_json(operator, sizes))
        .collect();
    let channels: Vec<Json> = manifest
        .channels
        .iter()
        .map(|channel| {
            let origin = match channel.origin {
                ChannelOrigin::Consumer => "consumer",
                ChannelOrigin::Producer => "producer",
            };
            Json::object([
                ("edge", channel.edge.as_str().into()),
                ("producer", channel.producer.into()),
                ("consumer", channel.consumer.into()),
                ("origin", origin.into()),
                ("records", channel.records.into()),
                ("bytes", payload_bytes(&channel.data).into()),
            ])
        })
        .collect();
    Json::object([
        ("kind", snapshot.kind().into()),
        ("id", manifest.checkpoint.0.into()),
        ("job", manifest.job.as_str().into()),
        ("attempt", manifest.attempt.0.into()),
        ("triggered_unix_ms", manifest.triggered_unix_ms.into()),
        ("max_parallelism", manifest.max_parallelism.into()),
        ("bytes", snapshot.bytes().into()),
        ("files", (snapshot.files().len() + 1).into()),
        ("root", snapshot.root.to_string_lossy().as_ref().into()),
        ("operators", operators.into()),
        ("in_flight", channels.into()),
    ])
}

fn operator_json(operator: &OperatorState, sizes: &Sizes) -> Json {
    let keyed: Vec<Json> = sizes
        .iter()
        .map(|(meta, groups)| {
            let shape = StateShape::of(&meta.key, &meta.value);
            let (key, parts, expires) = shape.types(&meta.key, &meta.value);
            let groups = groups.iter().map(|(group, size)| {
                Json::object([
                    ("group", (*group).into()),
                    ("rows", size.rows.into()),
                    ("bytes", size.bytes.into()),
                ])
            });
            Json::object([
                ("name", meta.name.as_str().into()),
                ("kind", shape.as_str().into()),
                ("key_type", describe(key).into()),
                (
                    "value_types",
                    parts.into_iter().map(|part| describe(part).into()).collect::<Vec<Json>>().into(),
                ),
                ("time_to_live", expires.into()),
                ("groups", groups.collect::<Vec<Json>>().into()),
            ])
        })
        .collect();
    let subtasks: Vec<Json> = operator
        .subtasks
        .iter()
        .map(|subtask| {
            let state = |blob: &StateBlob| {
                Json::object([
                    ("name", blob.name.as_str().into()),
                    ("mode", mode(blob.mode).into()),
                    ("type", describe(&blob.schema).into()),
                    ("value", value_of(blob)),
                ])
            };
            let committable = |committable: &Committable| {
                Json::object([
                    ("checkpoint", committable.checkpoint.0.into()),
                    ("subtask", committable.subtask.into()),
                    ("attempt", committable.attempt.0.into()),
                    ("hex", text::hex(&committable.bytes, usize::MAX).into()),
                ])
            };
            Json::object([
                ("index", subtask.index.into()),
                ("finished", subtask.finished.into()),
                ("operator_state", subtask.operator_state.iter().map(state).collect::<Vec<Json>>().into()),
                ("committables", subtask.committables.iter().map(committable).collect::<Vec<Json>>().into()),
            ])
        })
        .collect();
    Json::object([
        ("uid", operator.uid.as_str().into()),
        ("parallelism", operator.parallelism.into()),
        ("keyed_states", keyed.into()),
        ("subtasks", subtasks.into()),
    ])
}
