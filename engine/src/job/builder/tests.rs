//! What the builder's methods and the settings of files come to.

use super::*;
use proptest::prelude::*;

fn spans() -> impl Strategy<Value = Duration> {
    (1..1_000_000u64, 0..1_000_000_000u32).prop_map(|(seconds, ns)| Duration::new(seconds, ns))
}

fn strategies() -> impl Strategy<Value = RestartStrategy> {
    let exponential = (spans(), spans(), 1.0..100.0, spans(), 0.0..=1.0, 1..=u32::MAX);
    prop_oneof![
        Just(RestartStrategy::None),
        (any::<u32>(), spans()).prop_map(|(attempts, delay)| RestartStrategy::FixedDelay { attempts, delay }),
        (1..u32::MAX, spans(), spans()).prop_map(|(max_failures_per_interval, interval, delay)| {
            RestartStrategy::FailureRate { max_failures_per_interval, interval, delay }
        }),
        exponential.prop_map(
            |(a, b, backoff_multiplier, reset_backoff_threshold, jitter_factor, attempts)| {
                RestartStrategy::ExponentialDelay(ExponentialDelay {
                    initial_backoff: a.min(b),
                    max_backoff: a.max(b),
                    backoff_multiplier,
                    reset_backoff_threshold,
                    jitter_factor,
                    attempts_before_reset_backoff: attempts,
                })
            }
        ),
    ]
}

fn modes() -> impl Strategy<Value = CheckpointMode> {
    prop_oneof![
        Just(CheckpointMode::Aligned),
        Just(CheckpointMode::Unaligned),
        Just(CheckpointMode::AtLeastOnce),
        spans().prop_map(CheckpointMode::AlignedWithTimeout),
    ]
}

fn from_file(text: &str) -> EngineBuilder {
    let mut settings = Settings::default();
    settings.parse("job.yaml", text).expect("settings that exist");
    settings.into()
}

proptest! {
    /// Whatever a file said before.
    #[test]
    fn prop_what_the_program_sets_is_what_holds(
        strategy in strategies(), mode in modes(), interval in spans(), memory in 1..u64::MAX, log: bool,
    ) {
        let file = "restart-strategy: failure-rate\nexecution.checkpointing.unaligned: true\nstate.backend: rocksdb\n\
                    execution.checkpointing.aligned-checkpoint-timeout: 3s\nthalweg.workers: 7\n";
        let backend = if log { StateBackend::Log } else { StateBackend::HashMap };
        let builder = from_file(file)
            .restart_strategy(strategy)
            .checkpoint_mode(mode)
            .checkpoint_dir("chk")
            .checkpoint_interval(interval)
            .state_backend(backend)
            .state_memory(memory);
        let config = builder.config().expect("settings that can be used");
        prop_assert_eq!(builder.restart(), strategy);
        prop_assert_eq!(config.mode, mode);
        prop_assert_eq!(config.checkpoint_interval, Some(interval));
        prop_assert_eq!(config.state_backend, backend);
        prop_assert_eq!(config.state_memory_bytes, Some(memory));
        prop_assert_eq!(config.workers, 7);
    }
}

#[test]
fn defaults_are_flinks_but_for_those_that_the_reference_explains() {
    let builder = EngineBuilder::default().workers(3);
    let config = builder.config().unwrap();
    assert_eq!((config.workers, config.parallelism, config.max_parallelism), (3, 3, 128));
    assert_eq!((config.mode, config.retained, config.max_concurrent), (CheckpointMode::Aligned, 1, 1));
    assert_eq!(config.checkpoint_timeout, Duration::from_secs(600));
    assert_eq!((config.min_pause, config.tolerable_failures), (Duration::ZERO, 0));
    assert_eq!(config.buffer_timeout, Duration::from_millis(100));
    assert_eq!((config.checkpoint_history, config.incremental), (10, true));
    assert_eq!((config.checkpoint_dir, config.savepoint_dir, config.control_socket), (None, None, None));
    assert_eq!((config.ring_batches, config.batch_records, config.pool_bytes), (16, 1024, 256 << 20));
    assert_eq!(builder.heartbeat(), Duration::from_secs(50));
    assert_eq!(builder.restart(), RestartStrategy::None);
    assert_eq!(builder.checkpoint_dir("chk").restart(), RestartStrategy::default());
}

#[test]
fn a_file_chooses_modes_retention_and_what_a_job_starts_from() {
    let builder = from_file(
        "execution:\n  checkpointing:\n    unaligned.enabled: true\n    aligned-checkpoint-timeout: 30s\n    \
         externalized-checkpoint-retention: delete-on-cancellation\n    savepoint-dir: file:///saved\n  \
         state-recovery:\n    path: /saved/savepoint-a-1\n    claim-mode: CLAIM\n    ignore-unclaimed-state: true\n",
    );
    let config = builder.config().unwrap();
    assert_eq!(config.mode, CheckpointMode::AlignedWithTimeout(Duration::from_secs(30)));
    assert_eq!(config.retention, CheckpointRetention::DeleteOnCancellation);
    assert_eq!(config.savepoint_dir, Some("/saved".into()));
    let restore = RestoreSettings::from_path("/saved/savepoint-a-1").mode(RestoreMode::Claim);
    assert_eq!(builder.restore(), Some(restore.allow_non_restored_state(true)));
    assert_eq!(EngineBuilder::default().restore(), None);
    let config = from_file("execution.checkpointing.mode: AT_LEAST_ONCE\n").config().unwrap();
    assert_eq!(config.mode, CheckpointMode::AtLeastOnce);
}

#[test]
fn a_first_backoff_beyond_the_longest_is_refused_with_its_place() {
    let text =
        "restart-strategy: exponential-delay\nrestart-strategy.exponential-delay:\n  initial-backoff: 2min\n";
    let message = from_file(text).config().unwrap_err().to_string();
    assert!(message.contains("job.yaml:3:20") && message.contains("max-backoff"), "{message}");
}
