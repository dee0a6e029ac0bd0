//! The life of one request.
//!
//! In this order: its endpoint; the right to send an event, so that a full or broken way is answered before anything is
//! read; its media type; its body; its signature; its envelope; Kafka. From the end of the body on nobody who hangs up stops
//! it: the sender will not know, and come again, and its event is better stored than not.

use std::{sync::Arc, time::Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use riverlock_runtime::Context;
use riverlock_schemas::{Envelope, record, topics::Topics};

use crate::{
    arrival::{Arrival, key},
    authentication::Failure,
    body,
    config::LimitsConfig,
    endpoints::{Endpoint, Endpoints},
    floods::Floods,
    metrics::{EndpointMetrics, Tally},
    producer::{Admission, Producer, Record},
    quarantine::Quarantine,
    refusal::Refusal,
    server::Peer,
    tls::Tls,
    token_endpoint::{self, TokenEndpoint},
    waiting::{Receipt, Sent, Waiting},
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
    /// Empty without TLS; replaced when the certificate is.
    pub(crate) tls: Arc<ArcSwapOption<Tls>>,
    pub(crate) tokens: TokenEndpoint,
    pub(crate) quarantine: Arc<Quarantine>,
    /// What may be logged about refused requests.
    pub(crate) floods: Floods,
}

/// A request that was read.
struct Webhook {
    arrival: Arrival,
    admission: Admission,
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
    let (parts, mut body) = request.into_parts();
    let started = parts.extensions.get::<Peer>().map_or_else(Instant::now, |peer| peer.since);
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
    // A task of its own would go on as well, but costs a wake-up: nothing in here waits.
    let sent = match submit(ingest, webhook) {
        Ok(sent) => sent,
        Err(refusal) => {
            tally.set(refusal.outcome());
            return Err(refusal);
        }
    };
    Waiting::new(ingest, sent, tally).answer().await
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
    let address = ingest.endpoints.load().address(parts.extensions.get::<Peer>(), &parts.headers);
    if !endpoint.allows(address) {
        let name = endpoint.name.as_str();
        ingest.floods.warn(|| tracing::warn!(endpoint = name, %address, "{name} takes no requests from {address}"));
        return Err(Refusal::AddressNotAllowed);
    }
    if parts.method != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    let limits = &ingest.limits;
    let deadline = started + limits.answer_deadline;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Refusal::TooSlow);
    }
    let mut admission = ingest.producer.admit(Instant::now())?;
    let received_at = ingest.context.clock.now();
    check_media_type(&parts.headers)?;
    let timeout = limits.body_read_timeout.min(left);
    let body = body::read(body, limits.body_bytes_max, timeout, |count| admission.add_bytes(count)).await?;
    endpoint.metrics.body_bytes.increment(body.len() as u64);
    let deadline = tokio::time::Instant::from_std(deadline);
    let arrival = Arrival { endpoint, headers: parts.headers, body, received_at };
    Ok(Webhook { arrival, admission, deadline })
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

/// Says why the request is not believed, and keeps its event for the case that the mistake is here.
fn disbelieve(ingest: &Ingest, arrival: &Arrival, failure: Failure) -> Refusal {
    ingest.quarantine.keep(&ingest.topics, arrival, &failure);
    let (name, error) = (arrival.endpoint.name.as_str(), failure.error);
    ingest.floods.warn(|| {
        let reason = error.reason();
        tracing::warn!(endpoint = name, reason, detail = ?error, "a request to {name} was not authentic: {error}");
    });
    error.into()
}

/// Believes the request, or not, and hands its event to the producer.
fn submit(ingest: &Ingest, webhook: Webhook) -> Result<Sent, Refusal> {
    let Webhook { arrival, admission, deadline } = webhook;
    let endpoint = Arc::clone(&arrival.endpoint);
    let checked = endpoint.authentication.check(&arrival.headers, &arrival.body, arrival.received_at);
    let secret = match checked {
        Ok(secret) => secret,
        Err(failure) => {
            // What strangers send must not keep an event from its place.
            drop(admission);
            return Err(disbelieve(ingest, &arrival, failure));
        }
    };
    if let Some(secret) = secret {
        endpoint.metrics.secret_matched(secret.index, arrival.received_at);
    }
    let envelope = Envelope::parse(&arrival.body).inspect_err(|error| {
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
        key: &key(&envelope),
        payload: &arrival.body,
        headers: arrival.record_headers(&envelope, secret.map(|secret| secret.id)),
    };
    let delivery = ingest.producer.send(record, admission, endpoint.metrics.late_acks.clone())?;
    Ok(Sent { endpoint, event_id, topic, delivery, deadline })
}
