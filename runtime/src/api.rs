//! HTTP APIs for other systems: authentication, the error format, and a listener with limits.
//!
//! Such an API is disabled unless configured, listens on loopback by default, is read-only, and requires a token.

mod config;
mod paced;
mod tokens;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};

use crate::{Context, Shutdown, accept::accept};

use self::paced::PacedConnection;

pub use self::tokens::Tokens;
pub use config::ApiConfig;

/// Connections at the same time; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;

/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long a connection may take to send a request's head, and how long it may be idle between requests.
const HEAD_MAX: Duration = Duration::from_secs(30);

/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long open requests may take to complete at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// An answer outside 2xx, in Digital River's error format. The text is sent to the client and reveals nothing internal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    parameter: Option<String>,
    message: String,
}

/// Digital River's error format.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The kind of error, for example `bad_request`.
    r#type: &'static str,
    /// One error.
    errors: Vec<ErrorItem>,
}

/// One error of an answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErrorItem {
    /// A stable code.
    code: &'static str,
    /// The parameter that caused the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// A description for humans.
    message: String,
}

/// The errors that every path of an API may return, for its OpenAPI description.
#[derive(utoipa::IntoResponses)]
pub enum ErrorResponses {
    /// A parameter is invalid; `parameter` names it
    #[response(status = 400)]
    Parameter(ErrorBody),
    /// The token is missing or wrong
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Nothing was found at this path
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// Internal error
    #[response(status = 500)]
    Internal(ErrorBody),
    /// Temporarily unavailable: retry after `Retry-After` seconds
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

impl ApiError {
    /// An error with a stable code and a description for humans.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, parameter: None, message: message.into() }
    }

    /// An invalid parameter.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message);
        Self { parameter: Some(name.into()), ..error }
    }

    /// The token is missing or wrong.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or wrong")
    }

    /// Nothing was found at this path.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The path does not support the method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this API is read-only: use GET")
    }

    /// The request cannot be answered now, but may succeed later.
    #[must_use]
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// Something is wrong here.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "internal error")
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::BAD_REQUEST => "bad_request",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::GONE => "gone",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable",
            _ => "internal_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let r#type = self.kind();
        let item = ErrorItem { code: self.code, parameter: self.parameter, message: self.message };
        let mut response = (self.status, Json(ErrorBody { r#type, errors: vec![item] })).into_response();
        let header = match self.status {
            StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::SERVICE_UNAVAILABLE => (header::RETRY_AFTER, "1"),
            StatusCode::METHOD_NOT_ALLOWED => (header::ALLOW, "GET, HEAD"),
            _ => return response,
        };
        response.headers_mut().insert(header.0, HeaderValue::from_static(header.1));
        response
    }
}

/// The accepted tokens, and the answer to requests without one.
#[derive(Clone)]
struct Guard {
    tokens: Tokens,
    refused: fn() -> Response,
}

/// Requires a token for `router`, answers other requests with `refused`, and adds security headers to every answer.
pub fn guarded(router: Router, tokens: &Tokens, refused: fn() -> Response) -> Router {
    let guard = Guard { tokens: tokens.clone(), refused };
    router.layer(middleware::from_fn_with_state(guard, admit))
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = if guard.admits(request.headers()) { next.run(request).await } else { (guard.refused)() };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let token = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        self.tokens.admit(token.map(|(_, token)| token).unwrap_or_default())
    }
}

/// Starts a task `name` that serves `router` until shutdown. Returns the address it listens on.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(
    name: &'static str,
    listen: SocketAddr,
    router: Router,
    context: &Context,
) -> std::io::Result<SocketAddr> {
    let listener = bind(listen)?;
    let address = listener.local_addr()?;
    let shutdown = context.shutdown.clone();
    context.shutdown.spawn(name, async move {
        serve(name, listener, router, shutdown).await;
        Ok::<_, Infallible>(())
    });
    Ok(address)
}

/// Binds a listener whose connections have small send buffers.
fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(paced::SEND_BUFFER_BYTES)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

async fn serve(name: &'static str, listener: TcpListener, router: Router, shutdown: Shutdown) {
    let (slots, soft) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), shutdown.soft().clone());
    let failed = |error: &io::Error| tracing::warn!(%error, "{name}: a connection could not be accepted: {error}");
    loop {
        let next = soft.run_until_cancelled(async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (accept(&listener, failed).await, slot)
        });
        let Some(((stream, _), slot)) = next.await else { return };
        let (router, ending) = (router.clone(), shutdown.clone());
        shutdown.spawn_work(async move {
            connection(name, stream, router, ending).await;
            drop(slot);
        });
    }
}

/// Serves one connection until it ends, or the process does.
async fn connection(name: &'static str, stream: TcpStream, router: Router, shutdown: Shutdown) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX);
    let stream = TokioIo::new(PacedConnection::new(stream, paced::RATE_MIN, paced::WINDOW));
    let serving = builder.serve_connection(stream, TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.soft().cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = tokio::time::timeout(DRAIN_MAX, serving) => ended.unwrap_or(Ok(())),
                () = shutdown.hard().cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "{name}: a connection ended early: {error}");
    }
}
