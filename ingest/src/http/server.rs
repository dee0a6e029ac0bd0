//! The listener: `axum::serve` has no timers, no bound on connections and no end to its graceful shutdown, so this has.

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
use riverlock_runtime::Shutdown;
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

/// How long requests may take to end after the process is asked to end. Longer than any answer takes.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that HTTP/1 buffers for a connection; more headers than fit are refused with 431.
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;

/// Bytes of headers of an HTTP/2 request.
const HTTP2_HEADER_BYTES: u32 = 16 * 1024;

/// Bytes that an HTTP/2 connection may send before they are read.
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;

/// How often a silent HTTP/2 connection is asked whether it is still there, and how long it may take to say so.
const HTTP2_PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What is known of the peer of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// No endpoint takes requests from its address.
    NotAllowed,
    /// A trusted proxy, which speaks for many.
    Proxy,
    /// Any other client.
    Client(Rank),
}

/// Decides which connections are accepted.
pub(crate) trait AcceptPolicy: Send + Sync + 'static {
    /// What is known of a peer with this address.
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

/// Runs hyper's tasks where shutdown knows of them.
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
        // hyper counts it from the end of the last answer. The connection's own timer, which ends before, knows the difference
        // between an idle connection and a head that does not arrive.
        .header_read_timeout(limits.idle_timeout + limits.header_read_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        // Some senders close their half after the request and wait for the answer.
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

/// What all connections share.
struct Server {
    router: Router,
    tls: Arc<ArcSwapOption<Tls>>,
    limits: LimitsConfig,
    shutdown: Shutdown,
    /// Tells connections to end after what they are at.
    draining: CancellationToken,
    slots: Arc<Slots>,
    for_proxies: Builder<TrackingExecutor>,
    for_clients: Builder<TrackingExecutor>,
}

/// Accepts connections until `shutdown_delay` after the process is asked to end, then waits up to [`DRAIN_TIMEOUT`] for them.
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
    loop {
        let accepted = tokio::select! {
            biased;
            () = end.as_mut() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => server.take(stream, peer, policy.as_ref(), &alive),
            Err(error) => {
                PROCESS.accept_errors.increment(1);
                policy.accept_failed(&error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    server.draining.cancel();
    drop((listener, alive));
    if tokio::time::timeout(DRAIN_TIMEOUT, ended.recv()).await.is_err() {
        tracing::warn!("connections were still open {} s after the end was asked for", DRAIN_TIMEOUT.as_secs());
    }
}

impl Server {
    /// Ends when no more connections are to be accepted: load balancers had their time to notice.
    async fn end(&self) {
        self.shutdown.soft().cancelled().await;
        self.shutdown.hard().run_until_cancelled(sleep(self.limits.shutdown_delay)).await;
    }

    /// Serves a connection, if it may be there and there is a slot for it.
    fn take(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        policy: &dyn AcceptPolicy,
        alive: &mpsc::Sender<Infallible>,
    ) {
        let address = peer.ip().to_canonical();
        let (network, standing) = match policy.peer_kind(address) {
            PeerKind::NotAllowed => return PROCESS.connection_closed(Closed::AddressNotAllowed),
            PeerKind::Proxy => (None, Rank::Authenticated),
            PeerKind::Client(standing) => (Some(network(address)), standing),
        };
        // Closing tells the sender more than waiting in the queue of the listener would.
        let Ok(slot) = self.slots.enter(network, standing) else {
            return PROCESS.connections_refused.increment(1);
        };
        let connection = Connection::new(slot, standing, &self.limits, std::time::Instant::now());
        let (server, alive) = (Arc::clone(self), alive.clone());
        self.shutdown.spawn_work(async move {
            // An answer is small and must not wait for more. A failure means that the connection is gone already.
            let _ = stream.set_nodelay(true);
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

    /// Agrees on TLS, within the time that a request's head may take.
    async fn handshake(&self, stream: TcpStream, tls: &Tls, connection: &Connection) -> Option<TlsStream<TcpStream>> {
        let agreed = tokio::time::timeout(self.limits.header_read_timeout, tls.acceptor.accept(stream));
        let agreed = tokio::select! {
            agreed = agreed => agreed,
            () = self.draining.cancelled() => return None,
            () = connection.evicted() => return None,
        };
        match agreed {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%error, "TLS was not agreed on: {error}"),
            Err(_) => tracing::debug!("TLS was not agreed on in time"),
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
                    Due::Later(until) => {
                        timer.as_mut().reset(Instant::from_std(until));
                        continue;
                    }
                    Due::Cut(reason) => return PROCESS.connection_closed(reason),
                    Due::End(reason) => Some(reason),
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
