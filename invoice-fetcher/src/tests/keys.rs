//! New keys while the process runs, and the proxy.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::StatusCode;
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{Context, Secret};
use riverlock_schemas::Mode;
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use super::{API_KEY, config, fetching::Bench, file};
use crate::{fetch::worker::Fetcher, queue::LeasedDocument};

/// The alarm.
const PAUSED: &str = "riverlock_invoice_fetching_paused{mode=\"test\",reason=\"key_refused\"}";

#[tokio::test]
async fn a_refused_key_raises_an_alarm_until_a_new_one_is_read_and_costs_nothing() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        // A recorder of this test's own: others of this process have keys, too.
        let recorder = PrometheusBuilder::new().build_recorder();
        let (page, _recorded) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
        let paused = |value: u8| page.render().contains(&format!("{PAUSED} {value}"));
        let mut bench = Bench::new().await;
        bench.server.refuse_with(status);
        let good = bench.config.clone();
        bench.config.test.as_mut().unwrap().api_key = Secret::new("old");
        bench.announce(0..20).await;
        let started = Instant::now();
        let fetcher = crate::start(bench.config.clone(), &bench.database.config, &bench.context).unwrap();
        assert!(paused(0), "{}", page.render());
        bench.until("SELECT least(count(*), 1) FROM invoices WHERE last_error LIKE 'key_refused%'", 1).await;
        assert!(paused(1), "{}", page.render());

        // The same key again ends no pause.
        fetcher.reload(&bench.config).unwrap();
        assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE state = 'due'").await, 20);
        // A document that is forbidden before the key is known to be refused makes way for another one.
        assert!(paused(1) && bench.server.asked().len() <= 2 * bench.config.workers, "{}", bench.server.asked().len());

        fetcher.reload(&good).unwrap();
        bench.until("SELECT count(*) FROM invoices WHERE state = 'due'", 0).await;
        assert!(started.elapsed() < Duration::from_secs(14), "the pause of 15 s was waited out");
        assert!(paused(0), "{}", page.render());
        bench.stop().await;
        bench.check(0..20).await;
    }
}

#[tokio::test]
async fn a_configured_proxy_gets_a_tunnel_to_open_and_never_sees_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&"https://127.0.0.1:9".parse().unwrap(), folder.path());
    config.proxy = Some(Secret::new(format!("http://{}", listener.local_addr().unwrap())));
    let fetcher = Fetcher::new(config, &PostgresConfig::default(), Context::new()).unwrap();
    let leased = LeasedDocument::pretended(file(1), Mode::Test);
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
