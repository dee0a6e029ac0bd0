//! Metrics per endpoint.

use std::{collections::HashMap, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use riverlock_schemas::events::event_type;

use super::{
    AMBIGUOUS, ANSWER_SECONDS, BODY_BYTES, ENDPOINT_INSECURE, EVENTS, LATE_ACKS, MODE_MISMATCHES, ODD_REQUESTS, Oddity,
    Outcome, QUARANTINE, Quarantined, REQUESTS, SECRET_EXPIRY, SECRET_LAST_MATCH, SECRET_MATCHES, SECRETS_EXPIRED,
    WITHOUT_SECRET, zero, zero_gauge,
};

/// Label value of event types that this version does not know: Digital River's list grows, and anyone who can sign could
/// otherwise add series.
const OTHER_TYPE: &str = "other";

/// The metrics of a signing secret.
struct SecretMetrics {
    matches: Counter,
    last_match: Gauge,
    expiry: Gauge,
    expired: Counter,
}

/// An endpoint's metrics, looked up once.
pub(crate) struct EndpointMetrics {
    /// In the order of [`Outcome::ALL`].
    requests: Vec<Counter>,
    /// By event type.
    events: HashMap<&'static str, Counter>,
    /// Events of unknown types.
    other_events: Counter,
    answer: Histogram,
    pub(crate) ambiguous: Counter,
    pub(crate) late_acks: Counter,
    pub(crate) body_bytes: Counter,
    pub(crate) mode_mismatches: Counter,
    insecure: Gauge,
    /// In the order of [`Quarantined::ALL`].
    quarantine: Vec<Counter>,
    /// In the order of [`Oddity::ALL`].
    odd: Vec<Counter>,
    without_secret: Gauge,
    /// In the order of the configuration.
    secrets: Vec<SecretMetrics>,
}

impl EndpointMetrics {
    /// `secrets` are the ids of its signing secrets with their expiry times.
    pub(crate) fn new<'a>(
        endpoint: &str,
        insecure: bool,
        secrets: impl IntoIterator<Item = (&'a str, Option<DateTime<Utc>>)>,
    ) -> Self {
        let name = endpoint.to_owned();
        let request =
            |outcome: &Outcome| zero(counter!(REQUESTS, "endpoint" => name.clone(), "outcome" => outcome.as_str()));
        let event = |kind: &'static str| zero(counter!(EVENTS, "endpoint" => name.clone(), "type" => kind));
        let quarantined = |outcome: &Quarantined| {
            zero(counter!(QUARANTINE, "endpoint" => name.clone(), "outcome" => outcome.as_str()))
        };
        let odd =
            |oddity: &Oddity| zero(counter!(ODD_REQUESTS, "endpoint" => name.clone(), "oddity" => oddity.as_str()));
        let secret = |(id, expires_at): (&str, Option<DateTime<Utc>>)| {
            let labels = [("endpoint", name.clone()), ("secret", id.to_owned())];
            let last_match = gauge!(SECRET_LAST_MATCH, &labels);
            // Not set to 0, so that a secret that remains after a reload keeps its time.
            last_match.increment(0.0);
            let expiry = gauge!(SECRET_EXPIRY, &labels);
            expiry.set(expires_at.map_or(0.0, seconds));
            let matches = zero(counter!(SECRET_MATCHES, &labels));
            SecretMetrics { matches, last_match, expiry, expired: zero(counter!(SECRETS_EXPIRED, &labels)) }
        };
        let is_insecure = gauge!(ENDPOINT_INSECURE, "endpoint" => name.clone());
        is_insecure.set(if insecure { 1.0 } else { 0.0 });
        Self {
            insecure: is_insecure,
            quarantine: Quarantined::ALL.iter().map(quarantined).collect(),
            requests: Outcome::ALL.iter().map(request).collect(),
            events: event_type::known().map(|kind| (kind, event(kind))).collect(),
            other_events: event(OTHER_TYPE),
            odd: Oddity::ALL.iter().map(odd).collect(),
            answer: histogram!(ANSWER_SECONDS, "endpoint" => name.clone()),
            ambiguous: zero(counter!(AMBIGUOUS, "endpoint" => name.clone())),
            late_acks: zero(counter!(LATE_ACKS, "endpoint" => name.clone())),
            body_bytes: zero(counter!(BODY_BYTES, "endpoint" => name.clone())),
            mode_mismatches: zero(counter!(MODE_MISMATCHES, "endpoint" => name.clone())),
            secrets: secrets.into_iter().map(secret).collect(),
            without_secret: zero_gauge(gauge!(WITHOUT_SECRET, "endpoint" => name)),
        }
    }

    /// Counts an authenticated event.
    pub(crate) fn event(&self, event_type: &str) {
        self.events.get(event_type::canonical(event_type)).unwrap_or(&self.other_events).increment(1);
    }

    pub(crate) fn quarantined(&self, outcome: Quarantined) {
        self.quarantine[outcome as usize].increment(1);
    }

    pub(crate) fn odd(&self, oddity: Oddity) {
        self.odd[oddity as usize].increment(1);
    }

    /// Resets the gauges of a removed endpoint, which would otherwise report it as insecure or without secrets
    /// indefinitely.
    pub(crate) fn retire(&self) {
        self.insecure.set(0.0);
        self.without_secret.set(0.0);
    }

    /// Resets the expiry of a removed secret, so that no alert fires for it.
    pub(crate) fn retire_secret(&self, index: usize) {
        if let Some(secret) = self.secrets.get(index) {
            secret.expiry.set(0.0);
        }
    }

    /// Sets whether the endpoint has no active secret.
    pub(crate) fn set_without_secret(&self, is_so: bool) {
        self.without_secret.set(if is_so { 1.0 } else { 0.0 });
    }

    pub(crate) fn secret_matched(&self, index: usize, now: DateTime<Utc>) {
        if let Some(secret) = self.secrets.get(index) {
            secret.matches.increment(1);
            secret.last_match.set(seconds(now));
        }
    }

    pub(crate) fn secret_expired(&self, index: usize) {
        if let Some(secret) = self.secrets.get(index) {
            secret.expired.increment(1);
        }
    }
}

/// Seconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "exact for the next 285 million years")]
pub(crate) fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp() as f64
}

/// Counts one request exactly once, when it is dropped, however its processing ends.
pub(crate) struct Tally {
    metrics: Arc<EndpointMetrics>,
    started: Instant,
    outcome: Outcome,
}

impl Tally {
    /// Starts with [`Outcome::Aborted`], which remains unless another outcome is set.
    pub(crate) fn new(metrics: &Arc<EndpointMetrics>, started: Instant) -> Self {
        Self { metrics: Arc::clone(metrics), started, outcome: Outcome::Aborted }
    }

    pub(crate) fn set(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.requests[self.outcome as usize].increment(1);
        self.metrics.answer.record(self.started.elapsed());
    }
}
