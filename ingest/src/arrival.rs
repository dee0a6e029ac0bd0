//! A request that was read, and the headers that its record carries.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{Header, OwnedHeaders};
use riverlock_schemas::{Envelope, record};

use crate::{endpoints::Endpoint, signature};

/// A request that was read.
pub(crate) struct Arrival {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) received_at: DateTime<Utc>,
}

/// Adds a header.
pub(crate) fn put(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// What brings an order's events together.
pub(crate) fn key<'a>(envelope: &'a Envelope<'_>) -> std::borrow::Cow<'a, str> {
    record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id))
}

impl Arrival {
    /// What a record says of how its event came. Credentials are not among it.
    pub(crate) fn record_headers(&self, envelope: &Envelope<'_>, secret_id: Option<&str>) -> OwnedHeaders {
        let received_at = self.received_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut headers = OwnedHeaders::new_with_capacity(9);
        headers = put(headers, record::EVENT_ID, record::bounded(&envelope.id).as_bytes());
        headers = put(headers, record::EVENT_TYPE, record::bounded(&envelope.event_type).as_bytes());
        if let Some(mode) = envelope.mode {
            headers = put(headers, record::LIVE_MODE, if mode.is_live() { b"true" } else { b"false" });
        }
        headers = put(headers, record::ENDPOINT, self.endpoint.name.as_bytes());
        headers = put(headers, record::RECEIVED_AT, received_at.as_bytes());
        // An insecure endpoint does not look at it, but may be sent a long one.
        if let Some(value) = self.headers.get(signature::HEADER).filter(|it| it.len() <= signature::HEADER_BYTES_MAX) {
            headers = put(headers, record::SIGNATURE, value.as_bytes());
        }
        if let Some(id) = secret_id {
            headers = put(headers, record::SECRET_ID, id.as_bytes());
        }
        if let Some(value) = self.headers.get(record::TRACEPARENT).filter(|it| is_traceparent(it.as_bytes())) {
            headers = put(headers, record::TRACEPARENT, value.as_bytes());
        }
        put(headers, record::ORIGIN, record::ORIGIN_WEBHOOK.as_bytes())
    }
}

/// Whether the value has the shape of W3C's `traceparent`: anything else is not worth keeping.
fn is_traceparent(value: &[u8]) -> bool {
    value.len() == 55 && value.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}
