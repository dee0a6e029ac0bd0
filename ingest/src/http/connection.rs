//! State of a connection: its peer, its requests, and when it must be closed.

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

/// Longest time for which reading from a connection is paused because of too many unauthenticated requests.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The same for a known address: behind a proxy that is not configured as trusted, the next request may be from Digital
/// River, which waits 3 s.
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
    fn new(limits: &LimitsConfig, rank: Rank, now: Instant) -> Self {
        let (burst, per_second) =
            (f64::from(limits.unauthenticated_burst), f64::from(limits.unauthenticated_per_second));
        let pause_max = if rank == Rank::Unknown { PAUSE_MAX } else { KNOWN_PAUSE_MAX };
        // Jitter, so that connections that were paused at the same time do not all resume at once.
        let pause_max = pause_max.mul_f64(0.5 + fastrand::f64() / 2.0);
        Self { burst, per_second, count: 0.0, since: now, pause_max }
    }

    fn add(&mut self, now: Instant) {
        let leaked = now.saturating_duration_since(self.since).as_secs_f64() * self.per_second;
        self.count = (self.count - leaked).max(0.0) + 1.0;
        self.since = self.since.max(now);
    }

    /// The time until which there are too many.
    fn pause_until(&self) -> Option<Instant> {
        let over = (self.count - self.burst) / self.per_second;
        (over > 0.0).then(|| self.since + Duration::from_secs_f64(over).min(self.pause_max))
    }
}

/// State that a connection's task and its requests share.
pub(crate) struct Connection {
    slot: Slot,
    /// The peer is a trusted proxy.
    is_proxy: bool,
    /// An authenticated request was received over it, or the peer is a trusted proxy.
    authenticated: AtomicBool,
    start: Instant,
    http2: AtomicBool,
    /// Requests that are not answered yet.
    open: AtomicUsize,
    /// Requests so far.
    requests: AtomicU64,
    /// When the last request was answered, in nanoseconds since the start.
    last_end: AtomicU64,
    /// Unauthenticated requests until the first authenticated one.
    unauthenticated: Mutex<UnauthenticatedBucket>,
    /// Requests that must not be counted as unauthenticated.
    exempt: AtomicUsize,
}

/// The next action of a connection's timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Check again at this time.
    CheckAt(Instant),
    /// Close the connection once it is idle.
    CloseWhenIdle(Closed),
    /// Close the connection at once.
    CloseNow(Closed),
}

impl Connection {
    pub(crate) fn new(slot: Slot, rank: Rank, limits: &LimitsConfig, start: Instant) -> Arc<Self> {
        PROCESS.connections.increment(1.0);
        Arc::new(Self {
            slot,
            is_proxy: rank == Rank::Authenticated,
            authenticated: AtomicBool::new(rank == Rank::Authenticated),
            start,
            http2: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            unauthenticated: Mutex::new(UnauthenticatedBucket::new(limits, rank, start)),
            exempt: AtomicUsize::new(0),
        })
    }

    /// Whether the peer is a trusted proxy.
    pub(crate) fn is_proxy(&self) -> bool {
        self.is_proxy
    }

    fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    /// The time until which reading is paused because of too many unauthenticated requests.
    pub(crate) fn pause_until(&self) -> Option<Instant> {
        if self.is_authenticated() {
            return None;
        }
        let unauthenticated = *self.unauthenticated.lock().expect("no code panics while it holds the count");
        unauthenticated.pause_until().filter(|until| *until > Instant::now())
    }

    /// Completes when the connection's slot is needed for another one.
    pub(crate) async fn evicted(&self) {
        self.slot.evicted().await;
    }

    /// Notes that a request's head is complete. The request is open until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>, is_http2: bool) -> OpenRequest {
        self.http2.store(is_http2, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// The action that is due now.
    pub(crate) fn due(&self, first_byte: &FirstByte, limits: &LimitsConfig, now: Instant) -> Due {
        let too_old = self.start + limits.connection_age_max;
        if now >= too_old {
            return Due::CloseWhenIdle(Closed::Age);
        }
        if self.open.load(Ordering::Relaxed) > 0 {
            return Due::CheckAt(too_old.min(now + limits.header_read_timeout.min(limits.idle_timeout)));
        }
        // Over HTTP/2, frames of any kind can arrive at any time. There, only the idle timer closes a connection on which
        // no request is ever completed.
        let none_yet = self.requests.load(Ordering::Relaxed) == 0;
        let head_since = if none_yet { Some(self.start) } else { first_byte.head_since() };
        if let Some(since) = head_since.filter(|_| none_yet || !self.http2.load(Ordering::Relaxed)) {
            let until = since + limits.header_read_timeout;
            return if now >= until { Due::CloseNow(Closed::HeadTimeout) } else { Due::CheckAt(too_old.min(until)) };
        }
        let idle_until = self.start + Duration::from_nanos(self.last_end.load(Ordering::Relaxed)) + limits.idle_timeout;
        if now >= idle_until {
            return Due::CloseWhenIdle(Closed::Idle);
        }
        // A head may begin right now; it is due one timeout later.
        Due::CheckAt(too_old.min(idle_until).min(now + limits.header_read_timeout))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        PROCESS.connections.decrement(1.0);
    }
}

/// A request of a connection that is not answered yet.
pub(crate) struct OpenRequest(Arc<Connection>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = Instant::now();
        let nanos = u64::try_from(now.saturating_duration_since(self.0.start).as_nanos()).unwrap_or(u64::MAX);
        self.0.last_end.store(nanos, Ordering::Relaxed);
        let exempt = &self.0.exempt;
        let is_exempt = exempt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok();
        if !is_exempt && !self.0.is_authenticated() {
            self.0.unauthenticated.lock().expect("no code panics while it holds the count").add(now);
        }
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection over which a request was received.
#[derive(Clone)]
pub(crate) struct Peer {
    /// The peer address.
    pub(crate) address: IpAddr,
    /// When the request's first byte was received.
    pub(crate) since: Instant,
    pub(crate) connection: Arc<Connection>,
}

impl Peer {
    /// Whether an authenticated request was received over the connection, or the peer is a trusted proxy.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.connection.is_authenticated()
    }

    /// Exempts the request from the unauthenticated count: it was rejected before it could be authenticated, through no
    /// fault of the sender.
    pub(crate) fn exempt(&self) {
        if !self.is_authenticated() {
            self.connection.exempt.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that an authenticated request was received over the connection: its slot is never evicted.
    pub(crate) fn authenticate(&self) {
        if !self.is_authenticated() && !self.connection.authenticated.swap(true, Ordering::Relaxed) {
            self.connection.slot.authenticate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::limits::Bounds, http::slots::Slots};

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
    fn unauthenticated_requests_are_slowed_down_until_one_is_authenticated() {
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
    fn requests_rejected_because_kafka_is_unavailable_are_not_slowed_down() {
        let start = Instant::now();
        let connection = connection(start);
        let peer = Peer { address: [192, 0, 2, 1].into(), since: start, connection: Arc::clone(&connection) };
        for _ in 0..1_000 {
            let open = connection.begin(false);
            peer.exempt();
            drop(open);
        }
        assert_eq!(connection.pause_until(), None);
    }

    #[test]
    fn a_connection_without_a_request_is_closed_when_its_head_is_overdue() {
        let t0 = Instant::now();
        let (connection, first_byte) = (connection(t0), FirstByte::new(t0));
        assert_eq!(connection.due(&first_byte, &limits(), t0), Due::CheckAt(t0 + 10 * SECOND));
        assert_eq!(connection.due(&first_byte, &limits(), t0 + 10 * SECOND), Due::CloseNow(Closed::HeadTimeout));
    }

    #[test]
    fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
        for is_http2 in [false, true] {
            let t0 = Instant::now();
            let (connection, first_byte) = (connection(t0), FirstByte::new(t0));
            let open = connection.begin(is_http2);
            let due = |now| connection.due(&first_byte, &limits(), now);
            assert_eq!(due(t0 + 500 * SECOND), Due::CheckAt(t0 + 510 * SECOND), "a request is open");
            assert_eq!(due(t0 + 595 * SECOND), Due::CheckAt(t0 + 600 * SECOND));
            assert_eq!(due(t0 + 600 * SECOND), Due::CloseWhenIdle(Closed::Age));
            drop(open);
            let ended = Instant::now();
            assert_eq!(due(ended + 20 * SECOND), Due::CheckAt(ended + 30 * SECOND));
            assert!(matches!(due(ended + 74 * SECOND), Due::CheckAt(until) if until <= ended + 75 * SECOND));
            assert_eq!(due(ended + 75 * SECOND), Due::CloseWhenIdle(Closed::Idle));
        }
    }
}
