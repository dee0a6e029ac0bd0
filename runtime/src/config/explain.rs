//! Error messages for invalid configurations. They repeat no values, because any value may be a misplaced secret.

use figment::error::{Actual, Error, Kind};

use super::ENV_PREFIX;

/// Prefix of the TOML parser's errors; the line of the file, which follows it, is omitted.
const SYNTAX_ERROR: &str = "TOML parse error";

/// All errors, separated by semicolons.
pub(super) fn explain(error: Error) -> String {
    error.into_iter().map(|error| one(&error)).collect::<Vec<_>>().join("; ")
}

fn one(error: &Error) -> String {
    let what = match &error.kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("found {}, expected {expected}", kind(actual))
        }
        Kind::Unsupported(actual) => format!("{} is not supported here", kind(actual)),
        Kind::UnknownField(name, expected) => {
            format!("unknown field `{name}`, expected one of {}", expected.join(", "))
        }
        Kind::UnknownVariant(name, expected) => format!("found `{name}`, expected one of {}", expected.join(", ")),
        Kind::Message(text) => without_source(text),
        other => other.to_string(),
    };
    match location(error) {
        Some(location) => format!("{location}: {what}"),
        None => what,
    }
}

/// The key and its source.
fn location(error: &Error) -> Option<String> {
    let metadata = error.metadata.as_ref();
    let source = metadata.and_then(|metadata| metadata.source.as_ref());
    let is_environment = metadata.is_some_and(|metadata| metadata.name.contains("environment"));
    let key = match error.path.as_slice() {
        [] => None,
        path if is_environment => Some(format!("{ENV_PREFIX}{}", path.join("__").to_uppercase())),
        path => Some(path.join(".")),
    };
    match (key, source) {
        (Some(key), Some(source)) => Some(format!("{key} in {source}")),
        (Some(key), None) => Some(key),
        (None, source) => source.map(|source| format!("in {source}")),
    }
}

fn kind(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "a string",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "another type",
    }
}

/// The TOML parser's message and position, without the quoted line.
fn without_source(text: &str) -> String {
    if !text.starts_with(SYNTAX_ERROR) {
        return text.to_owned();
    }
    let quoted = |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    text.lines().filter(|line| !quoted(line)).map(str::trim).collect::<Vec<_>>().join(", ")
}
