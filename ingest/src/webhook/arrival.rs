//! A complete request, and the headers of its record.

use std::{borrow::Cow, sync::Arc};

use axum::http::{HeaderMap, HeaderName, header};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{Header, OwnedHeaders};
use riverlock_schemas::{Envelope, hash::Sha256Hash, kafka::record};

use crate::{
    auth::signature,
    endpoints::Endpoint,
    webhook::{odd::Oddities, reading::Origin},
};

/// Usual number of headers of a record.
const HEADERS: usize = 9;

/// Longest request header that is stored for an oddity, in bytes.
const KEPT_HEADER_BYTES_MAX: usize = 256;

/// A complete request.
pub(crate) struct Arrival {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) received_at: DateTime<Utc>,
    pub(crate) origin: Origin,
}

/// Adds a header.
pub(crate) fn put(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// The record key, which puts all events of an order into one partition.
pub(crate) fn key<'a>(envelope: &'a Envelope<'_>) -> Cow<'a, str> {
    record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id))
}

/// The id used for a body that is not an event.
pub(crate) fn body_id(body: &[u8]) -> String {
    format!("sha256:{}", Sha256Hash::of(body))
}

impl Arrival {
    /// The record headers that describe the delivery. They contain no credentials.
    pub(crate) fn record_headers(
        &self,
        envelope: Option<&Envelope<'_>>,
        oddities: Oddities,
        secret_id: Option<&str>,
    ) -> OwnedHeaders {
        let received_at = self.received_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut headers = OwnedHeaders::new_with_capacity(HEADERS);
        if let Some(envelope) = envelope {
            headers = put(headers, record::EVENT_ID, record::bounded(&envelope.id).as_bytes());
            headers = put(headers, record::EVENT_TYPE, record::bounded(&envelope.event_type).as_bytes());
            if let Some(mode) = envelope.mode {
                headers = put(headers, record::LIVE_MODE, if mode.is_live() { b"true" } else { b"false" });
            }
        }
        headers = put(headers, record::ENDPOINT, self.endpoint.name.as_bytes());
        headers = put(headers, record::RECEIVED_AT, received_at.as_bytes());
        // An insecure endpoint does not check it, so it may be too long.
        if let Some(value) = self.headers.get(signature::HEADER).filter(|it| it.len() <= signature::HEADER_BYTES_MAX) {
            headers = put(headers, record::SIGNATURE, value.as_bytes());
        }
        if let Some(id) = secret_id {
            headers = put(headers, record::SECRET_ID, id.as_bytes());
        }
        if let Some(value) = self.headers.get(record::TRACEPARENT).filter(|it| is_traceparent(it.as_bytes())) {
            headers = put(headers, record::TRACEPARENT, value.as_bytes());
        }
        if !oddities.is_empty() {
            headers = self.put_oddities(headers, oddities);
        }
        put(headers, record::ORIGIN, record::ORIGIN_WEBHOOK.as_bytes())
    }

    /// Adds the oddities, and the request headers that are needed to read the body.
    fn put_oddities(&self, headers: OwnedHeaders, oddities: Oddities) -> OwnedHeaders {
        let mut headers = put(headers, record::ODDITIES, oddities.names().as_bytes());
        let kept: [(&str, HeaderName); 2] =
            [(record::CONTENT_TYPE, header::CONTENT_TYPE), (record::CONTENT_ENCODING, header::CONTENT_ENCODING)];
        for (key, name) in kept {
            if let Some(value) = self.headers.get(name) {
                let bytes = value.as_bytes();
                headers = put(headers, key, &bytes[..bytes.len().min(KEPT_HEADER_BYTES_MAX)]);
            }
        }
        headers
    }
}

/// Whether the value has the format of W3C's `traceparent`; other values are not stored.
fn is_traceparent(value: &[u8]) -> bool {
    value.len() == 55 && value.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}
