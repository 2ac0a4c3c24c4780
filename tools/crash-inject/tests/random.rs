//! Kills the clicks example at random times on a busy machine.

use crash_inject::campaign::Kind;
use crash_inject::jobs;
use crash_inject::report::line;
use crash_inject::run::{Orders, run};
use std::time::Duration;

#[test]
fn fifty_kills_at_random_times_on_a_busy_machine_leave_every_total_exactly_once() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let seed =
        std::env::var("THALWEG_SEED").map_or(1, |seed| seed.parse().expect("THALWEG_SEED is a number"));
    let orders = Orders {
        job: jobs::find("clicks").expect("the job is built"),
        kind: Kind::Random,
        goal: 50,
        seed,
        points: Vec::new(),
        only_cycle: None,
        contend: true,
        state: state.path().to_owned(),
        time_limit: Duration::from_secs(1_800),
    };
    let outcome = run(&orders, &mut |_| {}).expect("the campaign runs");
    let campaign = &outcome.campaign;
    println!("{}", line(campaign));
    if !outcome.complaints.is_empty() {
        panic!("{}: {:#?}", state.keep().display(), outcome.complaints);
    }
    assert!(campaign.audit.is_clean() && campaign.kills >= 50 && campaign.restores > 0, "{}", line(campaign));
}
