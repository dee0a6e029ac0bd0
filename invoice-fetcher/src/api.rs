//! The invoice API for the merchant's programs: `GET /v1/orders/{order id}/invoices` lists an order's documents, `GET
//! /v1/invoices/{file id}` returns a stored document.
//!
//! The API is off unless configured, listens on loopback by default, and requires a bearer token. Customers get links from
//! Digital River (`riverlock invoices link`). A document is sent as an attachment with headers that prevent a browser from
//! executing its content. Its last bytes are sent only if size and hash equal the stored ones, so a changed document is never
//! received completely.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use metrics::counter;
use riverlock_runtime::{
    Context,
    api::{self, ApiError, ErrorResponses, Tokens},
};
use riverlock_schemas::{FileId, hash::Sha256Hash};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use utoipa::{OpenApi, ToSchema};

use crate::{
    Archive,
    error::Error,
    metrics as names,
    queue::{Queue, view},
};

/// Maximum number of concurrent downloads; further requests are answered with 503.
pub(crate) const DOWNLOADS_MAX: usize = 64;

/// Time limit for sending a document.
const DOWNLOAD_MAX: Duration = Duration::from_secs(600);

/// `[invoice_fetcher.api]`: address and tokens of the invoice API.
pub type ApiConfig = api::ApiConfig<8086>;

struct Documents {
    queue: Queue,
    archive: Archive,
    downloads: Arc<Semaphore>,
}

/// A failed request.
enum Rejection {
    Unauthorized,
    NotFound,
    /// The archive no longer has the document.
    Lost,
    /// The archive's object is not the stored document.
    Changed,
    Busy,
    Failed,
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (error, outcome) = match self {
            Self::Unauthorized => (ApiError::unauthorized(), "unauthorized"),
            Self::NotFound => (ApiError::not_found("no such stored document"), "not_found"),
            Self::Lost => (gone("document_lost", "the document was stored, but is no longer in the archive"), "lost"),
            Self::Changed => {
                (gone("document_changed", "the object in the archive is not the document that was stored"), "lost")
            }
            Self::Busy => (ApiError::unavailable("busy", "too many concurrent downloads"), "busy"),
            Self::Failed => (ApiError::internal(), "failed"),
        };
        counter!(names::API_REQUESTS, "outcome" => outcome).increment(1);
        error.into_response()
    }
}

fn gone(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::GONE, code, message)
}

/// Responses for a document that was stored.
#[derive(utoipa::IntoResponses)]
enum GoneResponse {
    /// The document was stored, but is lost or changed in the archive: `riverlock invoices verify` finds all such documents and
    /// can requeue them
    #[response(status = 410)]
    #[expect(dead_code, reason = "only used in the API's description")]
    Lost(api::ErrorBody),
}

/// The OpenAPI description of the API.
#[derive(OpenApi)]
#[openapi(
    servers((url = "http://127.0.0.1:8086", description = "`invoice_fetcher.api.listen`")),
    tags((name = "invoices", description = "VAT invoices and credit memos")),
    paths(of_order, download),
)]
struct Description;

/// The description in OpenAPI 3.1.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

/// Starts the API, which serves until shutdown. Returns the bound address.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn start(
    listen: SocketAddr,
    tokens: &Tokens,
    archive: Archive,
    queue: Queue,
    context: &Context,
) -> Result<SocketAddr, Error> {
    let documents = Documents { queue, archive, downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)) };
    let router = api::guarded(router(Arc::new(documents)), tokens, || Rejection::Unauthorized.into_response());
    let started = api::start("invoice-api", listen, router, context).await;
    started.map_err(|source| Error::Listen { address: listen, source })
}

fn router(documents: Arc<Documents>) -> Router {
    Router::new()
        .route("/v1/orders/{order_id}/invoices", get(of_order))
        .route("/v1/invoices/{file_id}", get(download))
        .fallback(|| async { Rejection::NotFound })
        .with_state(documents)
}

/// The documents of an order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invoices {
    order_id: String,
    /// Sorted by the time at which they were queued.
    invoices: Vec<view::InvoiceView>,
}

/// The documents of an order and the states of their downloads.
#[utoipa::path(
    get, path = "/v1/orders/{orderId}/invoices", operation_id = "listOrderInvoices", tag = "invoices",
    security(("token" = [])),
    params(("orderId" = String, Path, description = "Digital River's id of the order")),
    responses((status = 200, description = "The documents; empty if the order is unknown", body = Invoices), ErrorResponses)
)]
async fn of_order(
    State(documents): State<Arc<Documents>>,
    Path(order_id): Path<String>,
) -> Result<Json<Invoices>, Rejection> {
    let database = documents.queue.database();
    let found = database.run(async |connection| view::of_order(connection, &order_id).await).await;
    let invoices = found.map_err(|error| failed(&error))?;
    counter!(names::API_REQUESTS, "outcome" => "ok").increment(1);
    Ok(Json(Invoices { order_id, invoices }))
}

/// The bytes of a PDF.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only used in the API's description; the bytes are streamed")]
struct Pdf(Vec<u8>);

/// A stored document, byte for byte. A document that was changed in the archive is never sent completely.
#[utoipa::path(
    get, path = "/v1/invoices/{fileId}", operation_id = "getInvoice", tag = "invoices", security(("token" = [])),
    params(("fileId" = String, Path, description = "Digital River's id of the file", format = "uuid")),
    responses((status = 200, description = "The document", body = Pdf, content_type = "application/pdf"), GoneResponse, ErrorResponses)
)]
async fn download(State(documents): State<Arc<Documents>>, Path(file_id): Path<String>) -> Result<Response, Rejection> {
    let file_id = FileId::parse(&file_id).map_err(|_| Rejection::NotFound)?;
    let permit = Arc::clone(&documents.downloads).try_acquire_owned().map_err(|_| Rejection::Busy)?;
    let database = documents.queue.database();
    let found = database.run(async |connection| view::find(connection, file_id).await).await;
    let found = found.map_err(|error| failed(&error))?.ok_or(Rejection::NotFound)?;
    let (Some(key), Some(sha256), Some(size)) = (found.object_key, found.sha256, found.size_bytes) else {
        return Err(Rejection::NotFound);
    };
    let size = u64::try_from(size).unwrap_or_default();
    let object = documents.archive.get(&key).await.map_err(|error| match error.is_not_found() {
        true => lost_or_changed(file_id, &"it is missing", Rejection::Lost),
        false => failed(&error),
    })?;
    if object.size_bytes != size {
        let reason = format!("{key} has {} bytes instead of {size}", object.size_bytes);
        return Err(lost_or_changed(file_id, &reason, Rejection::Changed));
    }
    tracing::info!(file.id = %file_id, order.id = found.order_id, "sending file {file_id}");
    let name = format!("attachment; filename=\"{}-{file_id}.pdf\"", found.purpose.replace('_', "-"));
    let checked = CheckedBody {
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
    let body = stream::try_unfold(checked, CheckedBody::next);
    Ok((headers, Body::from_stream(body)).into_response())
}

fn failed(error: &dyn std::fmt::Display) -> Rejection {
    tracing::error!("cannot read a document: {error}");
    Rejection::Failed
}

fn lost_or_changed(file_id: FileId, reason: &dyn std::fmt::Display, rejection: Rejection) -> Rejection {
    counter!(names::ANOMALIES, "kind" => names::ANOMALY_ARCHIVE).increment(1);
    tracing::error!(file.id = %file_id, "file {file_id} is lost or changed in the archive: {reason}");
    rejection
}

/// A document that is sent and checked. One chunk is held back until the next is read, and the last until size and hash are
/// verified.
struct CheckedBody {
    object: BoxStream<'static, Result<Bytes, object_store::Error>>,
    held: Option<Bytes>,
    left: u64,
    hash: Sha256,
    sha256: Sha256Hash,
    file_id: FileId,
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl CheckedBody {
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
                        false => Err(self.broken(&"its hash differs")),
                    };
                }
            }
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> io::Error {
        counter!(names::ANOMALIES, "kind" => names::ANOMALY_ARCHIVE).increment(1);
        tracing::error!(file.id = %self.file_id, "file {} is lost or changed in the archive: {reason}", self.file_id);
        io::Error::other("the document has changed")
    }
}
