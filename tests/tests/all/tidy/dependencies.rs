//! Dependencies: the rules of `deny.toml` that can be checked without cargo-deny and without a network.

use std::process::Command;

use serde_json::Value;

use super::code::{read, root};

/// Where crates may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The packages of the workspace and all their dependencies on Linux.
fn packages() -> Vec<Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--format-version", "1"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The licences that `deny.toml` allows.
fn allowed() -> Vec<String> {
    let text = read(&root().join("deny.toml"));
    let list = text.split("\nallow = [").nth(1).unwrap().split("\n]").next().unwrap();
    list.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).map(str::to_owned).collect()
}

/// Whether an SPDX expression is satisfied by allowed licences. Without parentheses, `AND` binds more closely than `OR`; older
/// crates write `/` for `OR`.
fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let mut text = expression.replace('/', " OR ");
    while let Some(open) = text.rfind('(') {
        let close = open + text[open..].find(')').unwrap();
        let inner = if is_satisfied(&text[open + 1..close], allowed) { &allowed[0] } else { "none" };
        text.replace_range(open..=close, inner);
    }
    text.split(" OR ").any(|all| all.split(" AND ").all(|one| allowed.iter().any(|allowed| allowed == one.trim())))
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_crates_io() {
    let allowed = allowed();
    assert!(allowed.len() > 4, "only {allowed:?} were found");
    let (mut checked, mut used) = (0, Vec::new());
    for package in packages().iter().filter(|package| !package["source"].is_null()) {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} has no licence"));
        assert!(is_satisfied(licence, &allowed), "the licence of {name} is not allowed: {licence}");
        assert_eq!(package["source"], REGISTRY, "{name}");
        used.extend(allowed.iter().filter(|one| !is_satisfied(licence, &without(&allowed, one))));
        checked += 1;
    }
    assert!(checked > 300, "only {checked} packages were found");
    for licence in &allowed {
        assert!(used.contains(&licence), "deny.toml allows {licence}, which no dependency needs");
    }
}

fn without(licences: &[String], one: &str) -> Vec<String> {
    licences.iter().filter(|licence| *licence != one).cloned().collect()
}

#[test]
fn alternatives_and_conjunctions_of_licences_are_distinguished() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("ISC AND (GPL-3.0 OR Zlib)", false),
        ("(MIT OR Zlib) AND (GPL-3.0 OR ISC)", true),
    ] {
        assert_eq!(is_satisfied(expression, &allowed), expected, "{expression}");
    }
}
