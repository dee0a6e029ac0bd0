//! `docs/reference/metrics.md`: the metrics that the code describes, with their labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{check_part, row};
use crate::tidy::{
    alerts::{self, Alert},
    code::{read, root, sources},
};

/// The crates that have metrics, with the processes that publish them.
const CRATES: [(&str, &str); 9] = [
    ("ingest", "Ingest"),
    ("ledger", "Processor and invoice-fetcher"),
    ("recovery", "Processor: audit and dead letters"),
    ("processor", "Processor: the order API"),
    ("shipments", "Processor: shipments"),
    ("reconcile", "Processor: missing events"),
    ("digital-river", "Processor: Digital River's API"),
    ("invoice-fetcher", "Invoice-fetcher"),
    ("runtime", "Every process"),
];

/// Macros that describe a metric, and macros that set one.
const KINDS: [&str; 3] = ["counter", "gauge", "histogram"];

#[derive(Default)]
struct Metric {
    kind: &'static str,
    unit: String,
    meaning: String,
    labels: BTreeSet<String>,
}

/// A call of a macro that describes or sets a metric.
struct Call {
    kind: &'static str,
    is_description: bool,
    arguments: Vec<String>,
    /// Byte offset in its file.
    at: usize,
}

/// The code of a crate, without tests.
fn code(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&root().join(folder).join("src"), &mut files);
    files.retain(|file| !file.to_string_lossy().contains("tests"));
    files.sort();
    let text = |file: &PathBuf| read(file).split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    files.iter().map(|file| (file.clone(), text(file))).collect()
}

/// The arguments of the macro whose parenthesis opens at the end of `before`.
fn arguments(rest: &str) -> Vec<String> {
    let (mut found, mut depth, mut is_text, mut is_escaped) = (vec![String::new()], 0, false, false);
    for c in rest.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            _ if is_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(c);
    }
    found.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

fn calls(text: &str) -> Vec<Call> {
    let mut found = Vec::new();
    for kind in KINDS {
        let name = format!("{kind}!(");
        for (at, _) in text.match_indices(&name) {
            let is_description = text[..at].ends_with("describe_");
            let is_word = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if is_description || !is_word {
                found.push(Call { kind, is_description, arguments: arguments(&text[at + name.len()..]), at });
            }
        }
    }
    found
}

/// The string constants.
fn constants(files: &[(PathBuf, String)]) -> BTreeMap<(PathBuf, String), String> {
    let mut found = BTreeMap::new();
    for (file, text) in files {
        for line in text.lines() {
            let Some((name, value)) = line.split_once("const ").and_then(|(_, rest)| rest.split_once(": &str = \""))
            else {
                continue;
            };
            let value = value.split('"').next().unwrap_or_default();
            found.insert((file.clone(), name.to_owned()), value.to_owned());
        }
    }
    found
}

/// The metric names that a call's first argument can have; several if it is a loop variable.
fn names(
    files: &BTreeMap<(PathBuf, String), String>,
    file: &Path,
    text: &str,
    call: &Call,
) -> Result<Vec<String>, String> {
    let argument = call.arguments[0].rsplit("::").next().unwrap().to_owned();
    let argument = if argument.chars().any(char::is_lowercase) {
        let head = format!("for {argument} in [");
        let at = text[..call.at].rfind(&head).ok_or_else(|| format!("no loop over {argument}"))? + head.len();
        text[at..].split(']').next().unwrap_or_default().to_owned()
    } else {
        argument
    };
    let one = |name: &str| {
        let own = files.get(&(file.to_owned(), name.to_owned()));
        let mut all: Vec<&String> =
            files.iter().filter(|((_, other), _)| other == name).map(|(_, value)| value).collect();
        all.dedup();
        match (own, all.as_slice()) {
            (Some(value), _) => Ok(value.clone()),
            (None, [value]) => Ok((*value).clone()),
            (None, found) => Err(format!("{name} is {found:?}")),
        }
    };
    argument.split(',').map(str::trim).filter(|name| !name.is_empty()).map(one).collect()
}

/// The keys of a call's labels.
fn labels(text: &str, call: &Call) -> Vec<String> {
    let mut found = Vec::new();
    for argument in &call.arguments[1..] {
        if let Some((key, _)) = argument.split_once("=>") {
            found.push(key.trim().trim_matches('"').to_owned());
        } else {
            let head = format!("let {} = [", argument.trim_start_matches('&'));
            let at = text[..call.at].rfind(&head).unwrap_or_else(|| panic!("{argument} is not defined in the file"));
            let list = text[at + head.len()..].split("];").next().unwrap_or_default();
            found.extend(list.split("(\"").skip(1).filter_map(|pair| Some(pair.split('"').next()?.to_owned())));
        }
    }
    found
}

/// The metrics of a crate by name.
fn metrics(folder: &str) -> BTreeMap<String, Metric> {
    let files = code(folder);
    let constants = constants(&files);
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    let mut used = Vec::new();
    for (file, text) in &files {
        for call in calls(text) {
            let names =
                names(&constants, file, text, &call).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if call.is_description {
                let unit = call.arguments.iter().find_map(|argument| argument.split("Unit::").nth(1));
                let meaning = call.arguments.last().unwrap().trim_matches('"').to_owned();
                let unit = unit.unwrap_or_default().to_lowercase();
                found.insert(names[0].clone(), Metric { kind: call.kind, unit, meaning, labels: BTreeSet::new() });
            } else {
                let labels = labels(text, &call);
                used.extend(names.into_iter().map(|name| (name, labels.clone())));
            }
        }
    }
    let described: BTreeSet<String> = found.keys().cloned().collect();
    let set: BTreeSet<String> = used.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(described, set, "{folder}: described metrics, and metrics that are set");
    for (name, labels) in used {
        found.get_mut(&name).unwrap().labels.extend(labels);
    }
    found
}

/// Whether an expression contains a name as a whole word.
fn is_in(expression: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    expression.match_indices(name).any(|(at, _)| {
        let rest = &expression[at + name.len()..];
        let rest = ["_bucket", "_sum", "_count"].iter().find_map(|end| rest.strip_prefix(end)).unwrap_or(rest);
        !expression[..at].ends_with(is_word) && !rest.starts_with(is_word)
    })
}

/// Alerts with their expressions; an alert can have several.
fn alerts() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for Alert { name, expression, .. } in alerts::alerts() {
        match found.last_mut() {
            Some((last, all)) if *last == name => all.push_str(&expression),
            _ => found.push((name, expression)),
        }
    }
    found
}

/// Panels of the dashboard with their expressions.
fn panels() -> Vec<(String, String)> {
    fn walk(value: &Value, found: &mut Vec<(String, String)>) {
        if let (Some(title), Some(targets)) = (value["title"].as_str(), value["targets"].as_array()) {
            let expressions = targets.iter().filter_map(|target| target["expr"].as_str());
            found.push((title.to_owned(), expressions.collect::<Vec<_>>().join("\n")));
        }
        for inner in value["panels"].as_array().into_iter().flatten() {
            walk(inner, found);
        }
    }
    let mut found = Vec::new();
    for file in std::fs::read_dir(root().join("deploy/grafana/dashboards")).unwrap().flatten() {
        walk(&serde_json::from_str(&read(&file.path())).unwrap(), &mut found);
    }
    found
}

#[test]
fn the_page_has_every_metric() {
    let (alerts, panels) = (alerts(), panels());
    assert!(alerts.len() > 20 && panels.len() > 5, "{} alerts, {} panels", alerts.len(), panels.len());
    let mut text = String::new();
    let mut all = BTreeSet::new();
    for (folder, title) in CRATES {
        let metrics = metrics(folder);
        assert!(!metrics.is_empty(), "{folder} has no metrics: the test showed nothing");
        text.push_str(&format!(
            "## {title}\n\n| name and labels | type | meaning | used by |\n| --- | --- | --- | --- |\n"
        ));
        for (name, metric) in metrics {
            assert!(name.starts_with("riverlock_"), "{folder}: {name} does not begin with riverlock_");
            let labels = metric.labels.iter().cloned().collect::<Vec<_>>().join(", ");
            let full = if labels.is_empty() { format!("`{name}`") } else { format!("`{name}{{{labels}}}`") };
            let kind =
                if metric.unit.is_empty() { metric.kind.into() } else { format!("{}, {}", metric.kind, metric.unit) };
            let alerts = alerts.iter().filter(|(_, used)| is_in(used, &name)).map(|(alert, _)| format!("`{alert}`"));
            let panels =
                panels.iter().filter(|(_, used)| is_in(used, &name)).map(|(panel, _)| format!("panel “{panel}”"));
            let users = alerts.chain(panels).collect::<Vec<_>>().join(", ");
            text.push_str(&row([full.as_str(), &kind, &metric.meaning, &users]));
            all.insert(name);
        }
        text.push('\n');
    }
    for (user, used) in alerts.iter().chain(&panels) {
        let words = used.split(|c: char| !c.is_alphanumeric() && c != '_');
        for word in words.filter(|word| word.ends_with("_total") || word.ends_with("_bucket")) {
            let name = word.trim_end_matches("_bucket");
            assert!(all.contains(name), "{user} uses {word}, which nothing publishes");
        }
    }
    check_part("docs/reference/metrics.md", "metrics", &text);
}

#[test]
fn calls_are_read_with_their_labels() {
    let text = "describe_gauge!(\n  A,\n  Unit::Seconds,\n  \"x, (y)\"\n); for name in [A, B] { metrics::gauge!(name, \"k\" => f(1, 2)) }";
    let calls = calls(text);
    assert_eq!(calls[0].arguments, ["A", "Unit::Seconds", "\"x, (y)\""]);
    assert_eq!((calls[1].is_description, labels(text, &calls[1])), (false, vec!["k".to_owned()]));
    let files = BTreeMap::from([
        (("a".into(), "A".to_owned()), "a_seconds".to_owned()),
        (("b".into(), "B".to_owned()), "b".to_owned()),
    ]);
    assert_eq!(names(&files, Path::new("a"), text, &calls[1]).unwrap(), ["a_seconds", "b"]);
    assert!(is_in("rate(a_seconds_bucket[1m])", "a_seconds") && !is_in("b_a_seconds", "a_seconds"));
}
