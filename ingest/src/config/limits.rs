//! `[ingest.limits]`: bounds on resources and durations.

use std::{ops::RangeInclusive, time::Duration};

use riverlock_runtime::{ConfigError, config::DurationText};
use riverlock_schemas::kafka::record::STORED_BYTES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of ingest.
///
/// Before a request is authenticated, it uses only a slot and bytes for reading. When these are used up, the oldest unfinished
/// request or connection of an unknown client is evicted for the next one. Capacity for Kafka is given to authenticated events
/// only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most authenticated events between their request and Kafka's delivery report; one more is answered `503` at once.
    pub in_flight_max: usize,
    /// Most of them for one partition, so that a partition that does not acknowledge leaves room for the others. Without one, a
    /// third of `in_flight_max`.
    pub in_flight_partition_max: Option<usize>,
    /// Most bytes of bodies between their request and Kafka's delivery report; more are answered `503` at once.
    pub in_flight_bytes_max: usize,
    /// Most requests whose body is still arriving.
    pub reading_max: usize,
    /// Most of them from one client address (a /64 of IPv6).
    pub reading_per_address_max: usize,
    /// Most bytes of bodies that are not complete yet.
    pub reading_bytes_max: usize,
    /// Most connections.
    pub connections_max: usize,
    /// Most of them from one address (a /64 of IPv6). Trusted proxies, and connections with an authenticated event,
    /// are not counted.
    pub connections_per_address_max: usize,
    /// Share of `reading_max` and `connections_max` that only known clients may use: Digital River's addresses, and those from
    /// which an authenticated request was received within `known_for`.
    pub known_reserved_percent: u8,
    /// How long an address is known after an authenticated request.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub known_for: Duration,
    /// Concurrent requests on an HTTP/2 connection of a trusted proxy.
    pub http2_streams_proxy_max: u32,
    /// Concurrent requests on an HTTP/2 connection of a client that is not a trusted proxy.
    pub http2_streams_max: u32,
    /// Unauthenticated requests that a connection may make before it is slowed down to `unauthenticated_per_second`. Neither
    /// limit applies to trusted proxies, nor to a connection with an authenticated request.
    pub unauthenticated_burst: u32,
    /// Unauthenticated requests that a connection may make per second after `unauthenticated_burst`.
    pub unauthenticated_per_second: u32,
    /// Longest body; a longer one is answered `413`. Most events have 0.4 to 5 kB, orders with hundreds of lines 100 kB and
    /// more. Consumers process bodies of up to 1 MiB; a larger one is stored and becomes a dead letter.
    pub body_bytes_max: usize,
    /// Time from a request's first byte (over HTTP/2, from the end of its head) to the answer, regardless of Kafka. Digital
    /// River waits 3000 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub answer_deadline: Duration,
    /// How long the body may take to arrive; then the answer is `408`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub body_read_timeout: Duration,
    /// How long a request's head may take to arrive, from its first byte; the first one of a connection, from the start of the
    /// connection. Then the connection is closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub header_read_timeout: Duration,
    /// How long a connection stays open without a request. Keep it longer than proxies keep theirs (usually 60 s), so that none
    /// sends a request over a connection that is being closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Duration,
    /// How long a connection is kept; then it is closed after its current request.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connection_age_max: Duration,
    /// How long Kafka may fail to acknowledge events before `/readyz` fails.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub not_ready_after: Duration,
    /// How long connections are still accepted after shutdown was requested and `/readyz` fails, so that load balancers
    /// notice. `0s` closes the listener at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub shutdown_delay: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 1024,
            in_flight_partition_max: None,
            in_flight_bytes_max: 32 * 1024 * 1024,
            reading_max: 4_096,
            reading_per_address_max: 1_024,
            reading_bytes_max: 64 * 1024 * 1024,
            connections_max: 2_048,
            connections_per_address_max: 512,
            known_reserved_percent: 25,
            known_for: Duration::from_secs(24 * 3_600),
            http2_streams_proxy_max: 128,
            http2_streams_max: 32,
            unauthenticated_burst: 64,
            unauthenticated_per_second: 5,
            body_bytes_max: STORED_BYTES_MAX,
            answer_deadline: Duration::from_millis(2_500),
            body_read_timeout: Duration::from_secs(1),
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            connection_age_max: Duration::from_secs(600),
            not_ready_after: Duration::from_secs(10),
            shutdown_delay: Duration::from_secs(5),
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        const GIB: usize = 1024 * 1024 * 1024;
        number("in_flight_max", self.in_flight_max, 1..=100_000)?;
        number("in_flight_partition_max", self.in_flight_partition_max(), 1..=self.in_flight_max)?;
        number("reading_max", self.reading_max, 1..=100_000)?;
        number("reading_per_address_max", self.reading_per_address_max, 1..=100_000)?;
        number("connections_max", self.connections_max, 1..=100_000)?;
        number("connections_per_address_max", self.connections_per_address_max, 1..=100_000)?;
        number("known_reserved_percent", self.known_reserved_percent.into(), 0..=90)?;
        number("http2_streams_proxy_max", self.http2_streams_proxy_max as usize, 1..=1_000)?;
        number("http2_streams_max", self.http2_streams_max as usize, 1..=1_000)?;
        number("unauthenticated_burst", self.unauthenticated_burst as usize, 1..=100_000)?;
        number("unauthenticated_per_second", self.unauthenticated_per_second as usize, 1..=100_000)?;
        number("body_bytes_max", self.body_bytes_max, 1..=STORED_BYTES_MAX)?;
        number("in_flight_bytes_max", self.in_flight_bytes_max, self.body_bytes_max..=GIB)?;
        number("reading_bytes_max", self.reading_bytes_max, self.body_bytes_max..=GIB)?;
        let ms = Duration::from_millis;
        // Digital River gives up after 3000 ms; the difference is for the network.
        duration("answer_deadline", self.answer_deadline, ms(100)..=ms(2_900))?;
        duration("body_read_timeout", self.body_read_timeout, ms(10)..=self.answer_deadline)?;
        duration("header_read_timeout", self.header_read_timeout, ms(100)..=ms(120_000))?;
        duration("idle_timeout", self.idle_timeout, ms(100)..=ms(3_600_000))?;
        duration("connection_age_max", self.connection_age_max, ms(1_000)..=ms(86_400_000))?;
        duration("known_for", self.known_for, ms(60_000)..=ms(30 * 86_400_000))?;
        duration("not_ready_after", self.not_ready_after, ms(0)..=ms(3_600_000))?;
        duration("shutdown_delay", self.shutdown_delay, ms(0)..=SHUTDOWN_DELAY_MAX)
    }

    /// Most events in flight to one partition.
    pub(crate) fn in_flight_partition_max(&self) -> usize {
        self.in_flight_partition_max.unwrap_or_else(|| (self.in_flight_max / 3).max(1))
    }

    /// The bounds of requests whose body is still arriving.
    pub(crate) fn reading(&self) -> Bounds {
        self.bounds(self.reading_max, self.reading_per_address_max)
    }

    /// The bounds of connections, of which there may be `max`.
    pub(crate) fn connections(&self, max: usize) -> Bounds {
        self.bounds(max, self.connections_per_address_max)
    }

    fn bounds(&self, max: usize, per_address_max: usize) -> Bounds {
        let reserved = max * usize::from(self.known_reserved_percent) / 100;
        Bounds { max, per_address_max, unknown_max: (max - reserved).max(1) }
    }
}

/// Longest `shutdown_delay`: events in flight must also complete within the process's grace period.
const SHUTDOWN_DELAY_MAX: Duration = Duration::from_secs(15);

fn number(name: &str, value: usize, range: RangeInclusive<usize>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!("is {value}, must be from {} to {}", range.start(), range.end());
    Err(ConfigError::refused(format!("ingest.limits.{name}"), reason))
}

fn duration(name: &str, value: Duration, range: RangeInclusive<Duration>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!("is {value:?}, must be from {:?} to {:?}", range.start(), range.end());
    Err(ConfigError::refused(format!("ingest.limits.{name}"), reason))
}

/// Limits of the number of slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All slots.
    pub(crate) max: usize,
    /// Slots of one client address, not counting those of authenticated clients.
    pub(crate) per_address_max: usize,
    /// Slots of all unknown clients together.
    pub(crate) unknown_max: usize,
}
