//! Documents over HTTP, for programs of our own: `GET /v1/orders/{order id}/invoices` lists an order's documents,
//! `GET /v1/invoices/{file id}` is a stored document.
//!
//! Off unless configured, on loopback unless configured otherwise, and for holders of the token only. Customers get links of
//! Digital River's (`riverlock invoices link`). A document is an opaque attachment: nothing in it runs where it is shown. Its
//! last bytes are sent only when size and hash are those that it was stored with, so one that was changed never arrives whole.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use metrics::counter;
use riverlock_runtime::{ConfigError, Context, Secret};
use riverlock_schemas::{FileId, hash::Sha256Hash};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use crate::{Archive, error::Error, metrics as names, queue::Queue, view};

/// Fewest characters of a token: 128 bits and more, however it is spelled.
const TOKEN_CHARS_MIN: usize = 32;

/// Documents that are sent at the same time; more are asked to come again.
const DOWNLOADS_MAX: usize = 64;

/// How long one document may take to be sent.
const DOWNLOAD_MAX: Duration = Duration::from_secs(600);

/// How long open requests have to end when the process does.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// `[invoice_fetcher.api]`: where programs of our own read documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens; loopback unless configured otherwise.
    #[serde(default = "listen_default")]
    pub listen: SocketAddr,
    /// What `Authorization: Bearer` must bring, or `file:/path`: at least 32 random characters.
    pub token: Secret,
}

fn listen_default() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8086))
}

impl ApiConfig {
    /// The default address, with this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { listen: listen_default(), token: Secret::new(token) }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let token = self.token.expose();
        if token.len() < TOKEN_CHARS_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::refused(
                "invoice_fetcher.api.token",
                format!(
                    "must have at least {TOKEN_CHARS_MIN} letters, digits and signs; `openssl rand -hex 32` makes one"
                ),
            ));
        }
        Ok(())
    }
}

struct Documents {
    queue: Queue,
    archive: Archive,
    /// Hash of the token: what is compared has one length.
    token: [u8; 32],
    downloads: Arc<Semaphore>,
}

/// Why there is no document.
enum Refusal {
    Unauthorized,
    NotFound,
    Busy,
    Failed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, outcome) = match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        counter!(names::API_REQUESTS, "outcome" => outcome).increment(1);
        let mut response = (status, Json(json!({"error": outcome}))).into_response();
        match status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// Listens, and serves until the shutdown. Returns where.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn start(
    config: &ApiConfig,
    archive: Archive,
    queue: Queue,
    context: &Context,
) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let token = Sha256::digest(config.token.expose()).into();
    let documents = Documents { queue, archive, token, downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)) };
    let (router, soft) = (router(Arc::new(documents)), context.shutdown.soft().clone());
    context.shutdown.spawn("invoice-api", async move {
        let server = axum::serve(listener, router).with_graceful_shutdown(soft.clone().cancelled_owned());
        let late = async {
            soft.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::select! {
            ended = server.into_future() => ended,
            () = late => Ok(()),
        }
    });
    Ok(address)
}

fn router(documents: Arc<Documents>) -> Router {
    Router::new()
        .route("/v1/orders/{order_id}/invoices", get(of_order))
        .route("/v1/invoices/{file_id}", get(download))
        .fallback(|| async { Refusal::NotFound })
        .layer(middleware::from_fn_with_state(Arc::clone(&documents), guard))
        .with_state(documents)
}

/// Lets holders of the token in, and makes every answer safe to show.
async fn guard(State(documents): State<Arc<Documents>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let token = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let hash: [u8; 32] = Sha256::digest(token.map(|(_, token)| token).unwrap_or_default()).into();
    let mut response = if bool::from(hash.ct_eq(&documents.token)) {
        next.run(request).await
    } else {
        Refusal::Unauthorized.into_response()
    };
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

async fn of_order(
    State(documents): State<Arc<Documents>>,
    Path(order_id): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let found = async { view::of_order(&mut *documents.queue.connection().await?, &order_id).await }.await;
    let invoices = found.map_err(|error| failed(&error))?;
    counter!(names::API_REQUESTS, "outcome" => "ok").increment(1);
    Ok(Json(json!({"orderId": order_id, "invoices": invoices})))
}

async fn download(State(documents): State<Arc<Documents>>, Path(file_id): Path<String>) -> Result<Response, Refusal> {
    let file_id = FileId::parse(&file_id).map_err(|_| Refusal::NotFound)?;
    let permit = Arc::clone(&documents.downloads).try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let found = async { view::find(&mut *documents.queue.connection().await?, file_id).await }.await;
    let found = found.map_err(|error| failed(&error))?.ok_or(Refusal::NotFound)?;
    let (Some(key), Some(sha256), Some(size)) = (found.object_key, found.sha256, found.size_bytes) else {
        return Err(Refusal::NotFound);
    };
    let size = u64::try_from(size).unwrap_or_default();
    let object = documents.archive.get(&key).await.map_err(|error| failed(&error))?;
    if object.size_bytes != size {
        counter!(names::ANOMALIES, "kind" => names::ANOMALY_ARCHIVE).increment(1);
        let reason = format!("{key} has {} bytes in the archive, and had {size} when it was stored", object.size_bytes);
        return Err(failed(&reason));
    }
    tracing::info!(file.id = %file_id, order.id = found.order_id, "file {file_id} is sent");
    let name = format!("attachment; filename=\"{}-{file_id}.pdf\"", found.purpose.replace('_', "-"));
    let checked = Checked {
        object: object.stream,
        held: None,
        left: size,
        hash: Sha256::new(),
        sha256,
        file_id,
        until: Instant::now() + DOWNLOAD_MAX,
        _permit: permit,
    };
    counter!(names::API_REQUESTS, "outcome" => "ok").increment(1);
    let headers = [
        (header::CONTENT_TYPE, "application/pdf".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_DISPOSITION, name),
    ];
    let body = stream::try_unfold(checked, Checked::next);
    Ok((headers, Body::from_stream(body)).into_response())
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!("a document cannot be read: {error}");
    Refusal::Failed
}

/// A document on its way out. One piece is held back until the next has come, and the last until all is as it must be.
struct Checked {
    object: BoxStream<'static, Result<Bytes, object_store::Error>>,
    held: Option<Bytes>,
    left: u64,
    hash: Sha256,
    sha256: Sha256Hash,
    file_id: FileId,
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Checked {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, io::Error> {
        loop {
            let next = timeout_at(self.until.into(), self.object.next()).await;
            match next.map_err(|_| io::Error::other("took too long"))? {
                Some(Err(error)) => return Err(self.broken(&error)),
                Some(Ok(bytes)) if bytes.len() as u64 > self.left => return Err(self.broken(&"it is longer")),
                Some(Ok(bytes)) => {
                    self.left -= bytes.len() as u64;
                    self.hash.update(&bytes);
                    if let Some(held) = self.held.replace(bytes) {
                        return Ok(Some((held, self)));
                    }
                }
                None => {
                    let Some(held) = self.held.take() else { return Ok(None) };
                    let hash = Sha256Hash::from_digest(self.hash.clone().finalize().into());
                    return match self.left == 0 && hash == self.sha256 {
                        true => Ok(Some((held, self))),
                        false => Err(self.broken(&"its bytes are others")),
                    };
                }
            }
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> io::Error {
        counter!(names::ANOMALIES, "kind" => names::ANOMALY_ARCHIVE).increment(1);
        tracing::error!(file.id = %self.file_id, "file {} is not in the archive as it was stored: {reason}", self.file_id);
        io::Error::other("not as it was stored")
    }
}
