//! What has happened to a job over all of its runs: an append-only text file, synced line by line.
//!
//! | line            | meaning                                                     |
//! |-----------------|-------------------------------------------------------------|
//! | `input PATHS`   | what the job reads; the first line                          |
//! | `restored K`    | a run continued from checkpoint K                           |
//! | `complete`      | all input is counted and all output committed; nothing follows |
//!
//! Always true: a line counts only with its line feed, and a torn one is cut off before the next is written; a restore
//! is in the journal before it is printed.

use crate::Error;
use crate::input::Input;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// A job's journal.
pub struct Journal {
    file: File,
    input: Option<String>,
    restores: u64,
    complete: bool,
}

impl Journal {
    /// Opens the journal at `path`, creating an empty one where there is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let named = |error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(named)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(named)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(named)?;
        let mut journal = Journal { file, input: None, restores: 0, complete: false };
        for line in text[..whole].lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("input", paths) => journal.input = Some(paths.to_owned()),
                ("restored", _) => journal.restores += 1,
                ("complete", "") => journal.complete = true,
                _ => return Err(format!("{} holds a strange line: {line}", path.display()).into()),
            }
        }
        Ok(journal)
    }

    /// Notes what the job reads or, where that is noted already, checks that it is the same.
    pub fn expect_input(&mut self, input: &Input) -> Result<(), Error> {
        let paths = format!("{:?}", input.paths());
        match &self.input {
            Some(noted) if *noted == paths => Ok(()),
            Some(noted) => Err(format!(
                "the job in this directory reads {noted}, not {paths}: name the same files, or another --dir"
            )
            .into()),
            None => {
                self.append(&format!("input {paths}"))?;
                self.input = Some(paths);
                Ok(())
            }
        }
    }

    /// Notes that this run continues from a checkpoint.
    pub fn restored(&mut self, checkpoint: u64) -> std::io::Result<()> {
        self.append(&format!("restored {checkpoint}"))?;
        self.restores += 1;
        Ok(())
    }

    /// Notes that the job is complete.
    pub fn complete(&mut self) -> std::io::Result<()> {
        self.append("complete")?;
        self.complete = true;
        Ok(())
    }

    /// How often a run has continued from a checkpoint.
    pub fn restores(&self) -> u64 {
        self.restores
    }

    /// True when all input is counted and all output committed.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn append(&mut self, line: &str) -> std::io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_all()
    }
}
