//! The listener: `axum::serve` has no timers, no bound on connections and no end to its graceful shutdown, so this has.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use crate::{
    config::LimitsConfig,
    first_byte::{FirstByte, Observed},
    metrics::PROCESS,
    tls::Tls,
};

/// How long requests may take to end after the process is asked to end. Longer than any answer takes.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that HTTP/1 buffers for a connection; more headers than fit are refused with 431.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Bytes of headers of an HTTP/2 request.
const HTTP2_HEADER_BYTES: u32 = 16 * 1024;

/// Requests at once on an HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 128;

/// Bytes that an HTTP/2 connection may send before they are read.
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;

/// How often a silent HTTP/2 connection is asked whether it is still there, and how long it may take to say so.
const HTTP2_PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Runs hyper's tasks where shutdown knows of them.
#[derive(Clone)]
struct Tracked(Shutdown);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn_work(task));
    }
}

fn builder(limits: &LimitsConfig, shutdown: &Shutdown) -> Builder<Tracked> {
    let mut builder = Builder::new(Tracked(shutdown.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        // Some senders close their half after the request and wait for the answer.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES / 2)
        .keep_alive_interval(HTTP2_PING.0)
        .keep_alive_timeout(HTTP2_PING.1);
    builder
}

/// Accepts connections until the process is asked to end, then waits up to [`DRAIN_TIMEOUT`] for them.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Arc<ArcSwapOption<Tls>>,
    limits: LimitsConfig,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let builder = Arc::new(builder(&limits, &shutdown));
    let limits = Arc::new(limits);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.soft().cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Closing tells the sender more than waiting in the queue of the listener would.
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            PROCESS.connections_refused.increment(1);
            continue;
        };
        let (builder, router, limits) = (Arc::clone(&builder), router.clone(), Arc::clone(&limits));
        let (ending, tls) = (shutdown.clone(), tls.load_full());
        shutdown.spawn_work(async move {
            PROCESS.connections.increment(1.0);
            // An answer is small and must not wait for more. A failure means that the connection is gone already.
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(stream, peer.ip(), &builder, router, &limits, &ending).await,
                Some(tls) => {
                    if let Some(stream) = handshake(stream, &tls, &limits, &ending).await {
                        Box::pin(connection(stream, peer.ip(), &builder, router, &limits, &ending)).await;
                    }
                }
            }
            PROCESS.connections.decrement(1.0);
            drop(slot);
        });
    }
    drop(listener);
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN_TIMEOUT, slots.acquire_many(all)).await.is_err() {
        tracing::warn!("connections were still open {} s after the end was asked for", DRAIN_TIMEOUT.as_secs());
    }
}

/// What the connection knows of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Who is at the other end.
    pub(crate) address: IpAddr,
    /// When the request's first byte came.
    pub(crate) since: std::time::Instant,
}

/// What a connection's timer means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It closes the connection unless a request has come. (hyper's own timers begin once it knows the protocol.)
    Silent,
    /// It ends the connection after the request that it is at.
    Serving,
    /// It closes the connection.
    Closing,
}

/// Agrees on TLS, within the time that a request's head may take.
async fn handshake(
    stream: TcpStream,
    tls: &Tls,
    limits: &LimitsConfig,
    shutdown: &Shutdown,
) -> Option<TlsStream<TcpStream>> {
    let agreed = tokio::time::timeout(limits.header_read_timeout, tls.acceptor.accept(stream));
    match shutdown.soft().run_until_cancelled(agreed).await? {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "TLS was not agreed on: {error}"),
        Err(_) => tracing::debug!("TLS was not agreed on in time"),
    }
    PROCESS.tls_handshakes_failed.increment(1);
    None
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: IpAddr,
    builder: &Builder<Tracked>,
    router: Router,
    limits: &LimitsConfig,
    shutdown: &Shutdown,
) {
    let spoken = Arc::new(AtomicBool::new(false));
    let first_byte = FirstByte::new(std::time::Instant::now());
    let stream = Observed::new(stream, first_byte.clone());
    let service = service_fn({
        let spoken = Arc::clone(&spoken);
        move |mut request: Request<Incoming>| {
            let alone = request.version() < Version::HTTP_2;
            let since = if alone { first_byte.begin() } else { std::time::Instant::now() };
            request.extensions_mut().insert(Peer { address: peer.to_canonical(), since });
            spoken.store(true, Ordering::Relaxed);
            let (answer, first_byte) = (router.clone().oneshot(request), first_byte.clone());
            async move {
                let answer = answer.await.unwrap_or_else(|never| match never {});
                first_byte.end();
                Ok::<_, Infallible>(answer)
            }
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut timer = pin!(sleep(limits.header_read_timeout));
    let mut phase = Phase::Silent;
    loop {
        tokio::select! {
            result = serving.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early: {error}");
                }
                return;
            }
            () = shutdown.hard().cancelled() => return,
            () = shutdown.soft().cancelled(), if phase != Phase::Closing => {
                serving.as_mut().graceful_shutdown();
                timer.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
                phase = Phase::Closing;
            }
            () = timer.as_mut() => match phase {
                Phase::Silent if spoken.load(Ordering::Relaxed) => {
                    timer.as_mut().reset(Instant::now() + limits.connection_age_max);
                    phase = Phase::Serving;
                }
                Phase::Serving => {
                    serving.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
                    phase = Phase::Closing;
                }
                Phase::Silent | Phase::Closing => return,
            },
        }
    }
}
