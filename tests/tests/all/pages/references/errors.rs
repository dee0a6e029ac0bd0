//! `docs/reference/errors.md`: its tables have exactly the codes of the source.

use std::collections::BTreeSet;

use crate::tidy::code::{read, root, sources};

const PAGE: &str = "docs/reference/errors.md";

/// The concatenated code of some folders.
fn code(folders: &[&str]) -> String {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| sources(&root().join(folder), &mut files));
    files.retain(|file| !file.to_string_lossy().contains("tests"));
    let text = |file| read(file).split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    files.iter().map(|file| text(file)).collect()
}

/// The text from `head` to the closing brace of its block.
fn block<'a>(text: &'a str, head: &str) -> &'a str {
    let start = text.find(head).unwrap_or_else(|| panic!("nothing has {head}"));
    let mut depth = 0;
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[start..start + at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("{head} has no end")
}

/// The string literals of a text that have the form of codes.
fn literals(text: &str) -> BTreeSet<String> {
    let is_code = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    text.split('"').skip(1).step_by(2).filter(is_code).map(str::to_owned).collect()
}

/// The second of each pair of literals.
fn seconds(text: &str) -> BTreeSet<String> {
    text.split("(\"").skip(1).filter_map(|pair| pair.split('"').nth(2)).map(str::to_owned).collect()
}

/// The string literals directly after `words`.
fn after(text: &str, words: &str) -> BTreeSet<String> {
    assert!(words.ends_with('"'));
    text.split(words).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// The codes in the first column of a table of the page.
fn listed(page: &str, name: &str) -> BTreeSet<String> {
    let marker = format!("<!-- codes: {name} -->");
    let rest = page.split(&marker).nth(1).unwrap_or_else(|| panic!("{PAGE} has no {marker}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).filter_map(|row| Some(row.split('`').nth(1)?.to_owned())).collect()
}

#[test]
fn the_page_has_every_code() {
    let page = read(&root().join(PAGE));
    let ingest = code(&["ingest/src"]);
    let consumers = code(&["ledger/src", "recovery/src", "processor/src", "invoice-fetcher/src"]);
    let schemas = code(&["schemas/src"]);
    let shipments = code(&["shipments/src"]);
    let api = code(&["runtime/src", "processor/src/api", "invoice-fetcher/src"]);

    let mut documents = literals(block(
        &consumers,
        "fn reason(&self) -> &'static str {\n        match self {\n            Self::KeyRefused",
    ));
    documents.retain(|reason| !reason.is_empty());

    let mut dead = literals(block(&schemas, "fn code(&self) -> &'static str"));
    dead.extend(literals(block(&consumers, "fn dead(&self) -> DeadReason")));
    dead.extend(after(&consumers, "const TOO_LARGE: &str = \""));
    dead.extend(after(&consumers, "DeadReason { reason: \""));

    let mut requests = after(&api, "ApiError::unavailable(\"");
    requests.extend(after(&api, "gone(\""));
    requests.extend(literals(block(&api, "pub fn parameter(name")));
    requests.extend(literals(block(&api, "pub fn unauthorized() -> Self")));
    requests.extend(literals(block(&api, "pub fn not_found(message")));
    requests.extend(literals(block(&api, "pub fn method_not_allowed() -> Self")));
    requests.extend(literals(block(&api, "pub fn internal() -> Self")));

    let mut refused = literals(block(&shipments, "pub fn code(&self) -> &'static str"));
    refused.extend(after(&api, "StatusCode::BAD_REQUEST, \"").into_iter().filter(|code| code != "invalid_parameter"));
    refused.extend(after(&api, "AddError::KeyReused(_) => (StatusCode::CONFLICT, \""));

    for (name, codes) in [
        ("webhooks", seconds(block(&ingest, "fn names(&self) -> (&'static str, &'static str)"))),
        ("apis", requests),
        ("shipments", refused),
        ("ignored", after(&consumers, "Decision::Ignore(\"")),
        ("dead letters", dead),
        ("documents", documents),
    ] {
        assert!(codes.len() > 1, "{name}: only {codes:?} were found in the code: the test showed nothing");
        assert_eq!(listed(&page, name), codes, "{PAGE}, {name}: codes on the page, and codes in the code");
    }
}
