//! Metrics of ingest. Dashboards depend on the names and labels: add new ones, but never rename.

use std::sync::LazyLock;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

mod endpoint;

pub(crate) use endpoint::{EndpointMetrics, Tally, seconds};

/// Requests, by `endpoint` (its name, or `none`) and [`Outcome`].
pub const REQUESTS: &str = "riverlock_ingest_requests_total";
/// Authenticated events by endpoint and type.
pub const EVENTS: &str = "riverlock_ingest_events_total";
/// Time from the request's first byte (over HTTP/2 from its head) to the answer, by `endpoint`.
pub const ANSWER_SECONDS: &str = "riverlock_ingest_answer_duration_seconds";
/// Time from handing an event to the producer to Kafka's acknowledgement of it.
pub const KAFKA_ACK_SECONDS: &str = "riverlock_ingest_kafka_ack_duration_seconds";
/// Events between their request and Kafka's delivery report.
pub const IN_FLIGHT: &str = "riverlock_ingest_in_flight_events";
/// Open connections.
pub const CONNECTIONS: &str = "riverlock_ingest_connections";
/// Connections closed at once because there were too many.
pub const CONNECTIONS_REJECTED: &str = "riverlock_ingest_connections_rejected_total";
/// 1 while the circuit breaker is open and events are rejected at once, else 0.
pub const BREAKER_OPEN: &str = "riverlock_ingest_breaker_open";
/// Producers that were replaced after a fatal error.
pub const PRODUCERS_REPLACED: &str = "riverlock_ingest_producers_replaced_total";
/// Events answered 503 that may nevertheless be in Kafka, by `endpoint`.
pub const AMBIGUOUS: &str = "riverlock_ingest_ambiguous_total";
/// Events acknowledged by Kafka after they were answered 503, by `endpoint`.
pub const LATE_ACKS: &str = "riverlock_ingest_late_acknowledgements_total";
/// Bytes of all bodies that were read, by `endpoint`.
pub const BODY_BYTES: &str = "riverlock_ingest_body_bytes_total";
/// Stored events whose `liveMode` is not the one that their `endpoint` expects.
pub const MODE_MISMATCHES: &str = "riverlock_ingest_mode_mismatches_total";
/// 1 for an `endpoint` without authentication, else 0.
pub const ENDPOINT_INSECURE: &str = "riverlock_ingest_endpoint_insecure";
/// Events signed with each `secret` of an `endpoint`.
pub const SECRET_MATCHES: &str = "riverlock_ingest_secret_matches_total";
/// When an event signed with the `secret` was last received, in seconds since 1970; 0 for never.
pub const SECRET_LAST_MATCH: &str = "riverlock_ingest_secret_last_match_timestamp_seconds";

/// Reloads of the configuration at run time, by [`Reload`].
pub const RELOADS: &str = "riverlock_ingest_reloads_total";
/// 1 while the current configuration file is rejected and an older configuration is in use, else 0.
pub const CONFIGURATION_REJECTED: &str = "riverlock_ingest_configuration_rejected";
/// Unauthenticated events, by `endpoint` and [`Quarantined`].
pub const QUARANTINE: &str = "riverlock_ingest_quarantine_total";
/// Requests for an OAuth token, by [`TokenOutcome`].
pub const TOKEN_REQUESTS: &str = "riverlock_ingest_token_requests_total";
/// Connections whose TLS handshake failed.
pub const TLS_HANDSHAKES_FAILED: &str = "riverlock_ingest_tls_handshakes_failed_total";
/// Log lines about rejected requests that were suppressed by the limit per second.
pub const LOG_LINES_SUPPRESSED: &str = "riverlock_ingest_log_lines_suppressed_total";

/// Authenticated requests with an oddity, which are stored all the same, by `endpoint` and [`Oddity`].
pub const ODD_REQUESTS: &str = "riverlock_ingest_odd_requests_total";
/// Unfinished requests that were evicted because their slot was needed for another.
pub const REQUESTS_EVICTED: &str = "riverlock_ingest_requests_evicted_total";
/// Connections that were evicted because their slot was needed for another.
pub const CONNECTIONS_EVICTED: &str = "riverlock_ingest_connections_evicted_total";
/// Connections closed by ingest, by [`Closed`].
pub const CONNECTIONS_CLOSED: &str = "riverlock_ingest_connections_closed_total";
/// Connections that could not be accepted, for example for lack of file descriptors.
pub const ACCEPT_ERRORS: &str = "riverlock_ingest_accept_errors_total";
/// 1 while ingest accepts events, as `/readyz` reports, else 0.
pub const READY: &str = "riverlock_ingest_ready";
/// When the certificate of the listener expires, in seconds since 1970; 0 without TLS.
pub const CERTIFICATE_EXPIRY: &str = "riverlock_ingest_certificate_expiry_timestamp_seconds";
/// When a `secret` of an `endpoint` expires, in seconds since 1970; 0 for never.
pub const SECRET_EXPIRY: &str = "riverlock_ingest_secret_expiry_timestamp_seconds";
/// Secrets that expired while the process ran, by `endpoint` and `secret`.
pub const SECRETS_EXPIRED: &str = "riverlock_ingest_secrets_expired_total";
/// 1 for an `endpoint` that has signing secrets of which none is active, so that it rejects every event, else 0.
pub const WITHOUT_SECRET: &str = "riverlock_ingest_endpoint_without_active_secret";
/// Probe records that ingest wrote to test whether Kafka is available again, by [`Probe`].
pub const PROBES: &str = "riverlock_ingest_kafka_probes_total";

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
        /// 202: acknowledged by Kafka.
        Accepted = "accepted",
        /// 404: no endpoint has this path.
        UnknownPath = "unknown_path",
        /// 403: the client's address is not allowed.
        AddressNotAllowed = "address_not_allowed",
        /// 405: not a POST.
        MethodNotAllowed = "method_not_allowed",
        /// 503: starting, shutting down, or replacing a failed producer.
        NotReady = "not_ready",
        /// 503: Kafka does not acknowledge events.
        BreakerOpen = "breaker_open",
        /// 503: too many events are in flight.
        Busy = "busy",
        /// 503: the request was not complete when its slot was needed for another.
        Evicted = "evicted",
        /// 415, in earlier versions: not JSON, or compressed. Such requests are now stored if they are authenticated.
        UnsupportedMediaType = "unsupported_media_type",
        /// 413: the body is too long.
        TooLarge = "too_large",
        /// 408: the head did not arrive before the answer was due.
        HeadTimeout = "head_timeout",
        /// 408: the body took too long to arrive.
        BodyTimeout = "body_timeout",
        /// The sender disconnected before its request was complete, or processing ended without an outcome.
        Aborted = "aborted",
        /// 401: signature, password or token is missing or wrong.
        Unauthenticated = "unauthenticated",
        /// 400: not an event, sent to an insecure endpoint.
        NotAnEvent = "not_an_event",
        /// 503: Kafka rejected the event.
        NotStored = "not_stored",
        /// 503: Kafka may have stored the event, but did not acknowledge it in time.
        Ambiguous = "ambiguous",
    }
}

outcomes! {
    /// Result of a reload: the label `outcome` of [`RELOADS`].
    Reload {
        /// The new configuration is in use.
        Applied = "applied",
        /// The new configuration is invalid; the previous one stays in use.
        Refused = "refused",
        /// The configuration equals the one in use: SIGHUP without a change, or an invalid change was reverted.
        Unchanged = "unchanged",
    }
}

outcomes! {
    /// How a token request ended: the label `outcome` of [`TOKEN_REQUESTS`].
    TokenOutcome {
        /// 200: a token was issued.
        Issued = "issued",
        /// 400 and others: the request is malformed.
        InvalidRequest = "invalid_request",
        /// 401: unknown client, or wrong secret.
        InvalidClient = "invalid_client",
        /// 400: the client is correct, but its user is not.
        InvalidGrant = "invalid_grant",
        /// 400: the client has a user, which the grant does not include.
        UnauthorizedClient = "unauthorized_client",
        /// 400: an unsupported grant type.
        UnsupportedGrantType = "unsupported_grant_type",
        /// 429: too many failures from this address or with this client.
        Limited = "limited",
        /// 503: too many concurrent requests.
        Busy = "busy",
        /// 403: no endpoint with OAuth clients accepts requests from this address.
        AddressNotAllowed = "address_not_allowed",
    }
}

outcomes! {
    /// An oddity of an authenticated request: the label `oddity` of [`ODD_REQUESTS`].
    Oddity {
        /// The media type is not JSON.
        MediaType = "media_type",
        /// The request has a `Content-Encoding`.
        ContentEncoding = "content_encoding",
        /// The body is longer than consumers process.
        Size = "size",
        /// The body is not an event.
        NotAnEvent = "not_an_event",
    }
}

outcomes! {
    /// Why ingest closed a connection: the label `reason` of [`CONNECTIONS_CLOSED`].
    Closed {
        /// No endpoint accepts requests from its address.
        AddressNotAllowed = "address_not_allowed",
        /// The head of its next request took too long to arrive.
        HeadTimeout = "head_timeout",
        /// It carried no request for too long.
        Idle = "idle",
        /// It reached the maximum age of connections.
        Age = "age",
    }
}

outcomes! {
    /// Result of a probe record: the label `outcome` of [`PROBES`].
    Probe {
        /// Kafka acknowledged it.
        Acknowledged = "acknowledged",
        /// Kafka did not acknowledge it.
        Failed = "failed",
    }
}

outcomes! {
    /// What was done with an unauthenticated event: the label `outcome` of [`QUARANTINE`].
    Quarantined {
        /// Stored in the quarantine.
        Kept = "kept",
        /// Kafka rejected it or did not acknowledge it.
        Failed = "failed",
        /// Not kept: the limit per second was reached.
        Limited = "limited",
        /// Not kept: too many earlier ones are not acknowledged yet.
        Busy = "busy",
        /// Not kept: the body is too long.
        TooLarge = "too_large",
        /// The body is not an event.
        NotAnEvent = "not_an_event",
        /// Not kept: the quarantine is disabled.
        Disabled = "disabled",
    }
}

/// Describes every metric and initializes those without labels to zero. Call it after the recorder is installed; repeated
/// calls do no harm.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests by endpoint and outcome");
    describe_counter!(
        EVENTS,
        "Authenticated events by endpoint and type, acknowledged or not; types that this version does not know are `other`"
    );
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "Time from a request's first byte to its answer");
    describe_histogram!(KAFKA_ACK_SECONDS, Unit::Seconds, "Time from sending an event to Kafka to its acknowledgement");
    describe_gauge!(IN_FLIGHT, "Events between their request and Kafka's delivery report");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_counter!(CONNECTIONS_REJECTED, "Connections closed at once because there were too many");
    describe_gauge!(BREAKER_OPEN, "1 while the circuit breaker is open and events are rejected at once");
    describe_counter!(PRODUCERS_REPLACED, "Kafka producers that were replaced after a fatal error");
    describe_counter!(AMBIGUOUS, "Events answered 503 that may nevertheless be in Kafka");
    describe_counter!(LATE_ACKS, "Events acknowledged by Kafka after they were answered 503");
    describe_counter!(BODY_BYTES, Unit::Bytes, "Bytes of all bodies that were read");
    describe_counter!(MODE_MISMATCHES, "Stored events whose liveMode is not the one that their endpoint expects");
    describe_gauge!(ENDPOINT_INSECURE, "1 for an endpoint without authentication");
    describe_counter!(SECRET_MATCHES, "Events signed with each secret");
    describe_gauge!(
        SECRET_LAST_MATCH,
        Unit::Seconds,
        "When an event signed with the secret was last received, since 1970"
    );
    describe_counter!(RELOADS, "Reloads of the configuration at run time, by outcome");
    describe_gauge!(
        CONFIGURATION_REJECTED,
        "1 while the current configuration file is rejected and an older configuration is in use"
    );
    describe_counter!(QUARANTINE, "Unauthenticated events, by endpoint and outcome");
    describe_counter!(TOKEN_REQUESTS, "Requests for an OAuth token, by outcome");
    describe_counter!(TLS_HANDSHAKES_FAILED, "Connections whose TLS handshake failed");
    describe_counter!(
        LOG_LINES_SUPPRESSED,
        "Log lines about rejected requests that were suppressed by the limit per second"
    );
    describe_connections_and_expiry();
    LazyLock::force(&PROCESS);
}

fn describe_connections_and_expiry() {
    describe_counter!(ODD_REQUESTS, "Authenticated requests with an oddity, which are stored all the same, by oddity");
    describe_counter!(REQUESTS_EVICTED, "Unfinished requests whose slot was needed for another");
    describe_counter!(CONNECTIONS_EVICTED, "Connections whose slot was needed for another");
    describe_counter!(CONNECTIONS_CLOSED, "Connections closed by ingest, by reason");
    describe_counter!(ACCEPT_ERRORS, "Connections that could not be accepted");
    describe_gauge!(READY, "1 while ingest accepts events");
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When the listener's certificate expires, since 1970; 0 without TLS"
    );
    describe_gauge!(SECRET_EXPIRY, Unit::Seconds, "When a signing secret expires, since 1970; 0 for never");
    describe_counter!(SECRETS_EXPIRED, "Signing secrets that expired while the process ran");
    describe_gauge!(WITHOUT_SECRET, "1 for an endpoint that has signing secrets of which none is active");
    describe_counter!(PROBES, "Probe records that ingest wrote to test whether Kafka is available again, by outcome");
}

/// The metrics without labels.
pub(crate) struct ProcessMetrics {
    pub(crate) kafka_ack: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) connections_rejected: Counter,
    pub(crate) breaker_open: Gauge,
    pub(crate) producers_replaced: Counter,
    /// In the order of [`Reload::ALL`].
    reloads: Vec<Counter>,
    pub(crate) configuration_rejected: Gauge,
    /// In the order of [`TokenOutcome::ALL`].
    token_requests: Vec<Counter>,
    pub(crate) tls_handshakes_failed: Counter,
    pub(crate) log_lines_suppressed: Counter,
    pub(crate) requests_evicted: Counter,
    pub(crate) connections_evicted: Counter,
    /// In the order of [`Closed::ALL`].
    connections_closed: Vec<Counter>,
    pub(crate) accept_errors: Counter,
    pub(crate) ready: Gauge,
    pub(crate) certificate_expiry: Gauge,
    /// In the order of [`Probe::ALL`].
    probes: Vec<Counter>,
}

impl ProcessMetrics {
    pub(crate) fn token_requests(&self, outcome: TokenOutcome) {
        self.token_requests[outcome as usize].increment(1);
    }

    pub(crate) fn connection_closed(&self, reason: Closed) {
        self.connections_closed[reason as usize].increment(1);
    }

    pub(crate) fn probe(&self, outcome: Probe) {
        self.probes[outcome as usize].increment(1);
    }

    pub(crate) fn reloaded(&self, outcome: Reload) {
        self.reloads[outcome as usize].increment(1);
        self.configuration_rejected.set(if outcome == Reload::Refused { 1.0 } else { 0.0 });
    }
}

/// The metrics without labels, looked up once, because the recorder is global to the process too.
pub(crate) static PROCESS: LazyLock<ProcessMetrics> = LazyLock::new(|| ProcessMetrics {
    kafka_ack: histogram!(KAFKA_ACK_SECONDS),
    in_flight: zero_gauge(gauge!(IN_FLIGHT)),
    connections: zero_gauge(gauge!(CONNECTIONS)),
    connections_rejected: zero(counter!(CONNECTIONS_REJECTED)),
    breaker_open: zero_gauge(gauge!(BREAKER_OPEN)),
    producers_replaced: zero(counter!(PRODUCERS_REPLACED)),
    reloads: Reload::ALL.iter().map(|outcome| zero(counter!(RELOADS, "outcome" => outcome.as_str()))).collect(),
    configuration_rejected: zero_gauge(gauge!(CONFIGURATION_REJECTED)),
    token_requests: TokenOutcome::ALL
        .iter()
        .map(|outcome| zero(counter!(TOKEN_REQUESTS, "outcome" => outcome.as_str())))
        .collect(),
    tls_handshakes_failed: zero(counter!(TLS_HANDSHAKES_FAILED)),
    log_lines_suppressed: zero(counter!(LOG_LINES_SUPPRESSED)),
    requests_evicted: zero(counter!(REQUESTS_EVICTED)),
    connections_evicted: zero(counter!(CONNECTIONS_EVICTED)),
    connections_closed: Closed::ALL
        .iter()
        .map(|reason| zero(counter!(CONNECTIONS_CLOSED, "reason" => reason.as_str())))
        .collect(),
    accept_errors: zero(counter!(ACCEPT_ERRORS)),
    ready: zero_gauge(gauge!(READY)),
    certificate_expiry: zero_gauge(gauge!(CERTIFICATE_EXPIRY)),
    probes: Probe::ALL.iter().map(|outcome| zero(counter!(PROBES, "outcome" => outcome.as_str()))).collect(),
});

fn zero(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

fn zero_gauge(gauge: Gauge) -> Gauge {
    gauge.set(0.0);
    gauge
}
