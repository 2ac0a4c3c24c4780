//! What `tools/crash-inject` asks of this job, by environment variables; its README tells the contract.
//!
//! | variable           | meaning                                                                     |
//! |--------------------|-----------------------------------------------------------------------------|
//! | `CRASH_INJECT_JOB`      | `run`: to the end of the input; `verify`: count what is wrong with the output |
//! | `CRASH_INJECT_DIR`  | the directory of everything                                                 |
//! | `CRASH_INJECT_SEED` | varies driver, mode and backend of this directory's runs                    |

use crate::input::Input;
use crate::journal::Journal;
use crate::progress::Reporter;
use crate::{Click, Error, Layout, Options, process};
use clap::Parser;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A click log so small that one life takes a fraction of a second, and checkpoints that come quickly.
const SMALL: [&str; 10] = [
    "clicks",
    "--no-progress",
    "--clicks=6000",
    "--users=3000",
    "--rate=20000",
    "--workers=2",
    "--parallelism=2",
    "--checkpoint-interval=8ms",
    "--state-memory=64kb",
    "--dir",
];

/// True where the environment asks for something.
pub fn is_asked() -> bool {
    std::env::var_os("CRASH_INJECT_JOB").is_some()
}

/// Does what the environment asks for.
pub fn serve() -> Result<ExitCode, Error> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let dir = PathBuf::from(variable("CRASH_INJECT_DIR")?);
    let seed: u64 = variable("CRASH_INJECT_SEED")?.parse()?;
    let driver = ["--driver=threads", "--driver=auto"][(seed % 2) as usize];
    let backend = ["--state-backend=hashmap", "--state-backend=log"][(seed / 2 % 2) as usize];
    let mode = ["--mode=unaligned", "--mode=unaligned", "--mode=aligned"][(seed / 4 % 3) as usize];
    let dir_option = dir.to_string_lossy().into_owned();
    let arguments = SMALL.into_iter().chain([dir_option.as_str(), driver, backend, mode]);
    let options = Options::try_parse_from(arguments)?;
    let (layout, reporter) = (Layout::new(&dir), Reporter::new(false));
    if variable("CRASH_INJECT_JOB")? == "verify" {
        println!("{}", audit(&Input::open(&layout.input)?, &layout.output)?);
        return Ok(ExitCode::SUCCESS);
    }
    let input = Input::prepare(&layout.input, options.clicks, options.users, &reporter)?;
    let mut journal = Journal::open(&layout.journal)?;
    journal.expect_input(&input)?;
    if !journal.is_complete() {
        process(&options, &layout, &input, &mut journal, &reporter)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts, as JSON, what is wrong with the running totals in `output`: of each user they should be 1, 2, … up to the number
/// of clicks, in the order of the files' names.
fn audit(input: &Input, output: &Path) -> Result<String, Error> {
    let mut expected: HashMap<u64, u64> = HashMap::new();
    input.for_each_line(
        |_| {},
        |line| {
            let click: Click = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            *expected.entry(click.user).or_default() += u64::from(click.logged_in);
            Ok(())
        },
    )?;
    let (mut lost, mut duplicated, mut out_of_order, mut corrupt) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(output)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("part-") || !name.ends_with(".csv") {
            corrupt += 1;
            continue;
        }
        for row in std::fs::read_to_string(&file)?.lines() {
            match row.split_once(',').map(|(user, total)| (user.parse(), total.parse())) {
                Some((Ok(user), Ok(total))) => found.entry(user).or_default().push(total),
                _ => corrupt += 1,
            }
        }
    }
    for (user, totals) in found {
        let clicks = expected.remove(&user).unwrap_or(0);
        let mut seen = vec![false; clicks as usize];
        let mut highest = 0;
        for total in totals {
            match (total as usize).checked_sub(1).and_then(|index| seen.get_mut(index)) {
                None => corrupt += 1,
                Some(true) => duplicated += 1,
                Some(seen) => {
                    *seen = true;
                    out_of_order += u64::from(total < highest);
                    highest = highest.max(total);
                }
            }
        }
        lost += seen.iter().filter(|seen| !**seen).count() as u64;
    }
    lost += expected.values().sum::<u64>();
    let counts = serde_json::json!({
        "lost": lost, "duplicated": duplicated, "out_of_order": out_of_order, "corrupt": corrupt,
    });
    Ok(counts.to_string())
}
