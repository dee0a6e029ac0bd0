//! Names of the headers that a raw record carries next to the exact bytes, and where a record lies.

use std::fmt;

use serde::Serialize;

pub use crate::hash::hashed;
use crate::{ids::ID_BYTES_MAX, text::has_control};

/// The event's id.
pub const EVENT_ID: &str = "event-id";
/// The event's type.
pub const EVENT_TYPE: &str = "event-type";
/// `true` or `false`; absent when the event does not say.
pub const LIVE_MODE: &str = "live-mode";
/// The name of the endpoint that took the event.
pub const ENDPOINT: &str = "endpoint";
/// When ingest took the request, RFC 3339.
pub const RECEIVED_AT: &str = "received-at";
/// The signature header as it came, so that the event can be verified again later.
pub const SIGNATURE: &str = "signature";
/// Which of the endpoint's secrets matched.
pub const SECRET_ID: &str = "secret-id";
/// W3C trace context, when the request carried one.
pub const TRACEPARENT: &str = "traceparent";
/// Where the record comes from: [`ORIGIN_WEBHOOK`], [`ORIGIN_QUARANTINE`] or [`ORIGIN_RECONCILE`].
pub const ORIGIN: &str = "origin";
/// The record came through the front door.
pub const ORIGIN_WEBHOOK: &str = "webhook";
/// The record was kept in quarantine, and an operator released it after its signature turned out to be right.
pub const ORIGIN_QUARANTINE: &str = "quarantine";
/// What was odd about an authentic request, in words separated by commas: `media_type`, `content_encoding`, `size` (larger than
/// [`FOLDED_BYTES_MAX`]), `not_an_event`. Absent when nothing was.
pub const ODDITIES: &str = "oddities";
/// The request's `Content-Type`; only with [`ODDITIES`].
pub const CONTENT_TYPE: &str = "content-type";
/// The request's `Content-Encoding`; only with [`ODDITIES`]. The body is stored encoded, as it was signed.
pub const CONTENT_ENCODING: &str = "content-encoding";
/// Only with [`ORIGIN_QUARANTINE`]: who released the record.
pub const RELEASED_BY: &str = "released-by";
/// Only with [`ORIGIN_QUARANTINE`]: when, RFC 3339.
pub const RELEASED_AT: &str = "released-at";
/// Only with [`ORIGIN_QUARANTINE`]: why, in the operator's words.
pub const RELEASE_REASON: &str = "release-reason";
/// Only with [`ORIGIN_QUARANTINE`]: [`TRUE`] if the operator had the age of the signature ignored.
pub const AGE_IGNORED: &str = "age-ignored";
/// The value of a header that says yes.
pub const TRUE: &str = "true";
/// The record was never delivered: it was fetched from Digital River's Events API, so it carries no signature.
pub const ORIGIN_RECONCILE: &str = "reconcile";
/// In quarantine only: why its sender was not believed, in a word.
pub const REASON: &str = "reason";
/// In quarantine only: [`PASSED`] or [`FAILED`]; absent when the endpoint asked for no basic authentication.
pub const BASIC: &str = "basic";
/// In quarantine only: [`PASSED`] or [`FAILED`]; absent when the endpoint asked for no bearer token.
pub const BEARER: &str = "bearer";
/// The request's credentials were right.
pub const PASSED: &str = "passed";
/// The request's credentials were missing or wrong.
pub const FAILED: &str = "failed";

/// Largest body, in bytes, that consumers interpret. A larger one is stored as it came and becomes a dead letter without being
/// parsed, so that one request cannot take a consumer's time and memory from all others.
///
/// Digital River's largest documented events, orders with hundreds of lines, have some hundred kilobytes.
pub const FOLDED_BYTES_MAX: usize = 1 << 20;
/// Largest body, in bytes, that ingest stores. Topics, producers and consumers must accept records of this size and their
/// headers.
pub const STORED_BYTES_MAX: usize = 4 << 20;

/// A text that is safe as a record's key or header, and in a line of a log: as it is, or its SHA-256 where it is longer than
/// an id may be or holds a control character.
///
/// The full text is in the record's value in any case; a key of a megabyte would only make the record too large to store.
#[must_use]
pub fn bounded(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= ID_BYTES_MAX && !has_control(text) { text.into() } else { hashed(text).into() }
}

/// Where a record lies in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_one_line() {
        assert_eq!(bounded("o-1"), "o-1");
        for text in ["a\n2026 ERROR forged", "\0", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(bounded(text), hashed(text));
        }
    }
}
