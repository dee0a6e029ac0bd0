//! Names of the headers that a raw record carries next to the exact bytes, and where a record lies.

use std::fmt;

use serde::Serialize;

use crate::{hash::Sha256Hash, ids::ID_BYTES_MAX};

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

/// A text that is safe as a record's key or header: as it is, or its SHA-256 where it is longer than an id may be.
///
/// The full text is in the record's value in any case; a key of a megabyte would only make the record too large to store.
#[must_use]
pub fn bounded(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= ID_BYTES_MAX { text.into() } else { hashed(text).into() }
}

/// What stands for a text that cannot be a key.
#[must_use]
pub fn hashed(text: &str) -> String {
    format!("sha256:{}", Sha256Hash::of(text.as_bytes()))
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
