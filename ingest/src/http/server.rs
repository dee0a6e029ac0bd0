//! The listener. It replaces `axum::serve`, which has no timers, no limit on connections and no deadline for its graceful
//! shutdown.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use axum::Router;
use hyper::{Request, Version, body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use riverlock_runtime::{Shutdown, accept::accept};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) use crate::http::connection::Peer;
use crate::{
    config::LimitsConfig,
    http::{
        address::network,
        connection::{Connection, Due},
        first_byte::FirstByte,
        nofile,
        observed_stream::ObservedStream,
        slots::{Rank, Slots},
        tls::Tls,
    },
    metrics::{Closed, PROCESS},
};

/// How long requests may take to complete after shutdown was requested. Longer than any answer takes.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that HTTP/1 buffers for a connection; a longer head is rejected with 431.
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;

/// Most bytes of headers of an HTTP/2 request.
const HTTP2_HEADER_BYTES: u32 = 16 * 1024;

/// Flow-control window of an HTTP/2 connection, in bytes.
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;

/// Interval of HTTP/2 pings on a silent connection, and how long the reply may take.
const HTTP2_PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Classification of the peer of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// No endpoint accepts requests from its address.
    NotAllowed,
    /// A trusted proxy, which forwards the requests of many clients.
    Proxy,
    /// Any other client.
    Client(Rank),
}

/// Decides which connections are accepted.
pub(crate) trait AcceptPolicy: Send + Sync + 'static {
    /// Classifies a peer by its address.
    fn peer_kind(&self, address: IpAddr) -> PeerKind;

    /// A connection could not be accepted.
    fn accept_failed(&self, error: &io::Error);
}

/// Accepts all connections.
pub(crate) struct AcceptAll;

impl AcceptPolicy for AcceptAll {
    fn peer_kind(&self, _: IpAddr) -> PeerKind {
        PeerKind::Proxy
    }

    fn accept_failed(&self, error: &io::Error) {
        tracing::warn!(%error, "a connection could not be accepted: {error}");
    }
}

/// Spawns hyper's tasks so that shutdown tracks them.
#[derive(Clone)]
struct TrackingExecutor(Shutdown);

impl<F> Executor<F> for TrackingExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn_work(task));
    }
}

fn builder(limits: &LimitsConfig, http2_streams_max: u32, shutdown: &Shutdown) -> Builder<TrackingExecutor> {
    let mut builder = Builder::new(TrackingExecutor(shutdown.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper measures it from the end of the last answer. The connection's own timer, which fires earlier, distinguishes
        // an idle connection from a head that does not arrive.
        .header_read_timeout(limits.idle_timeout + limits.header_read_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        // Some senders half-close the connection after the request and wait for the answer.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(http2_streams_max)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES / 2)
        .keep_alive_interval(HTTP2_PING.0)
        .keep_alive_timeout(HTTP2_PING.1);
    builder
}

/// State that all connections share.
struct Server {
    router: Router,
    tls: Arc<ArcSwapOption<Tls>>,
    limits: LimitsConfig,
    shutdown: Shutdown,
    /// Cancelled to make connections close after their current request.
    draining: CancellationToken,
    slots: Arc<Slots>,
    for_proxies: Builder<TrackingExecutor>,
    for_clients: Builder<TrackingExecutor>,
}

/// Accepts connections until `shutdown_delay` after shutdown was requested, then waits up to [`DRAIN_TIMEOUT`] for them.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Arc<ArcSwapOption<Tls>>,
    limits: LimitsConfig,
    policy: Arc<dyn AcceptPolicy>,
    shutdown: Shutdown,
) {
    let bounds = limits.connections(nofile::room_for_connections(limits.connections_max));
    let server = Arc::new(Server {
        slots: Slots::new(bounds, PROCESS.connections_evicted.clone()),
        for_proxies: builder(&limits, limits.http2_streams_proxy_max, &shutdown),
        for_clients: builder(&limits, limits.http2_streams_max, &shutdown),
        router,
        tls,
        limits,
        shutdown,
        draining: CancellationToken::new(),
    });
    // Closed when the last connection has ended.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let mut end = pin!(server.end());
    let failed = |error: &io::Error| {
        PROCESS.accept_errors.increment(1);
        policy.accept_failed(error);
    };
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = end.as_mut() => break,
            accepted = accept(&listener, failed) => accepted,
        };
        server.take(stream, peer, policy.as_ref(), &alive);
    }
    server.draining.cancel();
    drop((listener, alive));
    if tokio::time::timeout(DRAIN_TIMEOUT, ended.recv()).await.is_err() {
        tracing::warn!("connections were still open {} s after the listener was closed", DRAIN_TIMEOUT.as_secs());
    }
}

impl Server {
    /// Completes when no more connections are to be accepted, because load balancers have had time to notice.
    async fn end(&self) {
        self.shutdown.soft().cancelled().await;
        self.shutdown.hard().run_until_cancelled(sleep(self.limits.shutdown_delay)).await;
    }

    /// Serves a connection, if its address is allowed and a slot is available.
    fn take(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        policy: &dyn AcceptPolicy,
        alive: &mpsc::Sender<Infallible>,
    ) {
        let address = peer.ip().to_canonical();
        let (network, rank) = match policy.peer_kind(address) {
            PeerKind::NotAllowed => return PROCESS.connection_closed(Closed::AddressNotAllowed),
            PeerKind::Proxy => (None, Rank::Authenticated),
            PeerKind::Client(rank) => (Some(network(address)), rank),
        };
        // Closing is a clearer signal to the sender than leaving the connection in the listener's queue.
        let Ok(slot) = self.slots.enter(network, rank) else {
            return PROCESS.connections_rejected.increment(1);
        };
        let connection = Connection::new(slot, rank, &self.limits, std::time::Instant::now());
        let (server, alive) = (Arc::clone(self), alive.clone());
        self.shutdown.spawn_work(async move {
            match server.tls.load_full() {
                None => server.connection(stream, address, &connection).await,
                Some(tls) => {
                    if let Some(stream) = server.handshake(stream, &tls, &connection).await {
                        Box::pin(server.connection(stream, address, &connection)).await;
                    }
                }
            }
            drop(alive);
        });
    }

    /// Performs the TLS handshake, within the time that a request's head may take.
    async fn handshake(&self, stream: TcpStream, tls: &Tls, connection: &Connection) -> Option<TlsStream<TcpStream>> {
        let agreed = tokio::time::timeout(self.limits.header_read_timeout, tls.acceptor.accept(stream));
        let agreed = tokio::select! {
            agreed = agreed => agreed,
            () = self.draining.cancelled() => return None,
            () = connection.evicted() => return None,
        };
        match agreed {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%error, "the TLS handshake failed: {error}"),
            Err(_) => tracing::debug!("the TLS handshake timed out"),
        }
        PROCESS.tls_handshakes_failed.increment(1);
        None
    }

    async fn connection(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: IpAddr,
        connection: &Arc<Connection>,
    ) {
        let first_byte = FirstByte::new(std::time::Instant::now());
        let stream = ObservedStream::new(stream, first_byte.clone(), Arc::clone(connection));
        let service = service_fn({
            let (first_byte, connection) = (first_byte.clone(), Arc::clone(connection));
            let router = self.router.clone();
            move |mut request: Request<Incoming>| {
                let is_http2 = request.version() >= Version::HTTP_2;
                let open = connection.begin(is_http2);
                let since = if is_http2 { std::time::Instant::now() } else { first_byte.begin() };
                request.extensions_mut().insert(Peer { address, since, connection: Arc::clone(&connection) });
                let (answer, first_byte) = (router.clone().oneshot(request), first_byte.clone());
                async move {
                    let answer = answer.await.unwrap_or_else(|never| match never {});
                    first_byte.end();
                    drop(open);
                    Ok::<_, Infallible>(answer)
                }
            }
        });
        let builder = if connection.is_proxy() { &self.for_proxies } else { &self.for_clients };
        let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut is_closing = false;
        loop {
            let ended = tokio::select! {
                result = serving.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended early: {error}");
                    }
                    return;
                }
                () = self.shutdown.hard().cancelled() => return,
                () = connection.evicted() => return,
                () = self.draining.cancelled(), if !is_closing => None,
                () = timer.as_mut() => match connection.due(&first_byte, &self.limits, std::time::Instant::now()) {
                    _ if is_closing => return,
                    Due::CheckAt(until) => {
                        timer.as_mut().reset(Instant::from_std(until));
                        continue;
                    }
                    Due::CloseNow(reason) => return PROCESS.connection_closed(reason),
                    Due::CloseWhenIdle(reason) => Some(reason),
                },
            };
            if let Some(reason) = ended {
                PROCESS.connection_closed(reason);
            }
            serving.as_mut().graceful_shutdown();
            timer.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
            is_closing = true;
        }
    }
}
