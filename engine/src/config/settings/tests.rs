//! Which value counts, and what mistakes are told of.

use super::*;
use crate::config::keys::*;
use proptest::prelude::*;
use std::time::Duration;

fn read(name: &str, text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    settings.parse(name, text).map_err(|error| error.to_string())?;
    settings.check().map_err(|error| error.to_string())?;
    Ok(settings)
}

fn yaml(text: &str) -> Settings {
    read("app.yaml", text).unwrap()
}

fn refuse(name: &str, text: &str, says: &[&str]) {
    let message = read(name, text).expect_err(text);
    for what in says {
        assert!(message.contains(what), "{text:?}: {message:?} lacks {what:?}");
    }
}

fn environment(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    settings.environment(variables).map_err(|error| error.to_string())?;
    Ok(settings)
}

#[test]
fn nested_and_dotted_names_mean_the_same_in_yaml_and_toml() {
    let files = [
        (
            "a.yaml",
            "execution:\n  checkpointing:\n    interval: 3min\n    dir: \"chk\"\nthalweg.workers: 4\n",
        ),
        (
            "a.yml",
            "# Flink's flat form\nexecution.checkpointing.interval: 3 min\nexecution.checkpointing.dir: chk\nthalweg: {workers: 4}\n",
        ),
        (
            "a.yaml",
            "execution.checkpointing:\n  interval: '180 s'\n  dir: chk # here\nthalweg:\n  workers: 4\n",
        ),
        ("a.toml", "thalweg.workers = 4\n[execution.checkpointing]\ninterval = \"3min\"\ndir = 'chk'\n"),
        (
            "a.TOML",
            "\"execution.checkpointing.interval\" = '3min'\nexecution.checkpointing.dir = 'chk'\nthalweg = { workers = 4 }\n",
        ),
    ];
    for (name, text) in files {
        let settings = read(name, text).unwrap();
        assert_eq!(settings.get(CHECKPOINT_INTERVAL), Some(Duration::from_secs(180)), "{text}");
        assert_eq!(settings.get(CHECKPOINT_DIR), Some("chk".into()), "{text}");
        assert_eq!(settings.get(WORKERS), Some(4), "{text}");
    }
}

#[test]
fn empty_files_say_nothing() {
    for (name, text) in [("a.yaml", ""), ("a.yaml", "# nothing\n"), ("a.yaml", "---\n"), ("a.toml", "\n")] {
        assert_eq!(read(name, text).unwrap().get(MAX_CONCURRENT), Some(1), "{text:?}");
    }
}

#[test]
fn an_unknown_name_is_told_with_its_place_and_the_nearest_one() {
    let says = [
        "app.yaml:3:5",
        "`execution.checkpointing.min-puase`",
        "did you mean `execution.checkpointing.min-pause`?",
    ];
    refuse("app.yaml", "execution:\n  checkpointing:\n    min-puase: 1s\n", &says);
    refuse("app.toml", "[execution.checkpointing]\n  min_pause = 1\n", &["app.toml:2:3", "min-pause"]);
    refuse(
        "app.toml",
        "[thalweg]\nworkers = 1\nworker = 1\n",
        &["app.toml:3:1", "did you mean `thalweg.workers`?"],
    );
    refuse("app.yaml", "jobmanager.rpc.address: here\n", &["app.yaml:1:1", "config reference"]);
}

#[test]
fn a_wrong_value_is_told_with_its_place_and_what_would_be_right() {
    refuse(
        "app.yaml",
        "thalweg:\n  workers: many\n",
        &["app.yaml:2:12", "`thalweg.workers`", "`many`", "from 1"],
    );
    refuse("app.yaml", "execution.checkpointing.interval: soon\n", &["app.yaml:1:35", "`soon`", "`3min`"]);
    refuse("app.yaml", "execution.checkpointing.interval: 0s\n", &["longer than nothing"]);
    refuse("app.yaml", "thalweg.state.memory: 1 parsec\n", &["`1 parsec`", "`64mb`"]);
    refuse("app.yaml", "state.backend.type: memory\n", &["`memory`", "`hashmap`", "`log`"]);
    refuse("app.toml", "thalweg.state.zstd-level = 23\n", &["app.toml:1:28", "from 1 to 22"]);
    refuse("app.yaml", "state.checkpoints.dir: s3://bucket/chk\n", &["`state.checkpoints.dir`", "local"]);
    refuse("app.yaml", "execution.checkpointing.storage: jobmanager\n", &["`filesystem`"]);
}

#[test]
fn what_no_setting_can_be_is_refused_with_its_place() {
    refuse("app.yaml", "thalweg.workers: [1, 2]\n", &["app.yaml:1:18", "list"]);
    refuse("app.yaml", "a: &x 1\nthalweg.workers: *x\n", &["app.yaml:2:18", "aliases"]);
    refuse(
        "app.yaml",
        "thalweg.workers: 1\n---\nthalweg.workers: 2\n",
        &["app.yaml:2:1", "second YAML document"],
    );
    refuse("app.yaml", "thalweg.workers:\n", &["app.yaml:1:1", "no value"]);
    refuse("app.yaml", "thalweg: {}\n", &["app.yaml:1:10", "`thalweg` has no value"]);
    refuse("app.yaml", "thalweg.workers\n", &["app.yaml:1:1", "`name: value`"]);
    refuse("app.yaml", "? {a: b}\n: c\n", &["app.yaml:1", "mapping is no name"]);
    refuse("app.yaml", "a: [unclosed\n", &["app.yaml:", "list"]);
    refuse("app.yaml", "a: \"unclosed\n", &["app.yaml:", "no YAML"]);
    refuse("app.yaml", &format!("{}x: 1\n", "a: {".repeat(40)), &["app.yaml:1:", "too deep"]);
    refuse("app.toml", "thalweg.workers = [1]\n", &["app.toml:1:19", "list"]);
    refuse("app.toml", "thalweg.workers = 0x4\n", &["app.toml:1:19", "not decimal"]);
    refuse("app.toml", "thalweg.workers = 2020-01-01\n", &["app.toml:1:19", "date"]);
    refuse("app.toml", "thalweg.workers = \n", &["app.toml:1:", "no TOML"]);
    refuse("app.json", "{}", &["app.json", "`.yaml`"]);
}

#[test]
fn earlier_names_work_and_must_not_say_something_else() {
    let settings =
        yaml("state.checkpoints.dir: chk\nstate.checkpoints.num-retained: 3\nstate.backend: rocksdb\n");
    assert_eq!(settings.get(CHECKPOINT_DIR), Some("chk".into()));
    assert_eq!(settings.get(RETAINED), Some(3));
    assert_eq!(settings.get(STATE_BACKEND), Some("log"));
    yaml("state.checkpoints.num-retained: 3\nexecution.checkpointing.num-retained: 03\n");
    let text = "state.checkpoints.num-retained: 3\nexecution.checkpointing.num-retained: 4\n";
    let says = [
        "`state.checkpoints.num-retained` (app.yaml:1:33)",
        "`execution.checkpointing.num-retained` (app.yaml:2:39)",
    ];
    refuse("app.yaml", text, &says);
}

#[test]
fn a_setting_given_twice_in_a_file_is_refused_with_both_places() {
    let text = "thalweg.workers: 1\nthalweg:\n  workers: 1\n";
    refuse("app.yaml", text, &["(app.yaml:1:18)", "(app.yaml:3:12)", "given twice"]);
    refuse(
        "app.toml",
        "thalweg.workers = 1\n\"thalweg.workers\" = 2\n",
        &["(app.toml:1:19)", "(app.toml:2:21)"],
    );
}

#[test]
fn unaligned_at_least_once_is_refused_with_both_places() {
    let text = "execution.checkpointing.unaligned: true\nexecution.checkpointing.mode: at-least-once\n";
    let says = ["`execution.checkpointing.unaligned` (app.yaml:1:36)", "(app.yaml:2:31)", "EXACTLY_ONCE"];
    refuse("app.yaml", text, &says);

    let mut settings = yaml("execution.checkpointing.unaligned.enabled: true\n");
    settings.property("execution.checkpointing.mode=AT_LEAST_ONCE").unwrap();
    let message = settings.check().unwrap_err().to_string();
    assert!(message.contains("(app.yaml:1:44)") && message.contains("(command line)"), "{message}");
}

#[test]
fn an_interval_without_a_directory_is_refused() {
    let says = ["app.yaml:1:35", "need a directory", "`execution.checkpointing.dir`"];
    refuse("app.yaml", "execution.checkpointing.interval: 1s\n", &says);
}

#[test]
fn the_settings_of_a_restart_strategy_that_is_not_chosen_are_refused() {
    let says = ["app.yaml:1:39", "`restart-strategy.type`", "`fixed-delay`"];
    refuse("app.yaml", "restart-strategy.fixed-delay.delay:   5s\n", &says);
    let exponential = "restart-strategy.exponential-delay.max-backoff: 5s\n";
    refuse("app.yaml", exponential, &["`exponential-delay`"]);
    // With checkpoints it is the default.
    yaml(&format!("{exponential}state.checkpoints.dir: chk\n"));
    let settings = yaml("restart-strategy: fixeddelay\nrestart-strategy.fixed-delay.delay: 5s\n");
    assert_eq!(settings.get(RESTART_STRATEGY), Some("fixed-delay"));
    assert_eq!(settings.get(FIXED_DELAY), Some(Duration::from_secs(5)));
}

#[test]
fn variables_set_their_settings_and_unknown_ones_are_told() {
    let settings = environment(&[
        ("THALWEG_EXECUTION_CHECKPOINTING_MIN_PAUSE", "2s"),
        ("THALWEG_WORKERS", "3"),
        ("THALWEG_STATE_BACKEND", "log"),
        ("PATH", "/bin"),
    ]);
    let settings = settings.unwrap();
    assert_eq!(settings.get(MIN_PAUSE), Some(Duration::from_secs(2)));
    assert_eq!(settings.get(WORKERS), Some(3));
    assert_eq!(settings.get(STATE_BACKEND), Some("log"));
    let message = environment(&[("THALWEG_WORKRES", "3")]).unwrap_err();
    assert!(message.contains("did you mean `THALWEG_WORKERS`?"), "{message}");
    let message = environment(&[("THALWEG_WORKERS", "x")]).unwrap_err();
    assert!(message.contains("environment variable THALWEG_WORKERS: setting `thalweg.workers`"), "{message}");
    let both = [("THALWEG_STATE_BACKEND", "log"), ("THALWEG_STATE_BACKEND_TYPE", "hashmap")];
    let message = environment(&both).unwrap_err();
    assert!(
        message.contains("THALWEG_STATE_BACKEND)") && message.contains("THALWEG_STATE_BACKEND_TYPE)"),
        "{message}"
    );
}

#[test]
fn a_mistake_leaves_the_settings_as_they_were() {
    let mut settings = yaml("thalweg.workers: 2\n");
    settings.parse("b.yaml", "thalweg.pin: false\nthalweg.workrs: 3\n").unwrap_err();
    settings.property("thalweg.pin").unwrap_err();
    settings.property("thalweg.pin=no").unwrap_err();
    assert_eq!((settings.get(WORKERS), settings.get(PIN)), (Some(2), Some(true)));
}

#[test]
fn a_mistake_of_the_program_is_told_by_name_when_settings_are_checked() {
    let mut settings = Settings::default();
    settings.set(CHECKPOINT_TIMEOUT, crate::config::Span::from("soon"));
    let message = settings.check().unwrap_err().to_string();
    assert!(message.starts_with("setting `execution.checkpointing.timeout`: `soon`"), "{message}");
    settings.set(CHECKPOINT_TIMEOUT, Duration::from_secs(3));
    settings.check().unwrap();
}

proptest! {
    #[test]
    fn prop_the_strongest_of_all_places_counts(
        file in prop::option::of(1..100usize),
        variable in prop::option::of(1..100usize),
        properties in prop::collection::vec(1..100usize, 0..3),
        program in prop::option::of(1..100usize),
        order in Just([0, 1, 2, 3]).prop_shuffle(),
    ) {
        let mut settings = Settings::default();
        for place in order {
            match place {
                0 => if let Some(n) = file {
                    settings.parse("a.yaml", &format!("thalweg.workers: {n}\n")).unwrap();
                },
                1 => if let Some(n) = variable {
                    settings.environment([("THALWEG_WORKERS".into(), n.to_string().into())]).unwrap();
                },
                2 => for n in &properties {
                    settings.property(&format!("thalweg.workers={n}")).unwrap();
                },
                _ => if let Some(n) = program {
                    settings.set(WORKERS, n);
                },
            }
        }
        let counts = program.or(properties.last().copied()).or(variable).or(file);
        prop_assert_eq!(settings.get(WORKERS), counts);
        prop_assert_eq!(settings.origin(WORKERS) == Origin::Default, counts.is_none());
    }

    #[test]
    fn prop_no_file_makes_the_parsers_panic(
        lines in prop::collection::vec("[ a-c.:\\-{}\\[\\]\"'#&*?|>=\\n\\t0-9]{0,12}|execution.checkpointing.|thalweg:|  workers: 3", 0..8)
    ) {
        let text = lines.join("\n");
        let mut settings = Settings::default();
        let _ = (settings.parse("a.yaml", &text), settings.parse("a.toml", &text));
    }
}
