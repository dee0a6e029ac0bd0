//! What is wrong with a configuration, in a sentence that repeats no value: any value may be a secret in the wrong place.

use figment::error::{Actual, Error, Kind};

use super::ENV_PREFIX;

/// What the TOML parser's error begins with; it goes on with the line of the file, which is left out.
const SYNTAX_ERROR: &str = "TOML parse error";

/// All that is wrong, one after the other.
pub(super) fn explain(error: Error) -> String {
    error.into_iter().map(|error| one(&error)).collect::<Vec<_>>().join("; ")
}

fn one(error: &Error) -> String {
    let what = match &error.kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("found {}, expected {expected}", kind(actual))
        }
        Kind::Unsupported(actual) => format!("{} is not possible here", kind(actual)),
        Kind::UnknownField(name, expected) => {
            format!("unknown field `{name}`, expected one of {}", expected.join(", "))
        }
        Kind::UnknownVariant(name, expected) => format!("found `{name}`, expected one of {}", expected.join(", ")),
        Kind::Message(text) => without_source(text),
        other => other.to_string(),
    };
    match place(error) {
        Some(place) => format!("{place}: {what}"),
        None => what,
    }
}

/// The key and where it was written.
fn place(error: &Error) -> Option<String> {
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
        Actual::Char(_) | Actual::Str(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

/// The TOML parser's message and position, without the line that it quotes.
fn without_source(text: &str) -> String {
    if !text.starts_with(SYNTAX_ERROR) {
        return text.to_owned();
    }
    let quoted = |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    text.lines().filter(|line| !quoted(line)).map(str::trim).collect::<Vec<_>>().join(", ")
}
