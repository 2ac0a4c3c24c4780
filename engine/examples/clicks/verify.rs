//! Compares the output with a single-threaded recount of the input.
//!
//! The output holds every running total, so it proves each step: a user's totals must be 1, 2, … n, each exactly once
//! and in order, with n clicks of that user in the input. All totals of a user lie in the files of one subtask, unless
//! the parallelism has changed on the way; then each subtask holds runs of them, and the runs must chain without a gap
//! or an overlap.

use crate::input::Input;
use crate::progress::{Bar, Reporter, count};
use crate::{Click, Error};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Differences that are described; the rest is only counted.
const DESCRIBED_MAX: usize = 10;
/// Rows between two updates of the progress.
const ROWS_PER_UPDATE: u64 = 8192;

/// How output and input compare.
#[derive(Default)]
pub struct Verdict {
    users: u64,
    clicks: u64,
    differences: u64,
    described: Vec<String>,
}

impl Verdict {
    /// True when every running total is there, exactly once and in order.
    pub fn is_exact(&self) -> bool {
        self.differences == 0
    }

    /// The verdict for people; `restores` is how often the job continued from a checkpoint.
    pub fn describe(&self, restores: u64) -> String {
        if self.is_exact() {
            return format!(
                "verified: {} users, {} clicks, {restores} restores",
                count(self.users),
                count(self.clicks)
            );
        }
        let first = self.described.join("\n  ");
        format!("NOT verified: {} differences, {restores} restores; the first:\n  {first}", self.differences)
    }

    fn differ(&mut self, describe: impl FnOnce() -> String) {
        self.differences += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(describe());
        }
    }
}

/// Consecutive totals of one user in one subtask's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    user: u64,
    first: u64,
    last: u64,
}

/// Recounts `input` and compares every row of the files in `output`.
pub fn verify(input: &Input, output: &Path, reporter: &Reporter) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    let expected = recount(input, reporter)?;
    verdict.users = expected.len() as u64;
    verdict.clicks = expected.values().sum();
    let mut runs = Vec::new();
    let mut bar = reporter.bar("comparing the output", verdict.clicks);
    for files in output_files(output, &mut verdict)?.values() {
        read_subtask(files, &mut runs, &mut verdict, &mut bar)?;
    }
    bar.finish();
    compare(&mut runs, expected, &mut verdict);
    Ok(verdict)
}

fn recount(input: &Input, reporter: &Reporter) -> Result<HashMap<u64, u64>, Error> {
    let mut expected = HashMap::new();
    let mut bar = reporter.bar("recounting the input", input.bytes());
    let mut lines = 0_u64;
    let read = |bytes| {
        lines += 1;
        if lines.is_multiple_of(ROWS_PER_UPDATE) {
            bar.set(bytes, "");
        }
    };
    input.for_each_line(read, |line| {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let click: Click = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if click.logged_in {
            *expected.entry(click.user).or_insert(0) += 1;
        }
        Ok(())
    })?;
    bar.finish();
    Ok(expected)
}

/// The output files of each subtask, in the order in which they were written.
fn output_files(
    output: &Path,
    verdict: &mut Verdict,
) -> Result<BTreeMap<String, BTreeMap<u64, PathBuf>>, Error> {
    let mut subtasks: BTreeMap<String, BTreeMap<u64, PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(output)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parts = name.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".csv"));
        match parts.and_then(|rest| rest.split_once('-')).map(|(task, n)| (task, n.parse::<u64>())) {
            Some((subtask, Ok(sequence))) => {
                subtasks.entry(subtask.to_owned()).or_default().insert(sequence, path);
            }
            _ => verdict.differ(|| format!("{name} is no finished output file")),
        }
    }
    Ok(subtasks)
}

/// Reads the files of one subtask, in order, into `runs`.
fn read_subtask(
    files: &BTreeMap<u64, PathBuf>,
    runs: &mut Vec<Run>,
    verdict: &mut Verdict,
    bar: &mut Bar,
) -> Result<(), Error> {
    let mut open: HashMap<u64, Run> = HashMap::new();
    let mut rows = runs.iter().map(|run| run.last - run.first + 1).sum::<u64>();
    for path in files.values() {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            let row = line.strip_suffix('\n').and_then(|row| row.split_once(','));
            match row.map(|(user, total)| (user.parse(), total.parse())) {
                Some((Ok(user), Ok(total))) => add_row(user, total, &mut open, runs, || {
                    verdict.differ(|| format!("{}: total {total} of user {user} again", path.display()));
                }),
                _ => verdict.differ(|| format!("{}: strange row {line:?}", path.display())),
            }
            line.clear();
            rows += 1;
            if rows.is_multiple_of(ROWS_PER_UPDATE) {
                bar.set(rows, "");
            }
        }
    }
    runs.extend(open.into_values());
    Ok(())
}

/// Adds one row to the runs of its subtask; `again` hears of totals that do not rise.
fn add_row(user: u64, total: u64, open: &mut HashMap<u64, Run>, runs: &mut Vec<Run>, again: impl FnOnce()) {
    let fresh = Run { user, first: total, last: total };
    match open.get_mut(&user) {
        None => {
            open.insert(user, fresh);
        }
        Some(run) if total == run.last + 1 => run.last = total,
        Some(run) if total > run.last => runs.push(std::mem::replace(run, fresh)),
        Some(_) => again(),
    }
}

/// Checks that the runs of each user chain from 1 to the expected number.
fn compare(runs: &mut [Run], mut expected: HashMap<u64, u64>, verdict: &mut Verdict) {
    runs.sort_unstable();
    for runs in runs.chunk_by(|a, b| a.user == b.user) {
        let user = runs[0].user;
        let mut last = 0;
        for run in runs {
            if run.first > last + 1 {
                verdict
                    .differ(|| format!("user {user}: totals {}..={} are missing", last + 1, run.first - 1));
            } else if run.first <= last {
                let again = run.last.min(last);
                verdict.differ(|| format!("user {user}: totals {}..={again} appear twice", run.first));
            }
            last = last.max(run.last);
        }
        let clicks = expected.remove(&user).unwrap_or(0);
        if last != clicks {
            verdict.differ(|| format!("user {user}: counted {last}, the input holds {clicks}"));
        }
    }
    let mut missing: Vec<_> = expected.into_iter().collect();
    missing.sort_unstable();
    for (user, clicks) in missing {
        verdict.differ(|| format!("user {user}: nothing counted, the input holds {clicks}"));
    }
}
