//! One connection: its peer, its state, and when it has to be closed.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    config::LimitsConfig,
    http::{
        first_byte::FirstByte,
        slots::{Rank, Slot},
    },
    metrics::{Closed, PROCESS},
};

/// Longest pause of a connection that makes too many requests without proof.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The same where the address is known: behind a proxy that is not configured as trusted, the next request may be authentic, and
/// Digital River waits 3 s.
const KNOWN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Unauthenticated requests, as a leaky bucket.
#[derive(Clone, Copy, Debug)]
struct UnauthenticatedBucket {
    burst: f64,
    per_second: f64,
    count: f64,
    since: Instant,
    pause_max: Duration,
}

impl UnauthenticatedBucket {
    fn new(limits: &LimitsConfig, standing: Rank, now: Instant) -> Self {
        let (burst, per_second) =
            (f64::from(limits.unauthenticated_burst), f64::from(limits.unauthenticated_per_second));
        let pause_max = if standing == Rank::Unknown { PAUSE_MAX } else { KNOWN_PAUSE_MAX };
        // Connections that are slowed down together must not all be read from at one moment.
        let pause_max = pause_max.mul_f64(0.5 + fastrand::f64() / 2.0);
        Self { burst, per_second, count: 0.0, since: now, pause_max }
    }

    fn add(&mut self, now: Instant) {
        let leaked = now.saturating_duration_since(self.since).as_secs_f64() * self.per_second;
        self.count = (self.count - leaked).max(0.0) + 1.0;
        self.since = self.since.max(now);
    }

    /// Until when there are too many.
    fn pause_until(&self) -> Option<Instant> {
        let over = (self.count - self.burst) / self.per_second;
        (over > 0.0).then(|| self.since + Duration::from_secs_f64(over).min(self.pause_max))
    }
}

/// What a connection's tasks and its requests share.
pub(crate) struct Connection {
    slot: Slot,
    /// A trusted proxy is at its other end.
    is_proxy: bool,
    /// An authentic request came over it, or a trusted proxy is at its other end.
    authenticated: AtomicBool,
    start: Instant,
    http2: AtomicBool,
    /// Requests that have no answer yet.
    open: AtomicUsize,
    /// Requests so far.
    requests: AtomicU64,
    /// When the last request got its answer, in nanoseconds since the start.
    last_end: AtomicU64,
    /// Requests without proof, as long as there was none with it.
    unproven: Mutex<UnauthenticatedBucket>,
    /// Requests that are not to be counted as without proof.
    excused: AtomicUsize,
}

/// What a connection's timer has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing until then.
    Later(Instant),
    /// Close it once it is idle.
    End(Closed),
    /// Close it at once.
    Cut(Closed),
}

impl Connection {
    pub(crate) fn new(slot: Slot, standing: Rank, limits: &LimitsConfig, start: Instant) -> Arc<Self> {
        PROCESS.connections.increment(1.0);
        Arc::new(Self {
            slot,
            is_proxy: standing == Rank::Authenticated,
            authenticated: AtomicBool::new(standing == Rank::Authenticated),
            start,
            http2: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            unproven: Mutex::new(UnauthenticatedBucket::new(limits, standing, start)),
            excused: AtomicUsize::new(0),
        })
    }

    /// Whether a trusted proxy is at its other end.
    pub(crate) fn is_proxy(&self) -> bool {
        self.is_proxy
    }

    fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    /// Until when nothing is to be read from it, because too many unauthenticated requests came over it.
    pub(crate) fn pause_until(&self) -> Option<Instant> {
        if self.is_authenticated() {
            return None;
        }
        let unproven = *self.unproven.lock().expect("no code panics while it holds the count");
        unproven.pause_until().filter(|until| *until > Instant::now())
    }

    /// Ends when its slot is needed for another connection.
    pub(crate) async fn evicted(&self) {
        self.slot.evicted().await;
    }

    /// A request's head is complete. It is being answered until what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>, is_http2: bool) -> OpenRequest {
        self.http2.store(is_http2, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// What is due now.
    pub(crate) fn due(&self, first_byte: &FirstByte, limits: &LimitsConfig, now: Instant) -> Due {
        let too_old = self.start + limits.connection_age_max;
        if now >= too_old {
            return Due::End(Closed::Age);
        }
        if self.open.load(Ordering::Relaxed) > 0 {
            return Due::Later(too_old.min(now + limits.header_read_timeout.min(limits.idle_timeout)));
        }
        // Over HTTP/2 frames of all kinds come at any time. There, the idle timer alone ends what never becomes a request.
        let none_yet = self.requests.load(Ordering::Relaxed) == 0;
        let head_since = if none_yet { Some(self.start) } else { first_byte.head_since() };
        if let Some(since) = head_since.filter(|_| none_yet || !self.http2.load(Ordering::Relaxed)) {
            let until = since + limits.header_read_timeout;
            return if now >= until { Due::Cut(Closed::HeadTimeout) } else { Due::Later(too_old.min(until)) };
        }
        let idle_until = self.start + Duration::from_nanos(self.last_end.load(Ordering::Relaxed)) + limits.idle_timeout;
        if now >= idle_until {
            return Due::End(Closed::Idle);
        }
        // A head may begin right now, and is due one timeout later.
        Due::Later(too_old.min(idle_until).min(now + limits.header_read_timeout))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        PROCESS.connections.decrement(1.0);
    }
}

/// A request of a connection that has no answer yet.
pub(crate) struct OpenRequest(Arc<Connection>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = Instant::now();
        let nanos = u64::try_from(now.saturating_duration_since(self.0.start).as_nanos()).unwrap_or(u64::MAX);
        self.0.last_end.store(nanos, Ordering::Relaxed);
        let excused = &self.0.excused;
        let is_excused =
            excused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok();
        if !is_excused && !self.0.is_authenticated() {
            self.0.unproven.lock().expect("no code panics while it holds the count").add(now);
        }
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the connection knows of a request.
#[derive(Clone)]
pub(crate) struct Peer {
    /// The address of the other end.
    pub(crate) address: IpAddr,
    /// When the request's first byte came.
    pub(crate) since: Instant,
    pub(crate) connection: Arc<Connection>,
}

impl Peer {
    /// Whether an authentic request came over the connection, or a trusted proxy is at its other end.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.connection.is_authenticated()
    }

    /// Notes that the request was refused before it could prove anything, for no fault of its sender's.
    pub(crate) fn excuse(&self) {
        if !self.is_authenticated() {
            self.connection.excused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that an authentic request came over the connection: its slot is never needed for others.
    pub(crate) fn authenticate(&self) {
        if !self.is_authenticated() && !self.connection.authenticated.swap(true, Ordering::Relaxed) {
            self.connection.slot.authenticate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::slots::{Bounds, Slots};

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> LimitsConfig {
        LimitsConfig {
            header_read_timeout: 10 * SECOND,
            idle_timeout: 75 * SECOND,
            connection_age_max: 600 * SECOND,
            ..LimitsConfig::default()
        }
    }

    fn connection(start: Instant) -> Arc<Connection> {
        let slots = Slots::new(Bounds { max: 9, per_address_max: 9, unknown_max: 9 }, metrics::Counter::noop());
        Connection::new(slots.enter(None, Rank::Unknown).unwrap(), Rank::Unknown, &limits(), start)
    }

    #[test]
    fn requests_without_proof_are_slowed_down_until_there_is_one_with_it() {
        let start = Instant::now();
        let connection = connection(start);
        let LimitsConfig { unauthenticated_burst: burst, unauthenticated_per_second: per_second, .. } = limits();
        for _ in 0..burst {
            drop(connection.begin(true));
        }
        assert_eq!(connection.pause_until(), None);
        for _ in 0..3 * per_second {
            drop(connection.begin(true));
        }
        let now = Instant::now();
        let pause = connection.pause_until().unwrap() - now;
        assert!(pause > SECOND && pause <= 3 * SECOND, "{pause:?}");
        for _ in 0..100 * per_second {
            drop(connection.begin(true));
        }
        assert!(connection.pause_until().unwrap() <= Instant::now() + PAUSE_MAX);
        let peer = Peer { address: [192, 0, 2, 1].into(), since: now, connection: Arc::clone(&connection) };
        peer.authenticate();
        assert_eq!(connection.pause_until(), None);
    }

    #[test]
    fn requests_that_could_prove_nothing_because_kafka_is_away_are_not_slowed_down() {
        let start = Instant::now();
        let connection = connection(start);
        let peer = Peer { address: [192, 0, 2, 1].into(), since: start, connection: Arc::clone(&connection) };
        for _ in 0..1_000 {
            let open = connection.begin(false);
            peer.excuse();
            drop(open);
        }
        assert_eq!(connection.pause_until(), None);
    }

    #[test]
    fn a_connection_without_a_request_is_cut_when_its_head_is_due() {
        let t0 = Instant::now();
        let (connection, first_byte) = (connection(t0), FirstByte::new(t0));
        assert_eq!(connection.due(&first_byte, &limits(), t0), Due::Later(t0 + 10 * SECOND));
        assert_eq!(connection.due(&first_byte, &limits(), t0 + 10 * SECOND), Due::Cut(Closed::HeadTimeout));
    }

    #[test]
    fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
        for is_http2 in [false, true] {
            let t0 = Instant::now();
            let (connection, first_byte) = (connection(t0), FirstByte::new(t0));
            let open = connection.begin(is_http2);
            let due = |now| connection.due(&first_byte, &limits(), now);
            assert_eq!(due(t0 + 500 * SECOND), Due::Later(t0 + 510 * SECOND), "it is at a request");
            assert_eq!(due(t0 + 595 * SECOND), Due::Later(t0 + 600 * SECOND));
            assert_eq!(due(t0 + 600 * SECOND), Due::End(Closed::Age));
            drop(open);
            let ended = Instant::now();
            assert_eq!(due(ended + 20 * SECOND), Due::Later(ended + 30 * SECOND));
            assert!(matches!(due(ended + 74 * SECOND), Due::Later(until) if until <= ended + 75 * SECOND));
            assert_eq!(due(ended + 75 * SECOND), Due::End(Closed::Idle));
        }
    }
}
