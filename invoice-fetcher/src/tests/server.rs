//! An imitation of Digital River with configurable responses, which records requests.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use riverlock_schemas::FileId;
use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

use super::{API_KEY, document};

/// The response to a request for a file's content.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The document, in one piece.
    Document,
    /// The document after a delay.
    Late(Duration),
    /// Only a status.
    Status(u16),
    /// A status with `Retry-After`.
    Wait(u16, &'static str),
    /// A status with `Location`.
    Redirect(u16, String),
    /// 200 with a content type and a body.
    Body(&'static str, Vec<u8>),
    /// 200 with a `Content-Length` and a body of another length.
    Claimed(u64, Vec<u8>),
    /// The document's first bytes, chunked, with a regular end.
    Short(usize),
    /// The document's first bytes, then a broken connection.
    Cut(usize),
    /// A body with this `Content-Encoding`.
    Encoded(&'static str),
    /// An endless PDF.
    Endless,
    /// One byte at a time.
    Dribble(Duration),
}

/// The response to a request for a file's metadata.
#[derive(Clone, Debug, Default)]
pub(super) enum Description {
    /// Correct metadata.
    #[default]
    True,
    /// A status.
    Status(u16),
    /// A body.
    Text(String),
}

/// A received request and its time.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRequest {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) at: Instant,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<FileId, VecDeque<Answer>>>,
    descriptions: Mutex<HashMap<FileId, Description>>,
    requests: Mutex<Vec<ReceivedRequest>>,
    /// Files whose ids have the prefix `file_`; others are not found with it.
    prefixed: Mutex<HashSet<FileId>>,
    refusal: Mutex<StatusCode>,
    /// The response to every request for content, if set.
    outage: Mutex<Option<StatusCode>>,
}

/// The server. It ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) base: Url,
    shared: Arc<Shared>,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test")]
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        *shared.refusal.lock().unwrap() = StatusCode::UNAUTHORIZED;
        let router = Router::new()
            .route("/files/{id}", get(metadata))
            .route("/files/{id}/content", get(content))
            .route("/file-links", post(link))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), record))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, shared }
    }

    /// Sets the sequence of responses for a file's content; the last one is repeated.
    pub(super) fn answer(&self, file_id: FileId, answers: impl IntoIterator<Item = Answer>) {
        self.shared.answers.lock().unwrap().insert(file_id, answers.into_iter().collect());
    }

    /// Sets the response for a file's metadata.
    pub(super) fn describe(&self, file_id: FileId, description: Description) {
        self.shared.descriptions.lock().unwrap().insert(file_id, description);
    }

    /// Makes these files available only with the prefix `file_`.
    pub(super) fn prefix(&self, files: impl IntoIterator<Item = FileId>) {
        self.shared.prefixed.lock().unwrap().extend(files);
    }

    /// Sets the status for a wrong key; the default is 401.
    pub(super) fn reject_with(&self, status: StatusCode) {
        *self.shared.refusal.lock().unwrap() = status;
    }

    /// Sets a status for all requests for content; `None` resets it.
    pub(super) fn fail_all_contents(&self, status: Option<StatusCode>) {
        *self.shared.outage.lock().unwrap() = status;
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn record(State(shared): State<Arc<Shared>>, request: Request, next: axum::middleware::Next) -> Response {
    let received =
        ReceivedRequest { path: request.uri().to_string(), headers: request.headers().clone(), at: Instant::now() };
    shared.requests.lock().unwrap().push(received);
    let key = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key != Some(&format!("Bearer {API_KEY}")) {
        return shared.refusal.lock().unwrap().into_response();
    }
    next.run(request).await
}

async fn metadata(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let file_id = FileId::parse(&id).unwrap();
    if !shared.has(&id) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let description = shared.descriptions.lock().unwrap().get(&file_id).cloned().unwrap_or_default();
    match description {
        Description::True => {
            let size = document(file_id).len();
            axum::Json(json!({"id": id, "size": size, "type": "pdf", "purpose": "customer_invoice"})).into_response()
        }
        Description::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Description::Text(text) => text.into_response(),
    }
}

impl Shared {
    /// Only files with small numbers exist, with one spelling of their ids. A random id does not exist.
    fn has(&self, id: &str) -> bool {
        let file_id = FileId::parse(id).unwrap();
        let is_prefixed = self.prefixed.lock().unwrap().contains(&file_id);
        u64::try_from(file_id.as_uuid().as_u128()).is_ok() && is_prefixed == id.starts_with("file_")
    }
}

/// A link; for file 0 the URL that needs the key.
async fn link(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    axum::Json(wanted): axum::Json<serde_json::Value>,
) -> Response {
    let (host, id) = (headers["host"].to_str().unwrap(), wanted["fileId"].as_str().unwrap());
    if !shared.has(id) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let url = match FileId::parse(id).unwrap().as_uuid().as_u128() {
        0 => format!("http://{host}/files/{id}/content"),
        _ => format!("http://{host}/links/{id}"),
    };
    let answer = json!({"id": "x", "url": url, "expiresTime": wanted["expiresTime"], "expired": false});
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}

async fn content(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let file_id = FileId::parse(&id).unwrap();
    if let Some(status) = *shared.outage.lock().unwrap() {
        return status.into_response();
    }
    if !shared.has(&id) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let answer = {
        let mut answers = shared.answers.lock().unwrap();
        let left = answers.entry(file_id).or_insert_with(|| VecDeque::from([Answer::Document]));
        if left.len() > 1 { left.pop_front().unwrap() } else { left[0].clone() }
    };
    if let Answer::Late(wait) = answer {
        tokio::time::sleep(wait).await;
    }
    give(answer, document(file_id))
}

fn give(answer: Answer, mut document: Vec<u8>) -> Response {
    let pdf = [(header::CONTENT_TYPE, "application/pdf")];
    let status = |status| StatusCode::from_u16(status).unwrap();
    match answer {
        Answer::Document | Answer::Late(_) => (pdf, document).into_response(),
        Answer::Status(code) => status(code).into_response(),
        Answer::Wait(code, wait) => (status(code), [(header::RETRY_AFTER, wait)]).into_response(),
        Answer::Redirect(code, to) => (status(code), [(header::LOCATION, to)]).into_response(),
        Answer::Body(content_type, body) => ([(header::CONTENT_TYPE, content_type)], body).into_response(),
        Answer::Claimed(length, body) => {
            let pieces = stream::once(async move { Ok(Bytes::from(body)) }).chain(broken());
            (pdf, [(header::CONTENT_LENGTH, length.to_string())], Body::from_stream(pieces)).into_response()
        }
        Answer::Short(length) => {
            document.truncate(length);
            let piece = stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(document)) });
            (pdf, Body::from_stream(piece)).into_response()
        }
        Answer::Cut(length) => {
            document.truncate(length);
            let pieces = stream::once(async move { Ok(Bytes::from(document)) }).chain(broken());
            (pdf, Body::from_stream(pieces)).into_response()
        }
        Answer::Encoded(encoding) => (pdf, [(header::CONTENT_ENCODING, encoding)], document).into_response(),
        Answer::Endless => {
            let filling = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1024])));
            let begin = stream::once(async { Ok(Bytes::from_static(b"%PDF-1.4\n")) });
            (pdf, Body::from_stream(begin.chain(filling))).into_response()
        }
        Answer::Dribble(pause) => {
            let bytes = stream::iter(document).then(move |byte| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, std::io::Error>(Bytes::copy_from_slice(&[byte]))
            });
            (pdf, Body::from_stream(bytes)).into_response()
        }
    }
}

/// Breaks the connection after the previous bytes were sent.
fn broken() -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::other("cut off"))
    })
}
