//! Reloading of keys, and the proxy.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::StatusCode;
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{Context, Secret};
use riverlock_schemas::Mode;
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use super::{API_KEY, config, fetching::Bench, file};
use crate::{fetch::worker::Fetcher, queue::LeasedDocument};

/// The series for which an alert fires.
const PAUSED: &str = "riverlock_invoice_fetching_paused{mode=\"test\",reason=\"key_refused\"}";

#[tokio::test]
async fn a_rejected_key_sets_the_gauge_until_a_new_key_is_loaded() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        // A separate recorder, because other tests of this process use accounts too.
        let recorder = PrometheusBuilder::new().build_recorder();
        let (page, _recorded) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
        let paused = |value: u8| page.render().contains(&format!("{PAUSED} {value}"));
        let mut bench = Bench::new().await;
        bench.server.reject_with(status);
        let good = bench.config.clone();
        bench.config.test.as_mut().unwrap().api_key = Secret::new("old");
        bench.announce(0..20).await;
        let fetcher = crate::start(bench.config.clone(), &bench.database.config, &bench.context).unwrap();
        assert!(paused(0), "{}", page.render());
        bench.until("SELECT least(count(*), 1) FROM invoices WHERE last_error LIKE 'key_refused%'", 1).await;
        assert!(paused(1), "{}", page.render());

        // The same key does not end the pause.
        fetcher.reload(&bench.config).unwrap();
        assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state = 'due'").await, 20);
        // A document that was forbidden before the key was known to be rejected does not block others.
        assert!(
            paused(1) && bench.server.requests().len() <= 2 * bench.config.workers,
            "{}",
            bench.server.requests().len()
        );

        fetcher.reload(&good).unwrap();
        assert!(paused(0), "the new key ends the pause at once: {}", page.render());
        bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
        assert!(paused(0), "{}", page.render());
        bench.stop().await;
        bench.check(0..20).await;
    }
}

#[tokio::test]
async fn a_configured_proxy_opens_a_tunnel_and_never_sees_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&"https://127.0.0.1:9".parse().unwrap(), folder.path());
    config.proxy = Some(Secret::new(format!("http://{}", listener.local_addr().unwrap())));
    let fetcher = Fetcher::new(config, &PostgresConfig::default(), Context::new()).unwrap();
    let leased = LeasedDocument::for_test(file(1), Mode::Test);
    let attempt = fetcher.attempt(&leased, Instant::now() + Duration::from_secs(30));
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(seen).unwrap()
    };
    let (result, seen) = tokio::join!(Box::pin(attempt), proxy);
    assert_eq!(result.unwrap_err().reason(), "transport");
    assert!(seen.starts_with("CONNECT 127.0.0.1:9 HTTP/1.1\r\n") && !seen.contains(API_KEY), "{seen}");
}
