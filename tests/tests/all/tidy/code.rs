//! Rules of ARCHITECTURE.md and CONTRIBUTING.md for the code.

use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 500;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names under `[dependencies]` of a crate.
fn dependencies(crate_folder: &str) -> Vec<String> {
    let manifest = read(&root().join(crate_folder).join("Cargo.toml"));
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The crates of the product and of the sandbox: the workspace's members but the tests.
fn crates() -> Vec<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let names = members.split('"').skip(1).step_by(2).filter(|name| *name != "tests").map(str::to_owned);
    let names: Vec<String> = names.collect();
    assert!(names.len() > 8, "only {names:?} were found");
    names
}

/// The source files of all crates but the tests.
pub(crate) fn crate_sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    crates().iter().for_each(|name| sources(&root().join(name).join("src"), &mut files));
    files
}

#[test]
fn crates_have_only_allowed_dependencies() {
    let services = ["riverlock-ingest", "riverlock-processor", "riverlock-invoice-fetcher"];
    for (crate_folder, forbidden) in [
        ("schemas", &["tokio", "axum", "sqlx", "rdkafka", "reqwest", "tracing", "metrics", "riverlock-runtime"][..]),
        ("runtime", &["sqlx", "reqwest", "riverlock-ledger", "riverlock-sandbox"]),
        ("ledger", &["axum", "reqwest", "object_store", "riverlock-recovery", "riverlock-sandbox"]),
        ("recovery", &["axum", "reqwest", "object_store", "riverlock-sandbox"]),
        ("ingest", &["sqlx", "riverlock-ledger", "riverlock-sandbox", "reqwest"]),
        ("processor", &["reqwest", "riverlock-recovery", "riverlock-sandbox"]),
        ("invoice-fetcher", &["riverlock-recovery", "riverlock-sandbox"]),
        ("digital-river", &["axum", "sqlx", "rdkafka", "riverlock-ledger", "riverlock-sandbox"]),
        ("reconcile", &["axum", "reqwest", "riverlock-sandbox"]),
        ("shipments", &["axum", "reqwest", "riverlock-sandbox"]),
        ("sandbox", &["sqlx", "riverlock-ledger", "riverlock-runtime"]),
    ] {
        let found = dependencies(crate_folder);
        assert!(!found.is_empty(), "{crate_folder} has dependencies");
        for name in &found {
            assert!(!forbidden.contains(&name.as_str()), "{crate_folder} must not depend on {name}");
            let service = services.contains(&name.as_str());
            assert!(!service, "{crate_folder} must not depend on a service: they meet in Kafka and PostgreSQL");
        }
    }
}

#[test]
fn pure_parts_have_no_clock_no_async_and_no_io() {
    let mut files = Vec::new();
    sources(&root().join("processor/src/domain"), &mut files);
    sources(&root().join("schemas/src"), &mut files);
    assert!(files.len() > 10);
    for file in files {
        let text = read(&file);
        for word in ["async ", ".await", "Utc::now", "SystemTime", "std::fs", "std::net", "std::env"] {
            assert!(!text.contains(word), "{} has `{word}`", file.display());
        }
    }
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.split("[workspace.dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines.filter(|line| !line.contains("path = ")) {
        assert!(line.contains(" # "), "no reason given: {line}");
    }
}

#[test]
fn source_files_are_not_too_long() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files {
        let lines = read(&file).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", file.display());
    }
}

#[test]
fn every_statement_has_a_name() {
    for file in crate_sources() {
        let text = read(&file);
        for (at, _) in text.match_indices("query!(").chain(text.match_indices("query_as!(")) {
            let call: String = text[at..].chars().take(120).collect();
            let short = call.contains("query!(\"SELECT") || call.contains("pg_try_advisory_lock");
            assert!(short || call.contains("-- "), "{}: a statement without a name: {call}", file.display());
        }
    }
}

#[test]
fn every_long_lived_task_has_a_heartbeat() {
    // Registered under other names: a consumer under its projection's, ingest's supervisor under the service's.
    let elsewhere = ["invoice-fetcher", "ingest-supervisor"];
    let mut files = crate_sources();
    // Not the services: the sandbox, the demo and the local stack.
    files.retain(|file| {
        let path = file.to_string_lossy();
        !["/tests/", "/sandbox/src/", "cli/src/develop/"].iter().any(|part| path.contains(part))
    });
    let texts: Vec<String> = files.iter().map(|file| read(file)).collect();
    // A unit test's tasks end with the test.
    let texts: Vec<&str> = texts.iter().filter_map(|text| text.split("#[cfg(test)]").next()).collect();
    let tasks = texts.iter().flat_map(|text| text.split(".spawn(\"").skip(1)).filter_map(|rest| rest.split('"').next());
    let tasks: Vec<&str> = tasks.filter(|task| !elsewhere.contains(task)).collect();
    assert!(tasks.len() > 8, "only {tasks:?} were found: the test showed nothing");
    for task in tasks {
        let beats = [
            format!("register_beating(\"{task}\""),
            format!("register(\"{task}\")"),
            format!("reload::run(\"{task}\""),
        ];
        let has_one = texts.iter().any(|text| beats.iter().any(|beat| text.contains(beat)));
        assert!(has_one, "the task {task} has no heartbeat: /livez does not report it when it is stuck");
    }
}

/// The files of a folder, at least one.
fn files_in(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

#[test]
fn metrics_of_alerts_and_panels_exist() {
    let code: String = crate_sources().iter().map(|file| read(file)).collect();
    let recorded = super::alerts::recorded();
    let mut asked = 0;
    for file in
        ["deploy/prometheus/rules", "deploy/prometheus/tests", "deploy/grafana/dashboards"].map(files_in).concat()
    {
        let text = read(&file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !['_', ':'].contains(&c));
        for word in words.filter(|word| word.starts_with("riverlock_") || word.starts_with("riverlock:")) {
            let ends = ["_bucket", "_count", "_sum"];
            let name = ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            let exists =
                recorded.contains_key(word) || [word, name].iter().any(|name| code.contains(&format!("\"{name}\"")));
            assert!(exists, "{} uses {word}, which no crate publishes", file.display());
            asked += 1;
        }
    }
    assert!(asked > 200, "only {asked} names were found: the test showed nothing");
}
