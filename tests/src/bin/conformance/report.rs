//! What a campaign prints: one line per case for people, or one JSON line per case.

use serde::Serialize;
use thalweg_tests::conformance::{Case, Outcome, Tally};

/// All runs of one case.
#[derive(Serialize)]
pub struct Row {
    case: &'static str,
    family: String,
    runs: u64,
    first_seed: u64,
    last_seed: u64,
    failures_injected: u64,
    restores: u64,
    in_flight_records_restored: u64,
    values: u64,
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
    hung: u64,
    /// Runs that violated something.
    bad_runs: u64,
    /// The first violations, with the seeds that show them again.
    violations: Vec<String>,
}

impl Row {
    /// No runs yet.
    pub fn new(case: &Case, first_seed: u64) -> Row {
        Row {
            case: case.name,
            family: format!("{:?}", case.family),
            runs: 0,
            first_seed,
            last_seed: first_seed,
            failures_injected: 0,
            restores: 0,
            in_flight_records_restored: 0,
            values: 0,
            lost: 0,
            duplicated: 0,
            out_of_order: 0,
            hung: 0,
            bad_runs: 0,
            violations: Vec::new(),
        }
    }

    /// Adds one run.
    pub fn add(&mut self, seed: u64, outcome: &Outcome) {
        let Tally {
            failures, restores, restored_records, values, lost, duplicated, out_of_order, hung, ..
        } = outcome.tally;
        self.runs += 1;
        self.last_seed = seed;
        self.failures_injected += failures;
        self.restores += restores;
        self.in_flight_records_restored += restored_records;
        self.values += values;
        self.lost += lost;
        self.duplicated += duplicated;
        self.out_of_order += out_of_order;
        self.hung += hung;
        if !outcome.violations.is_empty() {
            self.bad_runs += 1;
            self.violations
                .extend(outcome.violations.iter().take(10).map(|what| format!("seed {seed}: {what}")));
            self.violations.truncate(40);
        }
    }

    /// Adds another case's, for the sum.
    fn absorb(&mut self, other: &Row) {
        self.runs += other.runs;
        self.failures_injected += other.failures_injected;
        self.restores += other.restores;
        self.in_flight_records_restored += other.in_flight_records_restored;
        self.values += other.values;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.hung += other.hung;
        self.bad_runs += other.bad_runs;
    }

    fn line(&self) -> String {
        format!(
            "{:<40} {:>6} {:>8} {:>8} {:>11} {:>6} {:>6} {:>6} {:>5} {:>5}",
            self.case,
            self.runs,
            self.failures_injected,
            self.restores,
            self.in_flight_records_restored,
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.hung,
            self.bad_runs
        )
    }
}

/// Prints all rows and their sum; returns whether nothing was violated.
pub fn print(rows: &[Row], json: bool) -> bool {
    let mut sum = Row { case: "all", family: "all".into(), violations: Vec::new(), ..empty() };
    rows.iter().for_each(|row| sum.absorb(row));
    if json {
        for row in rows.iter().chain([&sum]) {
            println!("{}", serde_json::to_string(row).expect("a row is plain data"));
        }
        return sum.bad_runs == 0;
    }
    println!(
        "{:<40} {:>6} {:>8} {:>8} {:>11} {:>6} {:>6} {:>6} {:>5} {:>5}",
        "case", "runs", "failures", "restores", "in flight", "lost", "again", "late", "hung", "bad"
    );
    for row in rows.iter().chain([&sum]) {
        println!("{}", row.line());
    }
    println!(
        "in flight: in-flight records restored; again: values committed or seen more than once; late: values out of order; \
         bad: runs that violated anything"
    );
    for row in rows {
        for violation in &row.violations {
            println!("{}: {violation}", row.case);
        }
    }
    sum.bad_runs == 0
}

fn empty() -> Row {
    Row {
        case: "",
        family: String::new(),
        runs: 0,
        first_seed: 0,
        last_seed: 0,
        failures_injected: 0,
        restores: 0,
        in_flight_records_restored: 0,
        values: 0,
        lost: 0,
        duplicated: 0,
        out_of_order: 0,
        hung: 0,
        bad_runs: 0,
        violations: Vec::new(),
    }
}
