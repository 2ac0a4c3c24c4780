//! The click log: made by this example, or files that the user names.
//!
//! Always true: a made log's directory appears under its name only when all of it is written and synced; the same
//! numbers of clicks and users always give the same log.

use crate::Error;
use crate::progress::{Reporter, count};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const CLICKS_DEFAULT: u64 = 20_000_000;
const USERS_DEFAULT: u64 = 1_000_000;
/// Files of a made log.
const FILES: u64 = 4;
/// Lines between two updates of the progress.
const LINES_PER_UPDATE: u64 = 8192;
/// Name of the file that says how a log was made. Sources pass over names that begin with a dot.
const RECIPE: &str = ".recipe";

/// What the job reads.
pub struct Input {
    paths: Vec<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Input {
    /// Files that the user names.
    pub fn given(files: &[PathBuf]) -> Result<Self, Error> {
        let absolute = |file: &PathBuf| match file.canonicalize() {
            Ok(path) if path.is_file() => Ok(path),
            Ok(_) => Err(format!("{} is not a file", file.display())),
            Err(error) => Err(format!("{}: {error}", file.display())),
        };
        let files = files.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
        Input::of(files.clone(), files)
    }

    /// The log that was made in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let entries = std::fs::read_dir(dir).map_err(|error| {
            format!("there is no input in {}: {error}; run with --prepare", dir.display())
        })?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        files.retain(|file| file.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
        files.sort();
        // A checkpoint names its input, and may be restored from another working directory.
        Input::of(vec![dir.canonicalize()?], files)
    }

    /// The log in `dir`, made now unless it is there. Numbers that are given must be those that it was made with.
    pub fn prepare(
        dir: &Path,
        clicks: Option<u64>,
        users: Option<u64>,
        reporter: &Reporter,
    ) -> Result<Self, Error> {
        let users_made = users.unwrap_or(USERS_DEFAULT).max(1);
        // Few users click often and most seldom: it takes some clicks until many of them have been seen.
        let clicks_made = clicks.unwrap_or(CLICKS_DEFAULT.max(3 * users_made));
        let recipe = Recipe { clicks: clicks_made, users: users_made };
        if dir.exists() {
            let made = std::fs::read_to_string(dir.join(RECIPE))
                .map_err(|error| format!("{} was not made by this example: {error}", dir.display()))?;
            if made != recipe.to_string() && (clicks.is_some() || users.is_some()) {
                let dir = dir.display();
                return Err(
                    format!("{dir} holds {made}, not {recipe}: remove it, or name another --dir").into()
                );
            }
            return Input::open(dir);
        }
        let unfinished = dir.with_extension("unfinished");
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", unfinished.display()).into());
            }
            _ => {}
        }
        recipe.make(&unfinished, reporter).map_err(|error| format!("making the click log: {error}"))?;
        std::fs::rename(&unfinished, dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Input::open(dir)
    }

    fn of(paths: Vec<PathBuf>, files: Vec<PathBuf>) -> Result<Self, Error> {
        let mut bytes = 0;
        for file in &files {
            bytes += file.metadata()?.len();
        }
        Ok(Input { paths, files, bytes })
    }

    /// What sources are given: a directory, or files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Calls `each` with every line of every file; `read` hears of the bytes read so far.
    pub fn for_each_line(
        &self,
        mut read: impl FnMut(u64),
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), Error> {
        let mut bytes = 0;
        for file in &self.files {
            let compressed = file.extension().is_some_and(|extension| extension == "zst");
            let plain = BufReader::with_capacity(1 << 20, File::open(file)?);
            let mut reader: Box<dyn BufRead> = match compressed {
                true => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(plain)?)),
                false => Box::new(plain),
            };
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                bytes += line.len() as u64;
                each(&line).map_err(|error| format!("{}: {error}", file.display()))?;
                line.clear();
                read(bytes);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = std::env::current_dir().unwrap_or_default();
        let short = |path: &PathBuf| path.strip_prefix(&here).unwrap_or(path).display().to_string();
        let paths: Vec<_> = self.paths.iter().map(short).collect();
        let megabytes = self.bytes.div_ceil(1_000_000);
        write!(f, "{} ({} files, {} MB)", paths.join(" "), self.files.len(), count(megabytes))
    }
}

/// What a made log is made from.
struct Recipe {
    clicks: u64,
    users: u64,
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} clicks of {} users", self.clicks, self.users)
    }
}

impl Recipe {
    fn make(&self, dir: &Path, reporter: &Reporter) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(RECIPE), self.to_string())?;
        let made = AtomicU64::new(0);
        let mut bar = reporter.bar("making the click log", self.clicks);
        thread::scope(|scope| {
            let files: Vec<_> = (0..FILES)
                .map(|file| {
                    let range = self.clicks * file / FILES..self.clicks * (file + 1) / FILES;
                    let path = dir.join(format!("clicks-{file:02}.ndjson"));
                    let made = &made;
                    scope.spawn(move || self.write_file(&path, range, made))
                })
                .collect();
            while files.iter().any(|file| !file.is_finished()) {
                thread::sleep(Duration::from_millis(20));
                bar.set(made.load(Ordering::Relaxed), "");
            }
            let joined = |file: thread::ScopedJoinHandle<'_, io::Result<()>>| {
                file.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            };
            files.into_iter().try_for_each(joined)
        })?;
        bar.finish();
        File::open(dir)?.sync_all()
    }

    fn write_file(&self, path: &Path, clicks: std::ops::Range<u64>, made: &AtomicU64) -> io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let (mut user, mut page, mut time) = (itoa::Buffer::new(), itoa::Buffer::new(), itoa::Buffer::new());
        let log_users = ((self.users + 1) as f64).ln();
        for click in clicks {
            let random = mix(click);
            // Zipf's law with exponent 1: the logarithm of the rank is uniform.
            let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
            let rank = ((uniform * log_users).exp() as u64).clamp(1, self.users);
            let other = mix(random);
            let logged_in = if other.is_multiple_of(10) { "false" } else { "true" };
            for part in [
                "{\"user\":",
                user.format(rank),
                ",\"url\":\"/articles/",
                page.format((other >> 8) % 10_000),
                "\",\"ts\":",
                time.format(1_767_225_600_000 + click / 8),
                ",\"logged_in\":",
                logged_in,
                "}\n",
            ] {
                file.write_all(part.as_bytes())?;
            }
            if click % LINES_PER_UPDATE == 0 {
                made.fetch_add(LINES_PER_UPDATE, Ordering::Relaxed);
            }
        }
        file.into_inner()?.sync_all()
    }
}

/// SplitMix64: each number's random number depends on nothing else, so that files can be made side by side.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
