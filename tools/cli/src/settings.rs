//! `thalweg config`: the table of settings, and a configuration file checked before a job is started with it.

use crate::{Error, Outcome};
use clap::Subcommand;
use std::io::Write;
use std::path::PathBuf;
use thalweg::config::{Settings, reference};

#[derive(Subcommand)]
pub enum Command {
    /// Print all settings with their environment variables, values and defaults, in Markdown.
    Reference,
    /// Check a YAML or TOML file: unknown names, wrong values, contradictions.
    Check {
        /// The file.
        file: PathBuf,
    },
}

pub fn run(command: Command, out: &mut dyn Write) -> Result<Outcome, Error> {
    match command {
        Command::Reference => out.write_all(reference().as_bytes())?,
        Command::Check { file } => {
            let mut settings = Settings::default();
            settings.load(&file)?;
            settings.check()?;
            writeln!(out, "{}: all settings can be used", file.display())?;
        }
    }
    Ok(Outcome::Good)
}
