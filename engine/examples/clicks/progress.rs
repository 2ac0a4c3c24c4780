//! Progress: a live bar where standard error is a terminal, a line now and then where it is not.

use crate::input::Input;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use thalweg::job::JobMetrics;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// Time over which speeds and shares are taken.
const WINDOW: Duration = Duration::from_millis(500);

/// Where progress goes.
pub struct Reporter {
    bars: MultiProgress,
    shown: bool,
    terminal: bool,
}

impl Reporter {
    pub fn new(shown: bool) -> Self {
        Reporter { bars: MultiProgress::new(), shown, terminal: std::io::stderr().is_terminal() }
    }

    /// A bar that is full at `total`.
    pub fn bar(&self, label: &'static str, total: u64) -> Bar {
        let bar = (self.shown && self.terminal).then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {elapsed} {msg}");
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_prefix(label);
            bar
        });
        Bar { bar, lines: self.shown && !self.terminal, label, total, line_at: Instant::now() }
    }

    /// Prints a line of the run's record, above any bar.
    pub fn say(&self, line: &str) {
        // Whoever read the output may have gone; the job goes on.
        let _ = self.bars.suspend(|| writeln!(std::io::stdout(), "{line}"));
    }
}

/// One thing in progress.
pub struct Bar {
    bar: Option<ProgressBar>,
    lines: bool,
    label: &'static str,
    total: u64,
    line_at: Instant,
}

impl Bar {
    pub fn set(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total));
            bar.set_message(message.to_owned());
        } else if self.lines && self.line_at.elapsed() >= LINE_INTERVAL {
            self.line_at = Instant::now();
            let percent = 100 * u128::from(done.min(self.total)) / u128::from(self.total.max(1));
            eprintln!("{}", format!("{}: {percent} % {message}", self.label).trim_end());
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The progress of the job.
pub struct JobProgress {
    bar: Bar,
    bytes: u64,
    window: Window,
    clicks_per_s: f64,
    blocked_percent: f64,
}

/// What the counters were when the window began.
#[derive(Default)]
struct Window {
    since: Option<Instant>,
    clicks: u64,
    blocked_ns: HashMap<(String, u32), u64>,
}

impl JobProgress {
    pub fn new(reporter: &Reporter, input: &Input) -> Self {
        JobProgress {
            bar: reporter.bar("counting", input.bytes()),
            bytes: input.bytes(),
            window: Window::default(),
            clicks_per_s: 0.0,
            blocked_percent: 0.0,
        }
    }

    pub fn show(&mut self, metrics: &JobMetrics) {
        let sources = || metrics.tasks.iter().filter(|task| task.is_source);
        let clicks: u64 = sources().map(|task| task.records_in).sum();
        if sources().next().is_none() {
            return;
        }
        self.measure(metrics, clicks);
        // A restored source counts only what was left to read.
        let left: u64 = sources().map(|task| task.read.1 - task.read.0.min(task.read.1)).sum();
        let checkpoint = match metrics.checkpoints.history.back() {
            Some(last) => format!(
                "checkpoint {} ({} ms, {} KB)",
                last.id,
                last.duration.as_millis(),
                count(last.state_bytes.div_ceil(1000))
            ),
            None => "no checkpoint yet".to_owned(),
        };
        let page_reads: u64 =
            metrics.tasks.iter().map(|task| task.state.page_reads + task.state.page_reads_blocking).sum();
        let page_reads = match page_reads {
            0 => String::new(),
            reads => format!(", {} page reads", count(reads)),
        };
        let message = format!(
            "{} clicks, {:.2} M/s, {checkpoint}, back-pressure {:.0} %{page_reads}",
            count(clicks),
            self.clicks_per_s / 1e6,
            self.blocked_percent
        );
        self.bar.set(self.bytes.saturating_sub(left), &message);
    }

    /// Takes speed and back-pressure (the source's largest share of time spent blocked) of the last window.
    fn measure(&mut self, metrics: &JobMetrics, clicks: u64) {
        let elapsed = self.window.since.map(|since| since.elapsed());
        if elapsed.is_some_and(|elapsed| elapsed < WINDOW) {
            return;
        }
        let times = metrics.tasks.iter().filter(|task| task.is_source);
        let blocked_ns: HashMap<_, _> = times
            .filter_map(|task| Some(((task.name.clone(), task.partition), task.time?.blocked_ns)))
            .collect();
        if let Some(elapsed) = elapsed {
            self.clicks_per_s = clicks.saturating_sub(self.window.clicks) as f64 / elapsed.as_secs_f64();
            let before = |task| self.window.blocked_ns.get(task).copied().unwrap_or(0);
            let share = |(task, ns): (_, &u64)| {
                100.0 * ns.saturating_sub(before(task)) as f64 / elapsed.as_nanos() as f64
            };
            self.blocked_percent = blocked_ns.iter().map(share).fold(0.0, f64::max).min(100.0);
        }
        self.window = Window { since: Some(Instant::now()), clicks, blocked_ns };
    }

    pub fn finish(self) {
        self.bar.finish();
    }
}

/// A number with separators between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
