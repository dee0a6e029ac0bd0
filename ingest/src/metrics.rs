//! What ingest counts. Names and labels are promises to dashboards: add, never rename.

use std::sync::LazyLock;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

mod endpoint;

pub(crate) use endpoint::{EndpointMetrics, Tally, seconds};

/// Requests, by `endpoint` (its name, or `none`) and [`Outcome`].
pub const REQUESTS: &str = "riverlock_ingest_requests_total";
/// From the request's first byte (over HTTP/2 from its head) to the answer, by `endpoint`.
pub const ANSWER_SECONDS: &str = "riverlock_ingest_answer_duration_seconds";
/// From handing an event to the producer to Kafka's acknowledgement of it.
pub const KAFKA_ACK_SECONDS: &str = "riverlock_ingest_kafka_ack_duration_seconds";
/// Events between their request and Kafka's delivery report.
pub const IN_FLIGHT: &str = "riverlock_ingest_in_flight_events";
/// Open connections.
pub const CONNECTIONS: &str = "riverlock_ingest_connections";
/// Connections closed at once because there were too many.
pub const CONNECTIONS_REFUSED: &str = "riverlock_ingest_connections_rejected_total";
/// 1 while Kafka does not answer and events are refused at once, else 0.
pub const BREAKER_OPEN: &str = "riverlock_ingest_breaker_open";
/// Producers that failed for good and were replaced.
pub const PRODUCERS_REPLACED: &str = "riverlock_ingest_producers_replaced_total";
/// Events answered 503 that may be in Kafka all the same, by `endpoint`.
pub const AMBIGUOUS: &str = "riverlock_ingest_ambiguous_total";
/// Events acknowledged by Kafka after they were answered 503, by `endpoint`.
pub const LATE_ACKS: &str = "riverlock_ingest_late_acknowledgements_total";
/// Bytes of all bodies that were read, by `endpoint`.
pub const BODY_BYTES: &str = "riverlock_ingest_body_bytes_total";
/// Stored events whose `liveMode` is not the one that their `endpoint` expects.
pub const MODE_MISMATCHES: &str = "riverlock_ingest_mode_mismatches_total";
/// 1 for an `endpoint` that checks nothing, else 0.
pub const ENDPOINT_INSECURE: &str = "riverlock_ingest_endpoint_insecure";
/// Events signed with each `secret` of an `endpoint`.
pub const SECRET_MATCHES: &str = "riverlock_ingest_secret_matches_total";
/// When an event signed with the `secret` last came, in seconds since 1970; 0 for never.
pub const SECRET_LAST_MATCH: &str = "riverlock_ingest_secret_last_match_timestamp_seconds";

/// Looks at a configuration that came while the process ran, by [`Reload`].
pub const RELOADS: &str = "riverlock_ingest_reloads_total";
/// 1 while the configuration that is there is refused and an older one is used, else 0.
pub const CONFIGURATION_REFUSED: &str = "riverlock_ingest_configuration_rejected";
/// Events whose sender was not believed, by `endpoint` and [`Quarantined`].
pub const QUARANTINE: &str = "riverlock_ingest_quarantine_total";
/// Requests for an OAuth token, by [`TokenOutcome`].
pub const TOKEN_REQUESTS: &str = "riverlock_ingest_token_requests_total";
/// Connections that ended before TLS was agreed on.
pub const TLS_HANDSHAKES_FAILED: &str = "riverlock_ingest_tls_handshakes_failed_total";
/// Lines about refused requests that were not written, because there were enough within their second.
pub const LOG_LINES_SUPPRESSED: &str = "riverlock_ingest_log_lines_suppressed_total";

/// Authentic requests that were odd and are stored all the same, by `endpoint` and [`Oddity`].
pub const ODD_REQUESTS: &str = "riverlock_ingest_odd_requests_total";
/// Unfinished requests that were evicted because their slot was needed for another.
pub const REQUESTS_EVICTED: &str = "riverlock_ingest_requests_evicted_total";
/// Connections that were evicted because their slot was needed for another.
pub const CONNECTIONS_EVICTED: &str = "riverlock_ingest_connections_evicted_total";
/// Connections that ingest closed itself, by [`Closed`].
pub const CONNECTIONS_CLOSED: &str = "riverlock_ingest_connections_closed_total";
/// Connections that could not be accepted, for example for lack of file descriptors.
pub const ACCEPT_ERRORS: &str = "riverlock_ingest_accept_errors_total";
/// 1 while ingest takes events, as `/readyz` says it, else 0.
pub const READY: &str = "riverlock_ingest_ready";
/// When the certificate of the listener expires, in seconds since 1970; 0 without TLS.
pub const CERTIFICATE_EXPIRY: &str = "riverlock_ingest_certificate_expiry_timestamp_seconds";
/// When a `secret` of an `endpoint` expires, in seconds since 1970; 0 for never.
pub const SECRET_EXPIRY: &str = "riverlock_ingest_secret_expiry_timestamp_seconds";
/// Secrets that expired while the process ran, by `endpoint` and `secret`.
pub const SECRETS_EXPIRED: &str = "riverlock_ingest_secrets_expired_total";
/// 1 for an `endpoint` that has signing secrets of which none counts now, so that it refuses everything, else 0.
pub const WITHOUT_SECRET: &str = "riverlock_ingest_endpoint_without_active_secret";
/// Records of its own that ingest wrote to see whether Kafka answers again, by `outcome`.
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
        /// 503: the request was not complete when its slot was needed for another.
        Evicted = "evicted",
        /// 415, in former versions: not JSON, or compressed. Such requests are stored now if they are authentic.
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
        /// 400: not an event, sent to an endpoint that authenticates nobody.
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
        /// 403: no endpoint with OAuth clients takes requests from this address.
        AddressNotAllowed = "address_not_allowed",
    }
}

outcomes! {
    /// What is odd about an authentic request: the label `oddity` of [`ODD_REQUESTS`].
    Oddity {
        /// The media type is not JSON's.
        MediaType = "media_type",
        /// The body is encoded, or the request says so.
        ContentEncoding = "content_encoding",
        /// The body is larger than what consumers interpret.
        Size = "size",
        /// The body is no event.
        NotAnEvent = "not_an_event",
    }
}

outcomes! {
    /// Why ingest closed a connection: the label `reason` of [`CONNECTIONS_CLOSED`].
    Closed {
        /// No endpoint takes requests from its address.
        AddressNotAllowed = "address_not_allowed",
        /// The head of its next request took too long to arrive.
        HeadTimeout = "head_timeout",
        /// It carried no request for too long.
        Idle = "idle",
        /// It was as old as connections may get.
        Age = "age",
    }
}

outcomes! {
    /// What became of a record of ingest's own: the label `outcome` of [`PROBES`].
    Probe {
        /// Kafka acknowledged it.
        Acknowledged = "acknowledged",
        /// Kafka did not.
        Failed = "failed",
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
        /// Kafka has not acknowledged those before it.
        Busy = "busy",
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
    describe_added();
    LazyLock::force(&PROCESS);
}

fn describe_added() {
    describe_counter!(ODD_REQUESTS, "Authentic requests that were odd and are stored all the same, by what was odd");
    describe_counter!(REQUESTS_EVICTED, "Unfinished requests whose slot was needed for another");
    describe_counter!(CONNECTIONS_EVICTED, "Connections whose slot was needed for another");
    describe_counter!(CONNECTIONS_CLOSED, "Connections that ingest closed itself, by reason");
    describe_counter!(ACCEPT_ERRORS, "Connections that could not be accepted");
    describe_gauge!(READY, "1 while ingest takes events");
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When the listener's certificate expires, since 1970; 0 without TLS"
    );
    describe_gauge!(SECRET_EXPIRY, Unit::Seconds, "When a signing secret expires, since 1970; 0 for never");
    describe_counter!(SECRETS_EXPIRED, "Signing secrets that expired while the process ran");
    describe_gauge!(WITHOUT_SECRET, "1 for an endpoint that has signing secrets of which none counts now");
    describe_counter!(PROBES, "Records that ingest wrote to see whether Kafka answers again, by outcome");
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
