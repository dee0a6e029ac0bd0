//! Single attempts against a hostile server.

use std::{sync::Arc, time::Duration, time::Instant};

use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{Context, Secret};
use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};
use tempfile::TempDir;
use url::Url;

use super::{
    API_KEY, config, document, file, files,
    server::{Answer, Description, Server},
};
use crate::{
    Archive, InvoiceFetcherConfig,
    fetch::worker::Fetcher,
    problem::Problem,
    queue::{Document, LeasedDocument},
};

const PDF: &str = "application/pdf";

/// A fetcher and its local archive. PostgreSQL is not used.
struct Bench {
    server: Server,
    folder: TempDir,
    config: InvoiceFetcherConfig,
    fetcher: Arc<Fetcher>,
}

impl Bench {
    async fn new(change: impl FnOnce(&mut InvoiceFetcherConfig)) -> Self {
        let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
        let mut config = config(&server.base, folder.path());
        change(&mut config);
        let fetcher = Fetcher::new(config.clone(), &PostgresConfig::default(), Context::new()).unwrap();
        Self { server, folder, config, fetcher: Arc::new(fetcher) }
    }

    async fn attempt(&self, file_id: FileId) -> Result<Document, Problem> {
        let deadline = Instant::now() + self.config.attempt_deadline;
        self.fetcher.attempt(&LeasedDocument::for_test(file_id, Mode::Test), deadline).await
    }

    /// The reason why a response is rejected. Nothing may be stored then, not even in part.
    async fn refusal(&self, answer: Answer) -> &'static str {
        self.server.answer(file(1), [answer.clone()]);
        let problem = self.attempt(file(1)).await.expect_err(&format!("{answer:?}"));
        assert_eq!(files(self.folder.path()), Vec::<std::path::PathBuf>::new(), "{answer:?}");
        assert!(!problem.to_string().contains(API_KEY), "{problem}");
        assert!(Problem::REASONS.contains(&problem.reason()));
        problem.reason()
    }
}

#[tokio::test]
async fn a_valid_document_is_stored_unchanged_with_the_required_request_headers() {
    let bench = Bench::new(|_| {}).await;
    let stored = bench.attempt(file(7)).await.unwrap();
    let expected = document(file(7));
    assert_eq!(stored.object_key, format!("invoices/test/{}.pdf", file(7)));
    assert_eq!((stored.sha256, stored.size_bytes), (Sha256Hash::of(&expected), expected.len() as u64));
    let archive = Archive::open(&bench.config).unwrap();
    assert_eq!(archive.digest(&stored.object_key).await.unwrap(), (stored.sha256, stored.size_bytes));
    assert_eq!(std::fs::read(bench.folder.path().join(&stored.object_key)).unwrap(), expected);

    let requests = bench.server.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, [format!("/files/{}", file(7)), format!("/files/{}/content", file(7))]);
    assert_ne!(requests[0].headers["upstream-id"], requests[1].headers["upstream-id"]);
    for request in requests {
        let header = |name| request.headers[name].to_str().unwrap();
        assert!(uuid::Uuid::try_parse(header("upstream-id")).is_ok());
        assert!(header("upstream-application-id").starts_with("riverlock/"));
        assert_eq!(header("authorization"), format!("Bearer {API_KEY}"));
        assert!(!request.headers.contains_key("referer"));
    }
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let (bench, trap) = (Bench::new(|_| {}).await, Server::start().await);
    let port = trap.base.port().unwrap();
    for status in [300, 301, 302, 303, 304, 307, 308] {
        for to in [
            trap.base.join("files/x/content").unwrap().to_string(),
            format!("//127.0.0.1:{port}/files/x"),
            format!("http://{}@127.0.0.1:{port}/", "user:password"),
            "file:///etc/passwd".to_owned(),
            "/files/other".to_owned(),
        ] {
            assert_eq!(bench.refusal(Answer::Redirect(status, to)).await, "redirect");
        }
    }
    assert_eq!(trap.requests().len(), 0);
    assert!(bench.server.requests().iter().all(|request| !request.path.contains("other")));
}

#[tokio::test]
async fn invalid_and_incomplete_documents_are_never_stored() {
    let bench = Bench::new(|_| {}).await;
    let size = document(file(1)).len();
    let html = b"<!doctype html><title>Maintenance</title>".to_vec();
    for (answer, reason) in [
        (Answer::Body("text/html; charset=utf-8", html.clone()), "content_type"),
        (Answer::Body("application/json", b"{\"type\":\"unauthorized\"}".to_vec()), "content_type"),
        (Answer::Body("text/html", document(file(1))), "content_type"),
        (Answer::Body(PDF, html), "not_pdf"),
        (Answer::Body(PDF, b"{}".to_vec()), "not_pdf"),
        (Answer::Body(PDF, Vec::new()), "empty"),
        (Answer::Body(PDF, document(file(200))), "length"),
        (Answer::Encoded("gzip"), "encoded"),
        (Answer::Encoded("br"), "encoded"),
        (Answer::Encoded("zstd, gzip"), "encoded"),
        (Answer::Cut(size / 2), "broken"),
        (Answer::Cut(size), "broken"),
        (Answer::Claimed(size as u64, b"%PDF-1.4\n".to_vec()), "broken"),
        (Answer::Claimed(10 << 30, document(file(1))), "too_large"),
        (Answer::Endless, "too_large"),
        (Answer::Status(204), "status"),
        (Answer::Status(206), "status"),
        (Answer::Status(400), "status"),
        (Answer::Status(404), "not_found"),
        (Answer::Status(410), "gone"),
    ] {
        assert_eq!(bench.refusal(answer.clone()).await, reason, "{answer:?}");
    }
    for length in (0..size).step_by(7).skip(1) {
        assert_eq!(bench.refusal(Answer::Short(length)).await, "length");
    }
    // The same file, served correctly.
    bench.server.answer(file(1), [Answer::Body("application/octet-stream", document(file(1)))]);
    bench.attempt(file(1)).await.unwrap();
}

#[tokio::test]
async fn without_metadata_completeness_is_checked_in_the_document() {
    let bench = Bench::new(|config| config.check_metadata = false).await;
    let size = document(file(1)).len();
    for length in 5..size - 1 {
        let reason = bench.refusal(Answer::Short(length.min(size - 3))).await;
        assert_eq!(reason, "no_end_marker", "{length}");
    }
    bench.server.answer(file(1), [Answer::Short(size)]);
    bench.attempt(file(1)).await.unwrap();
    assert!(bench.server.requests().iter().all(|request| request.path.ends_with("/content")));
}

#[tokio::test]
async fn contradicting_metadata_rejects_the_document() {
    let bench = Bench::new(|_| {}).await;
    for (description, reason) in [
        (Description::Status(404), "not_found"),
        (Description::Status(418), "status"),
        (Description::Text("<html>".to_owned()), "metadata"),
        (Description::Text(format!("{{\"id\":\"{}\"}}", file(2))), "metadata"),
        (Description::Text(format!("{{\"x\":\"{}\"}}", "y".repeat(100_000))), "metadata"),
        (Description::Text("{\"type\":\"zip\"}".to_owned()), "file_type"),
        (Description::Text("{\"size\":7}".to_owned()), "length"),
        (Description::Text("{\"size\":100001}".to_owned()), "too_large"),
    ] {
        bench.server.describe(file(1), description.clone());
        assert_eq!(bench.refusal(Answer::Document).await, reason, "{description:?}");
    }
    bench.server.describe(file(1), Description::Text("{\"purpose\":\"customer_credit_memo\"}".to_owned()));
    bench.attempt(file(1)).await.expect("another purpose is an anomaly, not an error");
}

#[tokio::test]
async fn a_body_below_the_minimum_rate_is_aborted() {
    let bench = Bench::new(|_| {}).await;
    let started = Instant::now();
    assert_eq!(bench.refusal(Answer::Dribble(Duration::from_secs(1))).await, "too_slow");
    assert!((4..8).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_attempt_ends_at_its_deadline_in_every_phase() {
    let bench = Bench::new(|config| config.attempt_deadline = Duration::from_millis(300)).await;
    for answer in [Answer::Dribble(Duration::from_millis(10)), Answer::Late(Duration::from_secs(60))] {
        let started = Instant::now();
        assert_eq!(bench.refusal(answer).await, "deadline");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_rejected_key_pauses_all_requests_at_once() {
    let wrong = |config: &mut InvoiceFetcherConfig| {
        config.test.as_mut().unwrap().api_key = Secret::new("wrong");
    };
    let bench = Bench::new(wrong).await;
    assert_eq!(bench.attempt(file(1)).await, Err(Problem::KeyRefused));
    for number in 1..50 {
        assert_eq!(bench.attempt(file(number)).await.unwrap_err().reason(), "closed");
    }
    assert_eq!(bench.server.requests().len(), 2, "the document, and a random file id");
}

#[tokio::test]
async fn a_rate_limit_pauses_all_requests_for_its_duration() {
    let bench = Bench::new(|_| {}).await;
    bench.server.answer(file(1), [Answer::Wait(429, "1"), Answer::Document]);
    let problem = bench.attempt(file(1)).await.unwrap_err();
    assert_eq!(problem, Problem::Throttled { wait: Duration::from_secs(1) });
    let throttled_at = Instant::now();
    let count = bench.server.requests().len();
    while let Err(problem) = bench.attempt(file(2)).await {
        assert_eq!(problem.reason(), "closed");
        let Problem::Closed { wait, .. } = problem else { panic!() };
        assert!(wait <= Duration::from_secs(1));
        tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
    }
    let next = bench.server.requests()[count].at - throttled_at;
    assert!(next > Duration::from_millis(900), "{next:?}");
}

#[tokio::test]
async fn the_wait_after_a_rate_limit_is_bounded() {
    for (value, seconds) in [
        ("", 2),
        ("soon", 2),
        ("-5", 2),
        ("1.5", 2),
        ("0", 1),
        ("7", 7),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ("Sat, 06 Nov 2094 08:49:37 GMT", 3600),
        ("999999999999999999999999999999", 3600),
    ] {
        let bench = Bench::new(|_| {}).await;
        bench.server.answer(file(1), [Answer::Wait(429, value)]);
        let expected = Problem::Throttled { wait: Duration::from_secs(seconds) };
        assert_eq!(bench.attempt(file(1)).await, Err(expected), "{value}");
    }
    let bench = Bench::new(|_| {}).await;
    bench.server.answer(file(1), [Answer::Status(429)]);
    assert_eq!(bench.attempt(file(1)).await, Err(Problem::Throttled { wait: Duration::from_secs(2) }), "no header");
    let bench = Bench::new(|_| {}).await;
    let date = Context::new().clock.now() + Duration::from_secs(100);
    let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    bench.server.answer(file(1), [Answer::Wait(429, date.leak())]);
    let Err(Problem::Throttled { wait }) = bench.attempt(file(1)).await else { panic!("a date is a wait") };
    assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_only_probed() {
    let bench = Bench::new(|config| config.api_base_url = Url::parse("http://127.0.0.1:9").unwrap()).await;
    let mut reasons = Vec::new();
    for number in 0..30 {
        reasons.push(bench.attempt(file(number)).await.unwrap_err().reason());
    }
    assert_eq!(reasons.iter().filter(|reason| **reason == "transport").count(), 10);
    assert_eq!(reasons.iter().filter(|reason| **reason == "closed").count(), 20);
}

#[tokio::test]
async fn the_rate_limit_is_kept() {
    let slow = |config: &mut InvoiceFetcherConfig| {
        config.test.as_mut().unwrap().requests_per_second = Some(20);
    };
    let bench = Bench::new(slow).await;
    let started = Instant::now();
    let attempts = (0..10).map(|number| bench.attempt(file(number)));
    futures::future::try_join_all(attempts).await.unwrap();
    assert_eq!(bench.server.requests().len(), 20);
    assert!(started.elapsed() > Duration::from_millis(800), "{:?}", started.elapsed());
}
