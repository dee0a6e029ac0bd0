//! Rules for alerts: each has a runbook and unit tests, which the real promtool runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use crate::tidy::code::{read, root};

/// Sections of every runbook, in this order.
const SECTIONS: [&str; 4] = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"];

/// An alerting rule.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    /// Its expression; recorded series are replaced by what they record.
    pub(crate) expression: String,
    /// The text of the rule.
    text: String,
}

/// The files of a folder with one of the endings, sorted.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} is empty");
    found
}

/// A rule's value of a key that is written in one line.
fn value<'a>(rule: &'a str, key: &str) -> Option<&'a str> {
    rule.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": ")).map(str::trim)
}

/// The series that rules record, with their expressions.
pub(crate) fn recorded() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in files("deploy/prometheus/rules") {
        for rule in read(&file).split("- record: ").skip(1) {
            let name = rule.lines().next().unwrap().trim().to_owned();
            let expression = value(rule, "expr").unwrap_or_else(|| panic!("{name} has no expression"));
            found.insert(name, expression.to_owned());
        }
    }
    found
}

/// All alerting rules.
pub(crate) fn alerts() -> Vec<Alert> {
    let recorded = recorded();
    let mut found = Vec::new();
    for file in files("deploy/prometheus/rules") {
        for rule in read(&file).split("- alert: ").skip(1) {
            let rule = rule.split("\n      - ").next().unwrap().split("\n  - name:").next().unwrap();
            let name = rule.lines().next().unwrap().trim().to_owned();
            let expression = value(rule, "expr").unwrap_or_else(|| panic!("{name} has no expression"));
            assert!(!expression.starts_with(['|', '>']), "{name}: the expression must be one line");
            // Longer names first, because a name can be the beginning of another.
            let expanded = recorded.iter().rev().fold(expression.to_owned(), |text, (name, by)| text.replace(name, by));
            found.push(Alert { name, expression: expanded, text: rule.to_owned() });
        }
    }
    assert!(found.len() > 50, "only {found:?} were found");
    found
}

#[test]
fn every_alert_says_what_happened_and_names_its_runbook() {
    for Alert { name, text, .. } in alerts() {
        assert!(name.starts_with("Riverlock"), "{name}: alerts of several applications share one Prometheus");
        let labels = value(&text, "labels").unwrap_or_default();
        let has_severity =
            ["critical", "warning", "none"].iter().any(|word| labels.contains(&format!("severity: {word}")));
        assert!(has_severity, "{name} has no severity: {labels}");
        for key in ["summary", "description"] {
            let text = value(&text, key).unwrap_or_default();
            assert!(text.len() > 10, "{name} has no {key}");
        }
        let runbook = value(&text, "runbook_url").unwrap_or_default();
        assert_eq!(runbook, format!("docs/operations/runbooks/{name}.md"));
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let named: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    let mut written = BTreeSet::new();
    for file in files("docs/operations/runbooks") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "README" {
            continue;
        }
        let text = read(&file);
        assert!(text.starts_with(&format!("# {name}\n")), "{} has another title", file.display());
        let places: Vec<usize> = SECTIONS
            .iter()
            .map(|section| text.find(section).unwrap_or_else(|| panic!("{name} has no section {section}")))
            .collect();
        assert!(places.is_sorted(), "{name}: the sections are in another order");
        for needed in ["It is over when ", "Tell Digital River: "] {
            assert!(text.contains(needed), "{name} does not say: {needed}");
        }
        written.insert(name);
    }
    assert_eq!(named, written);
    let index = read(&root().join("docs/operations/runbooks/README.md"));
    for name in &named {
        assert!(index.contains(&format!("[{name}]({name}.md)")), "the index lacks {name}");
    }
}

#[test]
fn every_alert_is_tested_firing_and_not_firing() {
    let mut checks: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files("deploy/prometheus/tests") {
        for check in read(&file).split("eval_time: ").skip(1) {
            let name = check.split("alertname: ").nth(1).unwrap().split([' ', '\n', '}']).next().unwrap();
            let (firing, silent) = checks.entry(name.to_owned()).or_default();
            if check.contains("exp_labels") { *firing += 1 } else { *silent += 1 }
        }
    }
    for Alert { name, .. } in alerts() {
        let (firing, silent) = checks.get(&name).copied().unwrap_or_default();
        assert!(firing > 0, "no test shows {name} firing");
        // The watchdog always fires.
        assert!(silent > 0 || name == "RiverlockWatchdog", "no test shows {name} not firing");
    }
}

/// Runs promtool, which `make test` installs.
pub(crate) fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool").args(arguments).args(files).output();
    let output = output.unwrap_or_else(|error| panic!("promtool cannot be run (`deploy/setup prometheus`): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    assert!(text.contains("SUCCESS"), "promtool checked nothing: {text}");
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &files("deploy/prometheus/rules"));
}

#[test]
fn alerts_fire_and_end_as_their_unit_tests_say() {
    promtool(&["test", "rules"], &files("deploy/prometheus/tests"));
}

#[test]
fn recorded_series_are_replaced_in_expressions() {
    let alerts = alerts();
    let burn = alerts.iter().find(|alert| alert.name == "RiverlockIngestErrorBudgetBurn").unwrap();
    assert!(burn.expression.contains("riverlock_ingest_requests_total") && !burn.expression.contains("riverlock:"));
}
