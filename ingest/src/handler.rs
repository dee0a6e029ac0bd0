//! The life of one request.
//!
//! In this order: its endpoint; the right to send an event, so that a full or broken way is answered before anything is
//! read; its media type; its body; its signature; its envelope; Kafka. From the signature on the work is a task of its own:
//! it goes on when the sender hangs up, because the sender will not know, and come again.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{Header, OwnedHeaders};
use riverlock_runtime::Context;
use riverlock_schemas::{Envelope, record, topics::Topics};
use serde::Serialize;

use crate::{
    body,
    config::LimitsConfig,
    endpoints::{Endpoint, Endpoints},
    floods::Floods,
    metrics::{EndpointMetrics, Outcome, Tally},
    producer::{Admission, Delivery, Producer, Record},
    refusal::Refusal,
    signature,
    token_endpoint::{self, TokenEndpoint},
};

/// What every request needs.
pub(crate) struct Ingest {
    /// Replaced as a whole; a request keeps the endpoint that it came to.
    pub(crate) endpoints: ArcSwap<Endpoints>,
    /// Counts requests to no endpoint.
    pub(crate) unmatched: Arc<EndpointMetrics>,
    pub(crate) limits: LimitsConfig,
    pub(crate) topics: Topics,
    pub(crate) producer: Arc<Producer>,
    pub(crate) context: Context,
    pub(crate) tokens: TokenEndpoint,
    /// What may be logged about refused requests.
    pub(crate) floods: Floods,
}

/// The answer 202: where the event lies.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    /// As in the record's header: an id longer than ids may be is there as its hash.
    event_id: String,
    topic: String,
    partition: i32,
    /// `null` when Kafka had the event from an earlier try and does not say where.
    offset: Option<i64>,
}

/// A request that was read.
struct Webhook {
    endpoint: Arc<Endpoint>,
    headers: HeaderMap,
    body: Bytes,
    admission: Admission,
    received_at: DateTime<Utc>,
    /// When the answer is due.
    deadline: tokio::time::Instant,
}

/// Answers any request.
pub(crate) async fn handle(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    if ingest.endpoints.load().is_token_path(request.uri().path()) {
        let (parts, body) = request.into_parts();
        return token_endpoint::handle(&ingest, parts, body).await;
    }
    match answer(&ingest, request).await {
        Ok(receipt) => (StatusCode::ACCEPTED, Json(receipt)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(ingest: &Arc<Ingest>, request: Request) -> Result<Receipt, Refusal> {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let endpoint = ingest.endpoints.load().find(parts.uri.path());
    let mut tally = Tally::new(endpoint.as_ref().map_or(&ingest.unmatched, |endpoint| &endpoint.metrics), started);
    let waits_for_leave = parts.headers.contains_key(header::EXPECT);
    let webhook = match receive(ingest, endpoint, parts, &mut body, started).await {
        Ok(webhook) => webhook,
        Err(refusal) => {
            tally.set(refusal.outcome());
            drop(tally);
            if refusal.leaves_body() && !waits_for_leave {
                body::discard(&mut body).await;
            }
            return Err(refusal);
        }
    };
    let this = Arc::clone(ingest);
    let work = async move {
        let result = store(&this, webhook).await;
        tally.set(result.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Accepted));
        result
    };
    ingest.context.shutdown.spawn_work(work).await.unwrap_or(Err(Refusal::Internal))
}

/// Everything up to the end of the body. Nothing is believed yet.
async fn receive(
    ingest: &Ingest,
    endpoint: Option<Arc<Endpoint>>,
    parts: Parts,
    body: &mut Body,
    started: Instant,
) -> Result<Webhook, Refusal> {
    let endpoint = endpoint.ok_or(Refusal::UnknownPath)?;
    if parts.method != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    let mut admission = ingest.producer.admit(started)?;
    let received_at = ingest.context.clock.now();
    check_media_type(&parts.headers)?;
    let limits = &ingest.limits;
    let body =
        body::read(body, limits.body_bytes_max, limits.body_read_timeout, |count| admission.add_bytes(count)).await?;
    endpoint.metrics.body_bytes.increment(body.len() as u64);
    let deadline = tokio::time::Instant::from_std(started + limits.answer_deadline);
    Ok(Webhook { endpoint, headers: parts.headers, body, admission, received_at, deadline })
}

/// Takes JSON by any of its names, and a request that does not say what it is: the envelope decides.
fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or("", |value| value.to_str().unwrap_or("?")).trim();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err(Refusal::ContentEncoding);
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().map_err(|_| Refusal::ContentType)?;
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" | "text/json" => Ok(()),
        other if other.contains('/') && other.ends_with("+json") => Ok(()),
        _ => Err(Refusal::ContentType),
    }
}

/// Believes the request, or not, and brings its event to Kafka.
async fn store(ingest: &Ingest, webhook: Webhook) -> Result<Receipt, Refusal> {
    let endpoint = Arc::clone(&webhook.endpoint);
    let now = webhook.received_at;
    let secret = endpoint.authentication.check(&webhook.headers, &webhook.body, now).map_err(|failure| {
        let (name, error) = (endpoint.name.as_str(), failure.error);
        ingest.floods.warn(|| {
            let reason = error.reason();
            tracing::warn!(endpoint = name, reason, detail = ?error, "a request to {name} was not authentic: {error}");
        });
        error
    })?;
    if let Some(secret) = secret {
        endpoint.metrics.secret_matched(secret.index, now);
    }
    let envelope = Envelope::parse(&webhook.body).inspect_err(|error| {
        let name = endpoint.name.as_str();
        ingest.floods.warn(|| tracing::warn!(endpoint = name, "a body sent to {name} is no event: {error}"));
    })?;
    let event_id = record::bounded(&envelope.id).into_owned();
    if !endpoint.mode.expects(envelope.mode) {
        endpoint.metrics.mode_mismatches.increment(1);
        tracing::warn!(
            event.id = event_id,
            endpoint = endpoint.name,
            "event {event_id} is stored, but endpoint {} expects the other mode",
            endpoint.name
        );
    }

    let topic = ingest.topics.raw(&envelope.event_type);
    let record = Record {
        topic: &topic,
        key: &record::bounded(envelope.order_id.as_deref().unwrap_or(&envelope.id)),
        payload: &webhook.body,
        headers: record_headers(&webhook, &envelope, secret.map(|secret| secret.id)),
    };
    let delivery = ingest.producer.send(record, webhook.admission, endpoint.metrics.late_acks.clone())?;
    drop(webhook.body);
    match ingest.producer.delivered(delivery, webhook.deadline).await {
        Delivery::Persisted { partition, offset } => {
            tracing::debug!(event.id = event_id, topic, partition, offset, "event {event_id} is stored");
            Ok(Receipt { event_id, topic, partition, offset })
        }
        Delivery::NotPersisted(code) => {
            tracing::warn!(event.id = event_id, topic, %code, "event {event_id} was not stored: {code}");
            Err(Refusal::NotStored)
        }
        Delivery::Ambiguous(code) => {
            endpoint.metrics.ambiguous.increment(1);
            tracing::warn!(
                event.id = event_id,
                topic,
                ?code,
                "event {event_id} may be stored or not: Kafka did not say in time"
            );
            Err(Refusal::Ambiguous)
        }
    }
}

fn record_headers(webhook: &Webhook, envelope: &Envelope<'_>, secret_id: Option<&str>) -> OwnedHeaders {
    fn put(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
        headers.insert(Header { key, value: Some(value) })
    }
    let received_at = webhook.received_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let mut headers = OwnedHeaders::new_with_capacity(9);
    headers = put(headers, record::EVENT_ID, record::bounded(&envelope.id).as_bytes());
    headers = put(headers, record::EVENT_TYPE, record::bounded(&envelope.event_type).as_bytes());
    if let Some(mode) = envelope.mode {
        headers = put(headers, record::LIVE_MODE, if mode.is_live() { b"true" } else { b"false" });
    }
    headers = put(headers, record::ENDPOINT, webhook.endpoint.name.as_bytes());
    headers = put(headers, record::RECEIVED_AT, received_at.as_bytes());
    // An insecure endpoint does not look at it, but may be sent a long one.
    if let Some(value) = webhook.headers.get(signature::HEADER).filter(|it| it.len() <= signature::HEADER_BYTES_MAX) {
        headers = put(headers, record::SIGNATURE, value.as_bytes());
    }
    if let Some(id) = secret_id {
        headers = put(headers, record::SECRET_ID, id.as_bytes());
    }
    if let Some(value) = webhook.headers.get(record::TRACEPARENT).filter(|it| is_traceparent(it.as_bytes())) {
        headers = put(headers, record::TRACEPARENT, value.as_bytes());
    }
    put(headers, record::ORIGIN, record::ORIGIN_WEBHOOK.as_bytes())
}

/// Whether the value has the shape of W3C's `traceparent`: anything else is not worth keeping.
fn is_traceparent(value: &[u8]) -> bool {
    value.len() == 55 && value.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}
