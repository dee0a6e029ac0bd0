//! `docs/reference/riverlock.example.toml`: every setting, commented out, with its default.

use std::fmt::Write as _;

use riverlock::config::Config;

use super::{
    check_file,
    configuration::{header, toml},
    settings::{Setting, Shape, tables},
};
use crate::tidy::code::root;

const FILE: &str = "docs/reference/riverlock.example.toml";

/// Widest line of a comment, in characters.
const WIDTH: usize = 100;

const HEAD: &str = "\
Every setting of Riverlock, with its default where it has one. Generated; `make references` writes it.
To change a setting, remove the `#` before it and before the header of its table.
A configuration for production is docs/start/riverlock.production.toml.
";

/// Writes a text as comment lines.
fn comment(file: &mut String, text: &str) {
    for paragraph in text.split("\n\n") {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                writeln!(file, "{line}").unwrap();
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        writeln!(file, "{line}").unwrap();
    }
}

fn note(setting: &Setting) -> &'static str {
    match (&setting.default, setting.is_required) {
        (Some(_), _) => "",
        (None, true) => " Required.",
        (None, false) => " No default.",
    }
}

fn generated() -> String {
    let mut file = String::new();
    HEAD.lines().for_each(|line| writeln!(file, "# {line}").unwrap());
    for table in tables() {
        file.push('\n');
        comment(&mut file, &table.meaning);
        writeln!(file, "#{}", header(&table)).unwrap();
        if table.shape == Shape::Map {
            file.push_str("#\"name\" = \"value\"\n");
        }
        for setting in &table.settings {
            comment(&mut file, &format!("{}{}", setting.meaning, note(setting)));
            writeln!(file, "#{} = {}", setting.key, toml(&setting.example)).unwrap();
        }
    }
    file
}

/// The example with every setting uncommented.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn load(text: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path())).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_example_has_every_setting_and_can_be_read() {
    let generated = generated();
    check_file(FILE, &generated);
    let all = load(&uncommented(&generated));
    assert_eq!(all.ingest.endpoints.len(), 1, "uncommented settings are in effect");
    let none = load(&generated);
    assert_eq!(none.kafka.brokers, Config::default().kafka.brokers, "commented settings have no effect");
}

#[test]
fn the_defaults_of_the_example_are_those_of_the_code() {
    let all = load(&uncommented(&generated()));
    let code = Config::default();
    assert_eq!(all.ingest.limits, {
        // If absent, it is derived from another limit.
        let mut limits = code.ingest.limits.clone();
        limits.in_flight_partition_max = all.ingest.limits.in_flight_partition_max;
        limits
    });
    assert_eq!(all.postgres.url.expose(), code.postgres.url.expose());
    assert_eq!(all.kafka.session_timeout, code.kafka.session_timeout);
    assert_eq!(all.reconcile.lookback, code.reconcile.lookback);
    assert_eq!(all.digital_river.answer_timeout, code.digital_river.answer_timeout);
}

#[test]
fn the_configuration_for_production_is_one() {
    let config = Config::load(Some(&root().join("docs/start/riverlock.production.toml"))).unwrap();
    assert_eq!((config.ingest.endpoints.len(), config.kafka.replication_factor), (2, 3));
    let compose = Config::load(Some(&root().join("deploy/docker/riverlock.toml"))).unwrap();
    assert_eq!(compose.ingest.endpoints.len(), 1);
}
