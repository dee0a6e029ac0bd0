//! In-memory imitations of Google Cloud Storage and Azure Blob Storage with the operations that the archive uses.
//!
//! The servers enforce conditions, and record every unconditional write.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use riverlock_runtime::Secret;
use tokio::net::TcpListener;

use crate::InvoiceFetcherConfig;

const BUCKET: &str = "documents";
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const TIME: &str = "1994-11-06T08:49:37Z";
const BODY_MAX: usize = 32 << 20;

/// The imitated vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Google,
    Azure,
}

#[derive(Default)]
struct Objects {
    whole: BTreeMap<String, Bytes>,
    /// Parts of uploads, by object and by number or id.
    parts: BTreeMap<String, BTreeMap<String, Bytes>>,
    unconditional: Vec<String>,
}

#[derive(Clone)]
struct Shared {
    vendor: Vendor,
    objects: Arc<Mutex<Objects>>,
}

/// The server. It ends with the test's runtime.
pub(super) struct Server {
    port: u16,
    shared: Shared,
}

type Parameters = BTreeMap<String, String>;

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test")]
    pub(super) async fn start(vendor: Vendor) -> Self {
        let shared = Shared { vendor, objects: Arc::default() };
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, shared }
    }

    /// Configures the server's bucket as the archive.
    pub(super) fn configure(&self, config: &mut InvoiceFetcherConfig) {
        let base = format!("http://127.0.0.1:{}", self.port);
        let key = format!(
            r#"{{"private_key": "x", "private_key_id": "x", "client_email": "x", "disable_oauth": true,
                 "gcs_base_url": "{base}"}}"#
        );
        let (scheme, options) = match self.shared.vendor {
            Vendor::Google => ("gs", vec![("google_service_account_key", key)]),
            Vendor::Azure => (
                "az",
                vec![
                    ("azure_storage_account_name", "account".to_owned()),
                    ("azure_storage_account_key", "Y2FuYXJ5".to_owned()),
                    ("azure_endpoint", base),
                    ("azure_allow_http", "true".to_owned()),
                ],
            ),
        };
        config.store = format!("{scheme}://{BUCKET}/a/b").parse().unwrap();
        config.store_options = options.into_iter().map(|(key, value)| (key.to_owned(), Secret::new(value))).collect();
    }

    /// The keys in the bucket.
    pub(super) fn keys(&self) -> Vec<String> {
        self.shared.lock().whole.keys().cloned().collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.shared.lock().whole.get(&format!("a/b/{key}")).cloned()
    }

    /// Keys of objects that were written without a condition.
    pub(super) fn unconditional(&self) -> Vec<String> {
        self.shared.lock().unconditional.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Writes an object, if the request's condition allows it.
    fn write(&self, key: &str, headers: &HeaderMap, bytes: Bytes) -> StatusCode {
        let (condition, refusal) = match self.vendor {
            Vendor::Google => (("x-goog-if-generation-match", "0"), StatusCode::PRECONDITION_FAILED),
            Vendor::Azure => (("if-none-match", "*"), StatusCode::CONFLICT),
        };
        let mut objects = self.lock();
        if headers.get(condition.0).is_none_or(|value| value != condition.1) {
            objects.unconditional.push(key.to_owned());
        } else if objects.whole.contains_key(key) {
            return refusal;
        }
        objects.whole.insert(key.to_owned(), bytes);
        StatusCode::CREATED
    }

    /// Concatenates the parts of an upload, in the order of these names or sorted.
    fn assemble(&self, key: &str, names: Option<Vec<String>>) -> Bytes {
        let parts = self.lock().parts.remove(key).unwrap_or_default();
        let names = names.unwrap_or_else(|| parts.keys().cloned().collect());
        names.iter().flat_map(|name| parts[name].to_vec()).collect::<Vec<_>>().into()
    }
}

async fn handle(State(shared): State<Shared>, Query(query): Query<Parameters>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_MAX).await.unwrap();
    let key = object_key(head.uri.path());
    match (&head.method, key.as_str()) {
        (&Method::GET, "") => list(&shared, query.get("prefix").map_or("", String::as_str)),
        (&Method::GET, _) => match shared.lock().whole.get(&key) {
            Some(bytes) => answer(StatusCode::OK, bytes.clone()),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        (&Method::DELETE, _) => {
            shared.lock().whole.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::POST, "") => delete_batch(&shared, &body),
        (&Method::POST, _) if query.contains_key("uploads") => answer(StatusCode::OK, xml("UploadId", "upload")),
        (&Method::POST, _) => {
            let whole = shared.assemble(&key, None);
            answer(shared.write(&key, &head.headers, whole), xml("ETag", "x"))
        }
        (&Method::PUT, _) => put(&shared, &key, &query, &head.headers, body),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn put(shared: &Shared, key: &str, query: &Parameters, headers: &HeaderMap, body: Bytes) -> Response {
    if let Some(name) = query.get("partNumber").or_else(|| query.get("blockid")) {
        shared.lock().parts.entry(key.to_owned()).or_default().insert(name.clone(), body);
        return answer(StatusCode::CREATED, "");
    }
    let source = ["x-goog-copy-source", "x-ms-copy-source"].iter().find_map(|name| headers.get(*name));
    let bytes = if let Some(source) = source {
        let source = source.to_str().unwrap();
        let path = source.split_once("://").map_or(source, |(_, rest)| rest.split_once('/').unwrap().1);
        shared.lock().whole[&object_key(&format!("/{path}"))].clone()
    } else if query.get("comp").is_some_and(|comp| comp == "blocklist") {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let names = text.split("<Uncommitted>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        shared.assemble(key, Some(names.collect()))
    } else {
        body
    };
    answer(shared.write(key, headers, bytes), "")
}

fn list(shared: &Shared, prefix: &str) -> Response {
    let objects = shared.lock();
    let found = objects.whole.iter().filter(|(key, _)| key.starts_with(prefix));
    let entries: String = match shared.vendor {
        Vendor::Google => found
            .map(|(key, bytes)| {
                let size = bytes.len();
                format!("<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{TIME}</LastModified></Contents>")
            })
            .collect(),
        Vendor::Azure => found
            .map(|(key, bytes)| {
                let size = bytes.len();
                format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>{DATE}</Last-Modified>\
                     <Content-Length>{size}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
                )
            })
            .collect(),
    };
    answer(StatusCode::OK, format!("<R><Blobs>{entries}</Blobs>{entries}</R>"))
}

/// Azure deletes objects in batches. Source: Microsoft, "Blob Batch".
fn delete_batch(shared: &Shared, body: &[u8]) -> Response {
    let text = String::from_utf8_lossy(body);
    let mut answers = String::new();
    for (number, line) in text.lines().filter(|line| line.starts_with("DELETE ")).enumerate() {
        shared.lock().whole.remove(&object_key(line.split(' ').nth(1).unwrap()));
        answers += &format!(
            "--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n\r\n"
        );
    }
    let headers = [("content-type", "multipart/mixed; boundary=b")];
    (StatusCode::ACCEPTED, headers, format!("{answers}--b--\r\n")).into_response()
}

fn xml(name: &str, value: &str) -> String {
    format!("<R><{name}>{value}</{name}></R>")
}

/// A response with the headers of both vendors.
fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [("etag", "\"x\""), ("last-modified", DATE), ("x-goog-generation", "1"), ("x-ms-version-id", "1")];
    (status, headers, body.into()).into_response()
}

/// The object's key in a path such as `/bucket/a%2Fb`; empty for the bucket.
fn object_key(path: &str) -> String {
    let path = path.replace("%2F", "/").replace("%2E", ".").replace("%2D", "-");
    assert!(!path.contains('%'), "{path}");
    let rest = path.trim_start_matches('/').strip_prefix(BUCKET).unwrap_or_else(|| panic!("{path}"));
    rest.trim_start_matches('/').to_owned()
}
