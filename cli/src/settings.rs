//! The tables of settings in the README and in `docs/settings.md` are what the roles read.

use std::collections::BTreeMap;
use std::path::Path;

use clap::CommandFactory;

use crate::command::Command;

const ROLES: [&str; 4] = ["up", "producer", "processors", "projections"];
const TABLES: [&str; 2] = ["README.md", "docs/settings.md"];
/// Ends of names, and what is counted then.
const UNITS: [(&str, &str); 6] = [
    ("_MS", "ms"),
    ("_BYTES", "bytes"),
    ("_BYTES_MAX", "bytes"),
    ("_RECORDS", "records"),
    ("_EVENTS", "events"),
    ("_PERCENT", "percent"),
];

/// What the roles read from the environment, with the default as text.
fn read() -> BTreeMap<String, String> {
    let command = Command::command();
    let roles = ROLES.map(|role| {
        let found = command.find_subcommand(role);
        found.unwrap_or_else(|| panic!("no role {role}"))
    });
    let mut settings = BTreeMap::new();
    for argument in roles.into_iter().flat_map(clap::Command::get_arguments) {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else {
            continue;
        };
        let defaults = argument.get_default_values().iter();
        let default: Vec<&str> = defaults.filter_map(|value| value.to_str()).collect();
        let default = default.join(",");
        let before = settings.insert(name.to_owned(), default.clone());
        assert!(
            before.is_none_or(|before| before == default),
            "{name} has two defaults"
        );
    }
    settings
}

/// The rows of a file's tables with the columns name, default, unit and what.
fn rows(file: &str) -> Vec<[String; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == "| name | default | unit | what |") {
        for line in lines.by_ref().skip(1) {
            let Some(row) = line
                .strip_prefix("| ")
                .and_then(|row| row.strip_suffix(" |"))
            else {
                break;
            };
            let cells: Vec<String> = row
                .split(" | ")
                .map(|cell| cell.trim().trim_matches('`').to_owned())
                .collect();
            rows.push(<[String; 4]>::try_from(cells).unwrap_or_else(|_| panic!("{file}: {line}")));
        }
    }
    assert!(!rows.is_empty(), "{file} has no table of settings");
    rows
}

#[test]
fn every_setting_that_a_role_reads_stands_in_one_table_with_its_default_and_its_unit() {
    let mut settings = read();
    assert!(settings.len() > 70, "{settings:?}");
    for file in TABLES {
        for [name, default, unit, _] in rows(file) {
            let read = settings.remove(&name);
            let read = read
                .unwrap_or_else(|| panic!("{file}: no role reads {name}, or it is listed twice"));
            assert_eq!(default, read, "{file}: default of {name}");
            let of_name = UNITS.iter().find(|(end, _)| name.ends_with(end));
            if let Some((_, of_name)) = of_name {
                assert_eq!(unit, *of_name, "{file}: unit of {name}");
            }
        }
    }
    let missing: Vec<&String> = settings.keys().collect();
    assert!(missing.is_empty(), "in no table: {missing:?}");
}

#[test]
fn the_readme_has_what_the_relay_the_effects_and_their_adapters_are_set_by() {
    let names: Vec<String> = rows("README.md")
        .into_iter()
        .map(|[name, ..]| name)
        .collect();
    for name in [
        "RELAY_POLL_MIN_MS",
        "RELAY_POLL_MAX_MS",
        "RELAY_BATCH_EVENTS_MAX",
        "PROCESSOR_ATTEMPTS_MAX",
        "EFFECT_BATCH_RECORDS",
        "NOTIFICATION_ATTEMPTS_MAX",
        "SENDGRID_API_KEY",
        "TWILIO_ACCOUNT_SID",
        "TWILIO_AUTH_TOKEN",
        "SMTP_HOST",
        "SMTP_PORT",
    ] {
        assert!(names.iter().any(|one| one == name), "{name}");
    }
}

#[test]
fn what_is_read_without_an_option_is_named_in_the_readme() {
    let telemetry = include_str!("telemetry.rs");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md can be read");
    for name in ["LOG_FORMAT", "RUST_LOG"] {
        assert!(
            telemetry.contains(name) && readme.contains(&format!("`{name}")),
            "{name}"
        );
    }
}
