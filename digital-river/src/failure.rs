//! Failures of requests, and the rules about which of them may be repeated.
//!
//! Digital River has no idempotency keys, so it must be known whether a failed request was executed. A request that never
//! reached Digital River, or that it answered with `429`, was not. One that was sent and answered with `5xx`, `408` or not
//! at all may have been. Repeating it is harmless if it only reads or sets fixed values, but not if it creates something:
//! then the caller has to read back first.

use std::fmt;

use riverlock_schemas::Mode;
use serde_json::Value;

/// Longest part of an answer that an error quotes, in characters.
const QUOTE_CHARS_MAX: usize = 200;

/// Most entries of `errors` that are kept.
const DETAILS_MAX: usize = 20;

/// Effect of repeating a request that was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None: it only reads.
    Read,
    /// None beyond the first: it sets fixed values or deletes.
    Idempotent,
    /// A second effect: it creates something.
    Once,
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Because of this process's rate limit, or of a pause that Digital River requested, there was no slot before the
    /// deadline.
    NoSlot,
    /// No connection: the request did not reach Digital River.
    NotConnected(String),
    /// The request may have reached Digital River, but no complete answer was received.
    Lost(String),
    /// An answer outside 2xx.
    Status(Box<ErrorAnswer>),
    /// A successful answer with an invalid body.
    Unreadable(String),
}

/// An answer outside 2xx.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Digital River's `type`, for example `conflict`. Empty if the answer has none.
    pub kind: String,
    /// Digital River's `errors`.
    pub details: Vec<Detail>,
    /// The wait of `Retry-After`, up to the configured limit.
    pub retry_after: Option<std::time::Duration>,
    /// The beginning of an answer that is not in Digital River's error format, for example of an HTML page.
    pub text: String,
}

/// One element of `errors`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// A stable code, for example `missing_parameter`. Empty if there is none.
    pub code: String,
    /// The parameter that caused the error. Empty if there is none.
    pub parameter: String,
    /// The description: `message`, or `description` in answers that use that name.
    pub message: String,
}

/// Whether and when a failed attempt may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// After a backoff: it was not executed, or executing it twice is harmless.
    AfterBackoff,
    /// After Digital River's `Retry-After`, or a backoff without one. It was not executed.
    AfterPause,
    /// Only if the key changed less than ten minutes ago. It was not executed.
    AfterKeyChange,
    /// Only after reading back whether it was executed.
    AfterReadBack,
    /// Not automatically: it would be rejected again.
    Never,
}

/// Decides whether and when a failed request may be repeated.
///
/// Source: Digital River, "Errors" and "Rate limits": a `429` does not reach the backend.
#[must_use]
pub fn repeat(effect: Effect, failure: &Failure) -> Repeat {
    let may_have_been_executed = match effect {
        Effect::Read | Effect::Idempotent => Repeat::AfterBackoff,
        Effect::Once => Repeat::AfterReadBack,
    };
    match failure {
        Failure::NoSlot => Repeat::Never,
        Failure::NotConnected(_) => Repeat::AfterBackoff,
        Failure::Lost(_) | Failure::Unreadable(_) => may_have_been_executed,
        Failure::Status(answer) => match answer.status {
            429 => Repeat::AfterPause,
            401 => Repeat::AfterKeyChange,
            408 | 500..=599 => may_have_been_executed,
            _ => Repeat::Never,
        },
    }
}

/// A failed request to Digital River, with all details that its support needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The HTTP method.
    pub method: &'static str,
    /// The path, without the query.
    pub path: Box<str>,
    /// The mode of the key.
    pub mode: Mode,
    /// The last attempt's failure.
    pub failure: Failure,
    /// Whether and when the last attempt may be repeated.
    pub repeat: Repeat,
    /// Number of attempts.
    pub attempts: u32,
    /// Digital River's `x-dr-requestid` of the last answer.
    pub request_id: Option<String>,
    /// The `upstream-id` of the last attempt.
    pub upstream_id: String,
}

impl Error {
    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.failure {
            Failure::Status(answer) => Some(answer.status),
            _ => None,
        }
    }

    /// Whether the request may have been executed although it failed.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.repeat == Repeat::AfterReadBack
    }

    /// The first `code` of the answer; empty if there is none.
    #[must_use]
    pub fn code(&self) -> &str {
        match &self.failure {
            Failure::Status(answer) => answer.details.first().map_or("", |detail| &detail.code),
            _ => "",
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, mode, failure, attempts, .. } = self;
        write!(f, "{method} {path} ({mode} data): {failure}")?;
        if *attempts > 1 {
            write!(f, ", after {attempts} attempts")?;
        }
        if self.is_ambiguous() {
            f.write_str("; it may have been executed")?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (x-dr-requestid {id})"),
            None => write!(f, " (upstream-id {})", self.upstream_id),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot => f.write_str("the rate limit has no slot before the deadline"),
            Self::NotConnected(cause) => write!(f, "no connection: {cause}"),
            Self::Lost(cause) => write!(f, "no complete answer: {cause}"),
            Self::Unreadable(cause) => write!(f, "the answer is invalid: {cause}"),
            Self::Status(answer) => write!(f, "{answer}"),
        }
    }
}

impl fmt::Display for ErrorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status)?;
        if !self.kind.is_empty() {
            write!(f, " {}", self.kind)?;
        }
        for detail in &self.details {
            write!(f, ": {}", detail.message)?;
            let parts = [&detail.code, &detail.parameter].map(String::as_str);
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            if !parts.is_empty() {
                write!(f, " [{}]", parts.join(", "))?;
            }
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        match self.status {
            401 => f.write_str(". Check the API key; a new key can take up to 10 minutes to work everywhere"),
            403 if self.details.is_empty() => f.write_str(". The API key lacks the permission for this"),
            _ => Ok(()),
        }
    }
}

impl ErrorAnswer {
    /// Parses an answer's body tolerantly: Digital River's error format, a part of it, or anything else.
    #[must_use]
    pub fn read(status: u16, body: &[u8]) -> Self {
        let answer = Self { status, ..Self::default() };
        let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(body) else {
            return Self {
                text: quote(&String::from_utf8_lossy(&body[..body.len().min(QUOTE_CHARS_MAX * 4)])),
                ..answer
            };
        };
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(quote).unwrap_or_default();
        let details = fields.get("errors").and_then(Value::as_array).into_iter().flatten().take(DETAILS_MAX);
        let details = details.map(|error| {
            let message = text(error, "message");
            Detail {
                code: text(error, "code"),
                parameter: text(error, "parameter"),
                message: if message.is_empty() { text(error, "description") } else { message },
            }
        });
        let kind = fields.get("type").and_then(Value::as_str).map(quote).unwrap_or_default();
        Self { kind, details: details.collect(), ..answer }
    }
}

/// The beginning of a text, on one line and without control characters.
#[must_use]
pub fn quote(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let words: String = text.chars().take(QUOTE_CHARS_MAX).map(clean).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Failure {
        Failure::Status(Box::new(ErrorAnswer { status, ..ErrorAnswer::default() }))
    }

    #[test]
    fn possibly_executed_requests_are_repeated_only_if_harmless() {
        use Effect::{Idempotent, Once, Read};
        let lost = || Failure::Lost("reset".into());
        for (failure, read, idempotent, once) in [
            (Failure::NotConnected("refused".into()), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterBackoff),
            (status(429), Repeat::AfterPause, Repeat::AfterPause, Repeat::AfterPause),
            (lost(), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterReadBack),
            (Failure::Unreadable("html".into()), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterReadBack),
            (status(408), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterReadBack),
            (status(500), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterReadBack),
            (status(504), Repeat::AfterBackoff, Repeat::AfterBackoff, Repeat::AfterReadBack),
            (status(401), Repeat::AfterKeyChange, Repeat::AfterKeyChange, Repeat::AfterKeyChange),
            (status(400), Repeat::Never, Repeat::Never, Repeat::Never),
            (status(403), Repeat::Never, Repeat::Never, Repeat::Never),
            (status(404), Repeat::Never, Repeat::Never, Repeat::Never),
            (status(409), Repeat::Never, Repeat::Never, Repeat::Never),
            (status(302), Repeat::Never, Repeat::Never, Repeat::Never),
            (Failure::NoSlot, Repeat::Never, Repeat::Never, Repeat::Never),
        ] {
            let found = [Read, Idempotent, Once].map(|effect| repeat(effect, &failure));
            assert_eq!(found, [read, idempotent, once], "{failure}");
        }
    }

    #[test]
    fn error_bodies_are_parsed_tolerantly() {
        let full =
            br#"{"type":"conflict","errors":[{"code":"order_fulfilled","parameter":"orderId","message":"Resource"}]}"#;
        let answer = ErrorAnswer::read(409, full);
        assert_eq!((answer.kind.as_str(), answer.details[0].code.as_str()), ("conflict", "order_fulfilled"));
        assert_eq!(answer.to_string(), "answered 409 conflict: Resource [order_fulfilled, orderId]");

        let answer =
            ErrorAnswer::read(409, br#"{"errors":[{"code":"payment_authorization_failed","description":"expired"}]}"#);
        assert_eq!(answer.details[0].message, "expired");

        let html = "<html>\n<head><title>Request unsuccessful.</title>".repeat(100);
        let answer = ErrorAnswer::read(503, html.as_bytes());
        assert!(answer.text.starts_with("<html> <head>") && answer.text.len() <= QUOTE_CHARS_MAX, "{answer}");
        for odd in [&b""[..], b"[]", b"{}", br#"{"errors":7}"#, br#"{"errors":[7,null]}"#, b"\xff\xfe"] {
            assert_eq!(ErrorAnswer::read(500, odd).status, 500);
        }
    }
}
