//! Unaligned, aligned and timed checkpoints through every scheduled failure, on real workers of a busy machine.
//!
//! `THALWEG_RUNS=<n>` multiplies the number of runs.

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use thalweg::DriverChoice;
use thalweg_tests::conformance::{Mode, RealRun, Scenario, Tally, Topology};

/// Runs of each scenario.
const RUNS: usize = 20;

/// Jobs that keep the machine busy run one at a time, so that none starves another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Other processes that want every core, ended with this value.
struct BusyMachine(Vec<Child>);

impl BusyMachine {
    fn start() -> Self {
        let burn = || {
            // It ends by itself should this process die before it can end it.
            Command::new("timeout")
                .args(["300", "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .expect("another process")
        };
        BusyMachine((0..2).map(|_| burn()).collect())
    }
}

impl Drop for BusyMachine {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // `timeout` passes this on to what it runs.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

/// Runs one scenario, with drivers and numbers of workers mixed; panics with the first run that violates anything.
fn hold(topology: Topology, parallelism: u32, mode: Mode) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _busy = BusyMachine::start();
    let scenario = Scenario { topology, parallelism, mode };
    let times: usize =
        std::env::var("THALWEG_RUNS").map_or(1, |runs| runs.parse().expect("THALWEG_RUNS is a number"));
    let mut tally = Tally::default();
    for number in 0..RUNS * times {
        let driver = if number % 2 == 0 { DriverChoice::Auto } else { DriverChoice::Threads };
        let run = RealRun { scenario, driver, workers: 1 + number % 3, number };
        let outcome = run.run();
        assert!(outcome.violations.is_empty(), "{run:?}:\n{}", outcome.violations.join("\n"));
        tally.add(&outcome.tally);
    }
    println!("{scenario:?}: {tally:?}");
    match mode {
        Mode::Unaligned => {
            assert!(tally.restored_records > 0, "no in-flight data were ever restored: {tally:?}")
        }
        Mode::Aligned => assert_eq!(tally.parts_unaligned, 0),
        Mode::AlignedWithTimeout | Mode::AlignedWithLongTimeout => {
            assert!(tally.parts_unaligned > 0, "no part ever switched: {tally:?}");
            assert!(tally.parts_aligned > 0, "every part switched: {tally:?}");
        }
    }
}

macro_rules! scenarios {
    ($($name:ident: $topology:ident $parallelism:literal $mode:ident;)*) => {$(
        #[test]
        fn $name() {
            hold(Topology::$topology, $parallelism, Mode::$mode);
        }
    )*};
}

scenarios! {
    pipeline_1_unaligned_is_exactly_once: Pipeline 1 Unaligned;
    pipeline_1_aligned_is_exactly_once: Pipeline 1 Aligned;
    pipeline_1_with_timeout_is_exactly_once: Pipeline 1 AlignedWithTimeout;
    pipeline_5_unaligned_is_exactly_once: Pipeline 5 Unaligned;
    pipeline_5_aligned_is_exactly_once: Pipeline 5 Aligned;
    pipeline_5_with_timeout_is_exactly_once: Pipeline 5 AlignedWithTimeout;
    pipeline_20_unaligned_is_exactly_once: Pipeline 20 Unaligned;
    pipeline_20_aligned_is_exactly_once: Pipeline 20 Aligned;
    pipeline_20_with_timeout_is_exactly_once: Pipeline 20 AlignedWithTimeout;
    union_5_unaligned_is_exactly_once: Union 5 Unaligned;
    union_5_aligned_is_exactly_once: Union 5 Aligned;
    union_5_with_timeout_is_exactly_once: Union 5 AlignedWithTimeout;
    multi_input_5_unaligned_is_exactly_once: MultiInput 5 Unaligned;
    multi_input_5_aligned_is_exactly_once: MultiInput 5 Aligned;
    multi_input_5_with_timeout_is_exactly_once: MultiInput 5 AlignedWithTimeout;
}
