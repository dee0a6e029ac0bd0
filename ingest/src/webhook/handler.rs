//! Handling of a delivery.
//!
//! The steps: find the endpoint; check that Kafka is available, so that an outage is reported before anything is read; read
//! the body; authenticate the sender; reserve capacity for Kafka, which only authenticated requests get; parse the
//! envelope; send the event to Kafka. From the end of the body on, a disconnect does not interrupt processing: the sender
//! gets no answer and will retry, and a stored event is better than a lost one.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, Version, header, request::Parts},
    response::{IntoResponse, Response},
};
use riverlock_schemas::{Envelope, kafka::record, text};

use crate::{
    auth::Failure,
    endpoints::{Endpoint, Endpoints},
    http::server::Peer,
    kafka::producer::Record,
    metrics::{Oddity, Tally},
    refusal::Rejection,
    webhook::{
        arrival::{Arrival, body_id, key},
        body,
        floods::Kind,
        odd::Oddities,
        reading::Origin,
        state::{Ingest, SHOWN_ID_CHARS_MAX},
        token_endpoint,
        waiting::{PendingDelivery, Receipt, SentEvent},
    },
};

/// A complete delivery.
struct Webhook {
    arrival: Arrival,
    peer: Option<Peer>,
    /// When the answer is due.
    deadline: Instant,
}

/// Handles any request.
pub(crate) async fn handle(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    // Loaded once, so that a reload does not mix two configurations within a request.
    let endpoints = ingest.endpoints.load_full();
    if endpoints.is_token_path(request.uri().path()) {
        let (parts, body) = request.into_parts();
        return token_endpoint::handle(&ingest, &endpoints, parts, body).await;
    }
    match answer(&ingest, &endpoints, request).await {
        Ok(receipt) => (StatusCode::ACCEPTED, Json(receipt)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(ingest: &Arc<Ingest>, endpoints: &Endpoints, request: Request) -> Result<Receipt, Rejection> {
    let (parts, mut body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>();
    let started = peer.map_or_else(Instant::now, |peer| peer.since);
    let origin = Origin::of(peer, &parts.headers, endpoints);
    let endpoint = endpoints.find(parts.uri.path());
    let mut tally = Tally::new(endpoint.as_ref().map_or(&ingest.unmatched, |endpoint| &endpoint.metrics), started);
    // Over HTTP/2 a stream ends without its connection.
    let can_discard_body = parts.version < Version::HTTP_2 && !parts.headers.contains_key(header::EXPECT);
    let webhook = match receive(ingest, endpoint.clone(), origin, parts, &mut body, started).await {
        Ok(webhook) => webhook,
        Err(refusal) => {
            tally.set(refusal.outcome());
            let endpoint = endpoint.as_ref().map_or("no endpoint", |endpoint| endpoint.name.as_str());
            ingest.log_refusal(endpoint, origin.client.address, &refusal);
            if can_discard_body && refusal.leaves_body() {
                let left = (started + ingest.limits.answer_deadline).saturating_duration_since(Instant::now());
                body::discard(&mut body, left).await;
            }
            return Err(refusal);
        }
    };
    // Nothing here waits, so no separate task is needed to survive a disconnect; it would cost a wake-up.
    let sent = match submit(ingest, webhook) {
        Ok(sent) => sent,
        Err(refusal) => {
            tally.set(refusal.outcome());
            return Err(refusal);
        }
    };
    PendingDelivery::new(ingest, sent, tally).answer().await
}

/// Handles everything up to the end of the body. Nothing has been authenticated yet.
async fn receive(
    ingest: &Ingest,
    endpoint: Option<Arc<Endpoint>>,
    origin: Origin,
    mut parts: Parts,
    body: &mut Body,
    started: Instant,
) -> Result<Webhook, Rejection> {
    let endpoint = endpoint.ok_or(Rejection::UnknownPath)?;
    if !endpoint.allows(&origin.client) {
        return Err(Rejection::AddressNotAllowed);
    }
    if parts.method != Method::POST {
        return Err(Rejection::MethodNotAllowed);
    }
    let (limits, now) = (&ingest.limits, Instant::now());
    let deadline = started + limits.answer_deadline;
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() {
        return Err(Rejection::TooSlow);
    }
    let kafka = ingest.producer.check(now);
    kafka.inspect_err(|_| parts.extensions.get::<Peer>().into_iter().for_each(Peer::exempt))?;
    let received_at = ingest.context.clock.now();
    let time = (now, limits.body_read_timeout.min(left));
    let arriving = ingest.reading.begin();
    let body = body::read(body, limits.body_bytes_max, time, &arriving, || ingest.network_and_rank(&origin)).await?;
    endpoint.metrics.body_bytes.increment(body.len() as u64);
    let peer = parts.extensions.remove::<Peer>();
    let arrival = Arrival { endpoint, headers: parts.headers, body, received_at, origin };
    Ok(Webhook { arrival, peer, deadline })
}

/// Logs why the request is not authenticated, and quarantines its event in case the configuration is wrong.
fn reject_unauthenticated(ingest: &Ingest, arrival: &Arrival, failure: Failure) -> Rejection {
    let (_, rank) = ingest.network_and_rank(&arrival.origin);
    ingest.quarantine.keep(&ingest.topics, arrival, &failure, rank);
    let (name, error, address) = (arrival.endpoint.name.as_str(), failure.error, arrival.origin.client.address);
    let refusal = Rejection::Authentication(error);
    ingest.floods.warn(Kind::Request(refusal.outcome()), || {
        let Rejection::Authentication(error) = &refusal else { return };
        let reason = error.reason();
        tracing::warn!(endpoint = name, %address, reason, detail = ?error, "a request to {name} was not authenticated: {error}");
    });
    refusal
}

/// Authenticates the request and hands its event to the producer.
fn submit(ingest: &Ingest, webhook: Webhook) -> Result<SentEvent, Rejection> {
    let Webhook { arrival, peer, deadline } = webhook;
    let endpoint = Arc::clone(&arrival.endpoint);
    let checked = endpoint.authentication.check(&arrival.headers, &arrival.body, arrival.received_at);
    let secret = checked.map_err(|failure| reject_unauthenticated(ingest, &arrival, failure))?;
    if let Some(secret) = secret {
        endpoint.metrics.secret_matched(secret.index, arrival.received_at);
    }
    if endpoint.authentication.is_required() {
        ingest.note_authenticated(&arrival.origin, peer.as_ref());
    }
    let result = store(ingest, &arrival, secret.map(|secret| secret.id), deadline);
    result.inspect_err(|refusal| ingest.log_refusal(&endpoint.name, arrival.origin.client.address, refusal))
}

/// Hands an event to the producer. An authenticated body is stored even if it is not an event.
fn store(
    ingest: &Ingest,
    arrival: &Arrival,
    secret_id: Option<&str>,
    deadline: Instant,
) -> Result<SentEvent, Rejection> {
    let endpoint = &arrival.endpoint;
    let mut oddities = Oddities::of(&arrival.headers, arrival.body.len());
    let envelope = match Envelope::parse(&arrival.body) {
        Ok(envelope) => Some(envelope),
        Err(_) if endpoint.authentication.is_required() => {
            oddities.add(Oddity::NotAnEvent);
            None
        }
        // The endpoint is insecure, so anyone may have sent it.
        Err(error) => return Err(error.into()),
    };
    if let Some(envelope) = &envelope {
        endpoint.metrics.event(&envelope.event_type);
    }
    let (event_id, topic) = match &envelope {
        Some(envelope) => (record::bounded(&envelope.id).into_owned(), ingest.topics.raw(&envelope.event_type)),
        None => (body_id(&arrival.body), ingest.topics.raw_other()),
    };
    let key = envelope.as_ref().map_or_else(|| event_id.as_str().into(), key);
    let admission = ingest.producer.reserve(&topic, &key, arrival.body.len())?;
    let record = Record {
        topic: &topic,
        key: &key,
        payload: &arrival.body,
        headers: arrival.record_headers(envelope.as_ref(), oddities, secret_id),
        deadline,
    };
    let delivery = ingest.producer.send(record, admission, endpoint.metrics.late_acks.clone())?;
    if !oddities.is_empty() {
        report_odd(ingest, endpoint, &event_id, oddities);
    }
    if envelope.as_ref().is_some_and(|envelope| !endpoint.mode.expects(envelope.mode)) {
        report_mode(ingest, endpoint, &event_id);
    }
    Ok(SentEvent { endpoint: Arc::clone(endpoint), event_id, topic, delivery, deadline })
}

fn report_odd(ingest: &Ingest, endpoint: &Endpoint, event_id: &str, oddities: Oddities) {
    for oddity in oddities.iter() {
        endpoint.metrics.odd(oddity);
    }
    ingest.floods.warn(Kind::Odd, || {
        let (name, oddities) = (endpoint.name.as_str(), oddities.names());
        let id = text::bounded(event_id.into(), SHOWN_ID_CHARS_MAX);
        tracing::warn!(event.id = %id, endpoint = name, oddities, "an authenticated request to {name} has oddities ({oddities}) and is stored: {id}");
    });
}

fn report_mode(ingest: &Ingest, endpoint: &Endpoint, event_id: &str) {
    endpoint.metrics.mode_mismatches.increment(1);
    ingest.floods.warn(Kind::Mode, || {
        let (name, id) = (endpoint.name.as_str(), text::bounded(event_id.into(), SHOWN_ID_CHARS_MAX));
        tracing::warn!(event.id = %id, endpoint = name, "event {id} is stored, but endpoint {name} expects the other mode");
    });
}
