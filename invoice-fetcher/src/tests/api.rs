//! The invoice API, and links for customers.

use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use riverlock_runtime::{Secret, api::Tokens};
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use tokio::io::AsyncWriteExt as _;

use super::{
    document,
    fetching::{Bench, PATIENCE},
    file,
    server::Answer,
};
use crate::{
    Archive,
    api::{self, ApiConfig},
    client::links,
};

const TOKEN: &str = "canary-token-canary-token-canary-token";

/// The API with one stored document and one that is due.
struct ApiBench {
    bench: Bench,
    base: String,
    http: reqwest::Client,
    tokens: Tokens,
}

impl ApiBench {
    async fn new() -> Self {
        let bench = Bench::new().await;
        bench.announce([7]).await;
        bench.start();
        bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
        // It stays due, however long the test takes.
        bench.server.answer(file(8), [Answer::Status(404)]);
        bench.announce([8]).await;
        let (listen, tokens) = ("127.0.0.1:0".parse().unwrap(), Tokens::new(&ApiConfig::new(TOKEN)));
        let (archive, queue) = (Archive::open(&bench.config).unwrap(), bench.database.queue());
        let address = api::start(listen, &tokens, archive, queue, &bench.context).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { bench, base: format!("http://{address}"), http, tokens }
    }

    async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(TOKEN).send().await.unwrap()
    }

    async fn get_file(&self, file_id: FileId) -> Response {
        self.get(&format!("/v1/invoices/{file_id}")).await
    }
}

#[tokio::test]
async fn a_stored_document_is_sent_unchanged_with_safe_headers() {
    let served = ApiBench::new().await;
    let response = served.get_file(file(7)).await;
    assert_eq!(response.status(), StatusCode::OK);
    for (name, value) in [
        ("content-type", "application/pdf"),
        ("content-disposition", &format!("attachment; filename=\"invoice-{}.pdf\"", file(7))),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("cache-control", "no-store"),
        ("content-length", &document(file(7)).len().to_string()),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    assert_eq!(response.bytes().await.unwrap(), document(file(7)));

    let list: serde_json::Value = served.get("/v1/orders/order-7/invoices").await.json().await.unwrap();
    assert_eq!(list["invoices"][0]["sha256"], Sha256Hash::of(&document(file(7))).to_string());
    assert_eq!(list["invoices"][0]["state"], "stored");
    let none: serde_json::Value = served.get("/v1/orders/%2e%2e%2f%00/invoices").await.json().await.unwrap();
    assert_eq!(none["invoices"], serde_json::json!([]));
    served.bench.stop().await;
}

#[tokio::test]
async fn requests_need_the_token_and_unknown_documents_are_not_found() {
    let served = ApiBench::new().await;
    let path = format!("{}/v1/invoices/{}", served.base, file(7));
    let almost = format!("Bearer {}x", &TOKEN[..TOKEN.len() - 1]);
    for value in [None, Some("Bearer "), Some("Bearer"), Some(TOKEN), Some("Basic x"), Some(&*almost)] {
        let request = served.http.get(&path);
        let request = value.map_or_else(
            || request.try_clone().unwrap(),
            |value| request.try_clone().unwrap().header("authorization", value),
        );
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value:?}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    for path in [
        "/v1/invoices/x",
        "/v1/invoices/..%2f..%2fetc%2fpasswd",
        "/",
        "/v1/invoices",
        &format!("/v1/invoices/{}", file(8)),
    ] {
        assert_eq!(served.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    served.bench.stop().await;
}

#[tokio::test]
async fn a_changed_document_is_never_sent_completely() {
    let served = ApiBench::new().await;
    let path = served.bench.folder.path().join(Archive::key(Mode::Test, file(7)));
    let mut changed = document(file(7));
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &changed).unwrap();
    // The connection breaks before the last chunk, which may be before the headers.
    let request = served.http.get(format!("{}/v1/invoices/{}", served.base, file(7))).bearer_auth(TOKEN);
    let whole = async { request.send().await?.bytes().await };
    assert!(whole.await.is_err());
    for (spoil, code) in [("short", "document_changed"), ("", "document_lost")] {
        if spoil.is_empty() {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::write(&path, spoil).unwrap();
        }
        let answer = served.get_file(file(7)).await;
        assert_eq!(answer.status(), StatusCode::GONE);
        let problem: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!((problem["type"].as_str(), problem["errors"][0]["code"].as_str()), (Some("gone"), Some(code)));
    }
    served.bench.stop().await;
}

#[tokio::test]
async fn two_tokens_are_accepted_while_the_token_is_replaced() {
    const NEW: &str = "another-canary-another-canary-another-canary";
    let served = ApiBench::new().await;
    let status = async |token: &str| {
        let request = served.http.get(format!("{}/v1/invoices/{}", served.base, file(7))).bearer_auth(token);
        request.send().await.unwrap().status()
    };
    let both = ApiConfig { previous_token: Some(Secret::new(TOKEN)), ..ApiConfig::new(NEW) };
    for (config, expected) in [
        (ApiConfig::new(TOKEN), [StatusCode::OK, StatusCode::UNAUTHORIZED]),
        (both, [StatusCode::OK, StatusCode::OK]),
        (ApiConfig::new(NEW), [StatusCode::UNAUTHORIZED, StatusCode::OK]),
    ] {
        served.tokens.replace(&config);
        assert_eq!([status(TOKEN).await, status(NEW).await], expected);
        assert_eq!(status("").await, StatusCode::UNAUTHORIZED);
    }
    served.bench.stop().await;
}

#[tokio::test]
async fn stalled_clients_are_disconnected_and_others_are_served_again() {
    let served = ApiBench::new().await;
    // More than the kernel's socket buffers hold.
    let large = super::s3::pdf(b'x', 24 << 20);
    std::fs::write(served.bench.folder.path().join(Archive::key(Mode::Test, file(7))), &large).unwrap();
    sqlx::query("UPDATE invoices SET sha256 = $1, size_bytes = $2 WHERE state = 'stored'")
        .bind(Sha256Hash::of(&large).as_bytes().as_slice())
        .bind(i64::try_from(large.len()).unwrap())
        .execute(&served.bench.database.pool)
        .await
        .unwrap();
    let (address, request) = (
        served.base.trim_start_matches("http://").to_owned(),
        format!("GET /v1/invoices/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n", file(7)),
    );
    let mut stalled = Vec::new();
    for _ in 0..api::DOWNLOADS_MAX {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    let started = Instant::now();
    while served.get_file(file(7)).await.status() != StatusCode::SERVICE_UNAVAILABLE {
        assert!(started.elapsed() < PATIENCE, "not all slots are in use");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    while served.get_file(file(7)).await.status() != StatusCode::OK {
        assert!(started.elapsed() < 3 * PATIENCE, "stalled clients keep their slots");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(stalled);
    served.bench.stop().await;
}

#[tokio::test]
async fn a_link_is_requested_with_its_expiry_and_the_files_own_url_is_rejected() {
    let bench = Bench::new().await;
    let expires_at = bench.context.clock.now() + Duration::from_secs(3600);
    let create = |number| links::create(&bench.config, &bench.context, Mode::Test, file(number), expires_at);
    let link = create(7).await.unwrap();
    assert_eq!(link.url.path(), format!("/links/{}", file(7)));
    bench.server.prefix([file(8)]);
    assert_eq!(create(8).await.unwrap().url.path(), format!("/links/file_{}", file(8)));
    assert_eq!(link.expires_time, expires_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    // The test server returns the URL that needs the key for this file.
    let error = create(0).await.unwrap_err().to_string();
    assert!(error.contains("needs the key"), "{error}");
    let live = links::create(&bench.config, &bench.context, Mode::Live, file(7), expires_at).await;
    assert!(live.unwrap_err().to_string().contains("no account for live data"));
}
