//! Headers of raw records, size limits, and positions of records.

use std::fmt;

use serde::Serialize;

pub use crate::hash::hashed;
use crate::{ids::ID_BYTES_MAX, text::has_control};

/// The event's id.
pub const EVENT_ID: &str = "event-id";
/// The event's type.
pub const EVENT_TYPE: &str = "event-type";
/// `true` or `false`; absent if the event has no mode.
pub const LIVE_MODE: &str = "live-mode";
/// The name of the endpoint that received the event.
pub const ENDPOINT: &str = "endpoint";
/// When ingest received the request, RFC 3339.
pub const RECEIVED_AT: &str = "received-at";
/// The unchanged signature header, so that the event can be verified again later.
pub const SIGNATURE: &str = "signature";
/// The id of the endpoint's secret that matched.
pub const SECRET_ID: &str = "secret-id";
/// W3C trace context, if the request had one.
pub const TRACEPARENT: &str = "traceparent";
/// The origin of the record: [`ORIGIN_WEBHOOK`], [`ORIGIN_QUARANTINE`] or [`ORIGIN_RECONCILE`].
pub const ORIGIN: &str = "origin";
/// The record is from an authenticated delivery.
pub const ORIGIN_WEBHOOK: &str = "webhook";
/// The record was in the quarantine, and an operator released it after its signature had been verified.
pub const ORIGIN_QUARANTINE: &str = "quarantine";
/// Oddities of an authenticated request, separated by commas: `media_type`, `content_encoding`, `size` (larger than
/// [`FOLDED_BYTES_MAX`]), `not_an_event`. Absent if there are none.
pub const ODDITIES: &str = "oddities";
/// The request's `Content-Type`; only with [`ODDITIES`].
pub const CONTENT_TYPE: &str = "content-type";
/// The request's `Content-Encoding`; only with [`ODDITIES`]. The body is stored encoded, as it was signed.
pub const CONTENT_ENCODING: &str = "content-encoding";
/// Only with [`ORIGIN_QUARANTINE`]: the operator who released the record.
pub const RELEASED_BY: &str = "released-by";
/// Only with [`ORIGIN_QUARANTINE`]: when the record was released, RFC 3339.
pub const RELEASED_AT: &str = "released-at";
/// Only with [`ORIGIN_QUARANTINE`]: the operator's reason.
pub const RELEASE_REASON: &str = "release-reason";
/// Only with [`ORIGIN_QUARANTINE`]: [`TRUE`] if the signature's age was not checked.
pub const AGE_IGNORED: &str = "age-ignored";
/// The value of a header that is set.
pub const TRUE: &str = "true";
/// The event was fetched from Digital River's Events API, so the record has no signature.
pub const ORIGIN_RECONCILE: &str = "reconcile";
/// In quarantine only: the code of the reason why the event was not authenticated.
pub const REASON: &str = "reason";
/// In quarantine only: [`PASSED`] or [`FAILED`]; absent if the endpoint requires no basic authentication.
pub const BASIC: &str = "basic";
/// In quarantine only: [`PASSED`] or [`FAILED`]; absent if the endpoint requires no bearer token.
pub const BEARER: &str = "bearer";
/// The request's credentials were correct.
pub const PASSED: &str = "passed";
/// The request's credentials were missing or wrong.
pub const FAILED: &str = "failed";

/// Largest body, in bytes, that consumers parse. A larger one is stored unchanged and becomes a dead letter without being
/// parsed, so that a single event cannot use up a consumer's time and memory.
///
/// Digital River's largest documented events, orders with hundreds of lines, have some hundred kilobytes.
pub const FOLDED_BYTES_MAX: usize = 1 << 20;
/// Largest body, in bytes, that ingest stores. Topics, producers and consumers must accept records of this size and their
/// headers.
pub const STORED_BYTES_MAX: usize = 4 << 20;

/// Returns a text that is safe as a record's key or header and in logs: the text itself, or its SHA-256 if it is longer than
/// [`ID_BYTES_MAX`] or contains a control character.
///
/// The full text is in the record's value in any case, and a key of a megabyte would make the record too large to store.
#[must_use]
pub fn bounded(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= ID_BYTES_MAX && !has_control(text) { text.into() } else { hashed(text).into() }
}

/// The position of a record in Kafka. Printed as `topic[partition]@offset`.
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
    fn keys_are_short_and_have_no_control_characters() {
        assert_eq!(bounded("o-1"), "o-1");
        for text in ["a\n2026 ERROR forged", "\0", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(bounded(text), hashed(text));
        }
    }
}
