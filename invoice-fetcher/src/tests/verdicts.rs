//! Problems of single documents do not affect others, and problems of the account are detected.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use reqwest::StatusCode;

use super::{
    fetching::{Bench, PATIENCE},
    file,
    server::{Answer, Description},
};

const STORED: &str = "SELECT count(*) FROM invoices WHERE state = 'stored'";

/// Numbers of good documents and of documents that always fail.
const GOOD: u128 = 60;
const BAD: u128 = 20;

/// A separate metrics recorder for one test.
struct Metrics {
    page: PrometheusHandle,
    _recorded: metrics::LocalRecorderGuard<'static>,
}

impl Metrics {
    fn new() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self { page: recorder.handle(), _recorded: metrics::set_default_local_recorder(recorder) }
    }

    fn paused(&self, reason: &str) -> bool {
        self.page
            .render()
            .contains(&format!("riverlock_invoice_fetching_paused{{mode=\"test\",reason=\"{reason}\"}} 1"))
    }
}

/// Makes requests for these documents fail permanently, optionally also for their metadata.
fn make_fail(bench: &Bench, numbers: impl IntoIterator<Item = u128>, status: u16, with_metadata: bool) {
    for number in numbers {
        bench.server.answer(file(number), [Answer::Status(status)]);
        if with_metadata {
            bench.server.describe(file(number), Description::Status(status));
        }
    }
}

/// Measures the time until `stored` documents are stored. Downloads must not be paused meanwhile.
async fn time_until_stored(bench: &Bench, metrics: &Metrics, stored: u128) -> Duration {
    let started = Instant::now();
    while bench.count(STORED).await != i64::try_from(stored).unwrap() {
        assert!(started.elapsed() < PATIENCE, "{} are stored", bench.count(STORED).await);
        assert!(!metrics.paused("key_refused") && !metrics.paused("down"), "{}", metrics.page.render());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

#[tokio::test]
async fn permanently_failing_documents_do_not_delay_others() {
    let metrics = Metrics::new();
    let alone = Bench::new().await;
    alone.announce(0..GOOD).await;
    alone.start();
    let alone_time = time_until_stored(&alone, &metrics, GOOD).await;
    alone.stop().await;
    for (status, with_metadata) in [(403, true), (403, false), (401, true), (401, false), (500, true), (503, false)] {
        let bench = Bench::new().await;
        // Every fourth document fails.
        let is_bad = |number: &u128| number % 4 == 3;
        make_fail(&bench, (0..GOOD + BAD).filter(is_bad), status, with_metadata);
        bench.announce(0..GOOD + BAD).await;
        bench.start();
        let time = time_until_stored(&bench, &metrics, GOOD).await;
        bench.stop().await;
        assert!(time < 3 * alone_time + Duration::from_secs(2), "{status}: {time:?}, alone {alone_time:?}");
        bench.check((0..GOOD + BAD).filter(|number| !is_bad(number))).await;
    }
}

#[tokio::test]
async fn new_documents_are_downloaded_at_once_after_only_failures() {
    let metrics = Metrics::new();
    for (status, with_metadata) in [(403, true), (401, true), (500, true), (500, false)] {
        let bench = Bench::new().await;
        make_fail(&bench, 100..100 + BAD, status, with_metadata);
        bench.announce(100..100 + BAD).await;
        bench.start();
        bench.until("SELECT count(*) FROM invoices WHERE attempts > 3", i64::try_from(BAD).unwrap()).await;
        bench.announce(0..24).await;
        let time = time_until_stored(&bench, &metrics, 24).await;
        bench.stop().await;
        assert!(time < Duration::from_secs(5), "{status}: {time:?}");
        bench.check(0..24).await;
    }
}

#[tokio::test]
async fn a_document_with_permanent_429_pauses_others_only_once() {
    let metrics = Metrics::new();
    let bench = Bench::new().await;
    bench.server.answer(file(100), [Answer::Wait(429, "2")]);
    bench.announce([100]).await;
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE last_error LIKE 'throttled_alone: %'", 1).await;
    bench.announce(0..24).await;
    let time = time_until_stored(&bench, &metrics, 24).await;
    bench.stop().await;
    assert!(time < Duration::from_secs(2) && !metrics.paused("throttled"), "{time:?}");
    bench.check(0..24).await;
}

#[tokio::test]
async fn an_outage_of_the_file_store_pauses_downloads_until_a_probe_succeeds() {
    let metrics = Metrics::new();
    let bench = Bench::new().await;
    bench.announce([0]).await;
    bench.start();
    bench.until(STORED, 1).await;
    bench.server.fail_all_contents(Some(StatusCode::SERVICE_UNAVAILABLE));
    bench.announce(1..100).await;
    let started = Instant::now();
    while !metrics.paused("down") {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Requests in flight end; after that only probes are sent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = bench.server.requests().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bench.server.requests().len() <= before + 1, "{} requests, then {}", before, bench.server.requests().len());
    assert!(metrics.paused("down"));
    bench.server.fail_all_contents(None);
    bench.until(STORED, 100).await;
    bench.stop().await;
    assert!(!metrics.paused("down"));
    bench.check(0..100).await;
}
