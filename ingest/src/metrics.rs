//! What ingest counts. Names and labels are promises to dashboards: add, never rename.

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use chrono::{DateTime, Utc};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Requests, by `endpoint` (its name, or `none`) and [`Outcome`].
pub const REQUESTS: &str = "ingest_requests_total";
/// From the request's first byte (over HTTP/2 from its head) to the answer, by `endpoint`.
pub const ANSWER_SECONDS: &str = "ingest_answer_duration_seconds";
/// From handing an event to the producer to Kafka's acknowledgement of it.
pub const KAFKA_ACK_SECONDS: &str = "ingest_kafka_ack_duration_seconds";
/// Events between their request and Kafka's delivery report.
pub const IN_FLIGHT: &str = "ingest_in_flight_events";
/// Open connections.
pub const CONNECTIONS: &str = "ingest_connections";
/// Connections closed at once because there were too many.
pub const CONNECTIONS_REFUSED: &str = "ingest_connections_refused_total";
/// 1 while Kafka does not answer and events are refused at once, else 0.
pub const BREAKER_OPEN: &str = "ingest_breaker_open";
/// Producers that failed for good and were replaced.
pub const PRODUCERS_REPLACED: &str = "ingest_producers_replaced_total";
/// Events answered 503 that may be in Kafka all the same, by `endpoint`.
pub const AMBIGUOUS: &str = "ingest_ambiguous_total";
/// Events acknowledged by Kafka after they were answered 503, by `endpoint`.
pub const LATE_ACKS: &str = "ingest_late_acks_total";
/// Bytes of all bodies that were read, by `endpoint`.
pub const BODY_BYTES: &str = "ingest_body_bytes_total";
/// Stored events whose `liveMode` is not the one that their `endpoint` expects.
pub const MODE_MISMATCHES: &str = "ingest_mode_mismatches_total";
/// 1 for an `endpoint` that checks nothing, else 0.
pub const ENDPOINT_INSECURE: &str = "ingest_endpoint_insecure";
/// Events signed with each `secret` of an `endpoint`.
pub const SECRET_MATCHES: &str = "ingest_secret_matches_total";
/// When an event signed with the `secret` last came, in seconds since 1970; 0 for never.
pub const SECRET_LAST_MATCH: &str = "ingest_secret_last_match_timestamp_seconds";

/// Looks at a configuration that came while the process ran, by [`Reload`].
pub const RELOADS: &str = "ingest_reloads_total";
/// 1 while the configuration that is there is refused and an older one is used, else 0.
pub const CONFIGURATION_REFUSED: &str = "ingest_configuration_refused";
/// Events whose sender was not believed, by `endpoint` and [`Quarantined`].
pub const QUARANTINE: &str = "ingest_quarantine_total";
/// Requests for an OAuth token, by [`TokenOutcome`].
pub const TOKEN_REQUESTS: &str = "ingest_token_requests_total";
/// Connections that ended before TLS was agreed on.
pub const TLS_HANDSHAKES_FAILED: &str = "ingest_tls_handshakes_failed_total";
/// Lines about refused requests that were not written, because there were enough within their second.
pub const LOG_LINES_SUPPRESSED: &str = "ingest_log_lines_suppressed_total";

/// Declares an enum whose variants are values of a label.
macro_rules! outcomes {
    ($(#[$enum_doc:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $label:literal,)+ }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $($(#[$doc])* $name,)+ }

        impl $enum {
            /// Every outcome, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The label's value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

outcomes! {
    /// How a request ended: the label `outcome` of [`REQUESTS`].
    Outcome {
        /// 202: in Kafka.
        Accepted = "accepted",
        /// 404: no endpoint has this path.
        UnknownPath = "unknown_path",
        /// 403: the sender's address is not among those that are allowed.
        AddressNotAllowed = "address_not_allowed",
        /// 405: not a POST.
        MethodNotAllowed = "method_not_allowed",
        /// 503: starting, ending, or replacing a failed producer.
        NotReady = "not_ready",
        /// 503: Kafka does not answer.
        BreakerOpen = "breaker_open",
        /// 503: as many events as may be are in flight.
        Busy = "busy",
        /// 415: not JSON, or compressed.
        UnsupportedMediaType = "unsupported_media_type",
        /// 413: the body is too long.
        TooLarge = "too_large",
        /// 408: the head took so long to arrive that the answer was due.
        HeadTimeout = "head_timeout",
        /// 408: the body took too long to arrive.
        BodyTimeout = "body_timeout",
        /// The sender hung up before its request was complete, or the work ended without an outcome.
        Aborted = "aborted",
        /// 401: signature, password or token is missing or wrong.
        Unauthenticated = "unauthenticated",
        /// 400: not an event.
        NotAnEvent = "not_an_event",
        /// 503: Kafka did not take it.
        NotStored = "not_stored",
        /// 503: Kafka may have taken it, but did not say so in time.
        Ambiguous = "ambiguous",
    }
}

outcomes! {
    /// What became of a new configuration: the label `outcome` of [`RELOADS`].
    Reload {
        /// It is in use.
        Applied = "applied",
        /// It is wrong, and the one before it stays.
        Refused = "refused",
        /// It is the one in use: SIGHUP came for nothing, or a wrong one was taken back.
        Unchanged = "unchanged",
    }
}

outcomes! {
    /// How a request for a token ended: the label `outcome` of [`TOKEN_REQUESTS`].
    TokenOutcome {
        /// 200: here it is.
        Issued = "issued",
        /// 400 and others: the request cannot be read.
        InvalidRequest = "invalid_request",
        /// 401: no such client, or another secret.
        InvalidClient = "invalid_client",
        /// 400: the client is right, but not its user.
        InvalidGrant = "invalid_grant",
        /// 400: the client has a user, which the grant leaves out.
        UnauthorizedClient = "unauthorized_client",
        /// 400: a grant that does not exist here.
        UnsupportedGrantType = "unsupported_grant_type",
        /// 429: too many failures from this address or with this client.
        Limited = "limited",
        /// 503: too many at once.
        Busy = "busy",
    }
}

outcomes! {
    /// What became of an event whose sender was not believed: the label `outcome` of [`QUARANTINE`].
    Quarantined {
        /// Kafka has it.
        Kept = "kept",
        /// Kafka did not take it, or did not say so.
        Failed = "failed",
        /// There were enough within their second.
        Limited = "limited",
        /// It is longer than what is kept.
        TooLarge = "too_large",
        /// The body is no event.
        NotAnEvent = "not_an_event",
        /// Nothing is kept.
        Disabled = "disabled",
    }
}

/// Describes every metric and sets those without labels to zero. Once the recorder is installed; again does no harm.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests by endpoint and outcome");
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "From a request's first byte to its answer");
    describe_histogram!(KAFKA_ACK_SECONDS, Unit::Seconds, "From sending an event to Kafka to its acknowledgement");
    describe_gauge!(IN_FLIGHT, "Events between their request and Kafka's delivery report");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_counter!(CONNECTIONS_REFUSED, "Connections closed at once because there were too many");
    describe_gauge!(BREAKER_OPEN, "1 while Kafka does not answer and events are refused at once");
    describe_counter!(PRODUCERS_REPLACED, "Kafka producers that failed for good and were replaced");
    describe_counter!(AMBIGUOUS, "Events answered 503 that may be in Kafka all the same");
    describe_counter!(LATE_ACKS, "Events acknowledged by Kafka after they were answered 503");
    describe_counter!(BODY_BYTES, Unit::Bytes, "Bytes of all bodies that were read");
    describe_counter!(MODE_MISMATCHES, "Stored events whose liveMode is not the one that their endpoint expects");
    describe_gauge!(ENDPOINT_INSECURE, "1 for an endpoint that checks nothing");
    describe_counter!(SECRET_MATCHES, "Events signed with each secret");
    describe_gauge!(SECRET_LAST_MATCH, Unit::Seconds, "When an event signed with the secret last came, since 1970");
    describe_counter!(RELOADS, "Configurations that came while the process ran, by what became of them");
    describe_gauge!(
        CONFIGURATION_REFUSED,
        "1 while the configuration that is there is refused and an older one is used"
    );
    describe_counter!(QUARANTINE, "Events whose sender was not believed, by endpoint and what became of them");
    describe_counter!(TOKEN_REQUESTS, "Requests for an OAuth token by outcome");
    describe_counter!(TLS_HANDSHAKES_FAILED, "Connections that ended before TLS was agreed on");
    describe_counter!(LOG_LINES_SUPPRESSED, "Lines about refused requests that were not written");
    LazyLock::force(&PROCESS);
}

/// The metrics without labels.
pub(crate) struct ProcessMetrics {
    pub(crate) kafka_ack: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) breaker_open: Gauge,
    pub(crate) producers_replaced: Counter,
    /// In the order of [`Reload::ALL`].
    reloads: Vec<Counter>,
    pub(crate) configuration_refused: Gauge,
    /// In the order of [`TokenOutcome::ALL`].
    token_requests: Vec<Counter>,
    pub(crate) tls_handshakes_failed: Counter,
    pub(crate) log_lines_suppressed: Counter,
}

impl ProcessMetrics {
    pub(crate) fn token_requests(&self, outcome: TokenOutcome) {
        self.token_requests[outcome as usize].increment(1);
    }

    pub(crate) fn reloaded(&self, outcome: Reload) {
        self.reloads[outcome as usize].increment(1);
        self.configuration_refused.set(if outcome == Reload::Refused { 1.0 } else { 0.0 });
    }
}

/// The metrics without labels, looked up once: the recorder is one per process as well.
pub(crate) static PROCESS: LazyLock<ProcessMetrics> = LazyLock::new(|| ProcessMetrics {
    kafka_ack: histogram!(KAFKA_ACK_SECONDS),
    in_flight: zero_gauge(gauge!(IN_FLIGHT)),
    connections: zero_gauge(gauge!(CONNECTIONS)),
    connections_refused: zero(counter!(CONNECTIONS_REFUSED)),
    breaker_open: zero_gauge(gauge!(BREAKER_OPEN)),
    producers_replaced: zero(counter!(PRODUCERS_REPLACED)),
    reloads: Reload::ALL.iter().map(|outcome| zero(counter!(RELOADS, "outcome" => outcome.as_str()))).collect(),
    configuration_refused: zero_gauge(gauge!(CONFIGURATION_REFUSED)),
    token_requests: TokenOutcome::ALL
        .iter()
        .map(|outcome| zero(counter!(TOKEN_REQUESTS, "outcome" => outcome.as_str())))
        .collect(),
    tls_handshakes_failed: zero(counter!(TLS_HANDSHAKES_FAILED)),
    log_lines_suppressed: zero(counter!(LOG_LINES_SUPPRESSED)),
});

fn zero(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

fn zero_gauge(gauge: Gauge) -> Gauge {
    gauge.set(0.0);
    gauge
}

/// An endpoint's metrics, looked up once.
pub(crate) struct EndpointMetrics {
    /// In the order of [`Outcome::ALL`].
    requests: Vec<Counter>,
    answer: Histogram,
    pub(crate) ambiguous: Counter,
    pub(crate) late_acks: Counter,
    pub(crate) body_bytes: Counter,
    pub(crate) mode_mismatches: Counter,
    insecure: Gauge,
    /// In the order of [`Quarantined::ALL`].
    quarantine: Vec<Counter>,
    /// In the order of the configuration.
    secrets: Vec<(Counter, Gauge)>,
}

impl EndpointMetrics {
    pub(crate) fn new<'a>(endpoint: &str, insecure: bool, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let name = endpoint.to_owned();
        let request =
            |outcome: &Outcome| zero(counter!(REQUESTS, "endpoint" => name.clone(), "outcome" => outcome.as_str()));
        let quarantined = |outcome: &Quarantined| {
            zero(counter!(QUARANTINE, "endpoint" => name.clone(), "outcome" => outcome.as_str()))
        };
        let secret = |id: &str| {
            let counter = counter!(SECRET_MATCHES, "endpoint" => name.clone(), "secret" => id.to_owned());
            let gauge = gauge!(SECRET_LAST_MATCH, "endpoint" => name.clone(), "secret" => id.to_owned());
            // Not set: a secret that stays when the configuration changes keeps its time.
            gauge.increment(0.0);
            (zero(counter), gauge)
        };
        let is_insecure = gauge!(ENDPOINT_INSECURE, "endpoint" => name.clone());
        is_insecure.set(if insecure { 1.0 } else { 0.0 });
        Self {
            insecure: is_insecure,
            quarantine: Quarantined::ALL.iter().map(quarantined).collect(),
            requests: Outcome::ALL.iter().map(request).collect(),
            answer: histogram!(ANSWER_SECONDS, "endpoint" => name.clone()),
            ambiguous: zero(counter!(AMBIGUOUS, "endpoint" => name.clone())),
            late_acks: zero(counter!(LATE_ACKS, "endpoint" => name.clone())),
            body_bytes: zero(counter!(BODY_BYTES, "endpoint" => name.clone())),
            mode_mismatches: zero(counter!(MODE_MISMATCHES, "endpoint" => name.clone())),
            secrets: secrets.into_iter().map(secret).collect(),
        }
    }

    pub(crate) fn quarantined(&self, outcome: Quarantined) {
        self.quarantine[outcome as usize].increment(1);
    }

    /// The endpoint is no more: it must not stand there as insecure for ever.
    pub(crate) fn retire(&self) {
        self.insecure.set(0.0);
    }

    pub(crate) fn secret_matched(&self, index: usize, now: DateTime<Utc>) {
        if let Some((matches, last)) = self.secrets.get(index) {
            matches.increment(1);
            #[expect(clippy::cast_precision_loss, reason = "exact for the next 285 million years")]
            last.set(now.timestamp() as f64);
        }
    }
}

/// Counts one request exactly once, when it is dropped: whoever holds it last, and however that ends.
pub(crate) struct Tally {
    metrics: Arc<EndpointMetrics>,
    started: Instant,
    outcome: Outcome,
}

impl Tally {
    /// Begins to count; ends as [`Outcome::Aborted`] unless told otherwise.
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
