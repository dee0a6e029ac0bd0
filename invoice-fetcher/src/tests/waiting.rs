//! Documents of a mode without an account, and accounts that are added and removed while the process runs.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use riverlock_runtime::{Context, Secret};
use riverlock_schemas::{Mode, events::file_event::FileEvent};
use sqlx::Executor as _;

use super::{
    API_KEY,
    fetching::Bench,
    file,
    queueing::{announce, announced},
};
use crate::{
    AccountConfig, Archive, InvoiceFetcherConfig,
    fetch::{watch::Watch, worker::Fetcher},
};

const STORED: &str = "SELECT count(*) FROM invoices WHERE state = 'stored'";

async fn announce_live(bench: &Bench, numbers: impl IntoIterator<Item = u128>) {
    let live = numbers.into_iter().map(|number| FileEvent { mode: Mode::Live, ..announced(number) });
    announce(&bench.database, live, bench.context.clock.now()).await;
}

fn account() -> Option<AccountConfig> {
    Some(AccountConfig { api_key: Secret::new(API_KEY), requests_per_second: Some(5_000) })
}

#[tokio::test]
async fn documents_without_an_account_wait_and_are_counted_until_it_is_added() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (page, _recorded) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let waiting = |documents: u64| {
        let series = format!("riverlock_invoice_waiting_account_documents{{mode=\"live\"}} {documents}\n");
        page.render().contains(&series)
    };
    let bench = Bench::new().await;
    announce_live(&bench, 0..20).await;
    bench.announce(20..40).await;
    let fetcher = crate::start(bench.config.clone(), &bench.database.config, &bench.context).unwrap();
    bench.until(STORED, 20).await;
    let mut watch = Watch::new(Arc::clone(&fetcher), bench.config.clone(), bench.context.clone());
    watch.look().await;
    assert!(waiting(20), "{}", page.render());
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE live_mode AND attempts = 0").await, 20);

    fetcher.reload(&InvoiceFetcherConfig { live: account(), ..bench.config.clone() }).unwrap();
    bench.until(STORED, 40).await;
    watch.look().await;
    assert!(waiting(0), "{}", page.render());
    assert!(bench.folder.path().join(Archive::key(Mode::Live, file(0))).exists());

    // A mode waits again after its account is removed; the other mode continues.
    fetcher.reload(&InvoiceFetcherConfig { live: account(), test: None, ..bench.config.clone() }).unwrap();
    bench.announce(40..50).await;
    announce_live(&bench, 50..60).await;
    bench.until(STORED, 50).await;
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE NOT live_mode AND state = 'due'").await, 10);
    bench.stop().await;
}

#[tokio::test]
async fn documents_that_wait_for_an_account_do_not_block_the_other_mode() {
    let bench = Bench::new().await;
    announce_live(&bench, 1_000..3_000).await;
    bench.announce(0..60).await;
    bench.start();
    bench.until(STORED, 60).await;
    bench.stop().await;
    bench.check(0..60).await;
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE live_mode AND state = 'due'").await, 2_000);
}

#[tokio::test]
async fn preparing_for_a_new_key_is_retried_after_a_database_error() {
    let bench = Bench::new().await;
    bench.announce([0]).await;
    let forbidden = "UPDATE invoices SET attempts = 9, last_error = 'forbidden: 403', next_attempt_at = now() + '6 h'";
    bench.database.pool.execute(forbidden).await.unwrap();
    let old = AccountConfig { api_key: Secret::new("old"), requests_per_second: None };
    let config = InvoiceFetcherConfig { test: Some(old), ..bench.config.clone() };
    let fetcher = Arc::new(Fetcher::new(config, &bench.database.config, Context::new()).unwrap());
    // The first lease is before the key is replaced.
    assert_eq!(fetcher.lease(1).await.unwrap().len(), 1);
    bench.database.pool.execute(forbidden).await.unwrap();
    bench.database.pool.execute("UPDATE invoices SET lease_id = NULL").await.unwrap();

    bench.database.pool.execute("ALTER TABLE invoices RENAME TO away").await.unwrap();
    fetcher.reload(&bench.config).unwrap();
    fetcher.lease(1).await.unwrap_err();
    bench.database.pool.execute("ALTER TABLE away RENAME TO invoices").await.unwrap();
    assert_eq!(fetcher.lease(1).await.unwrap().len(), 1, "the document is due although it should wait for six hours");
}

#[tokio::test]
async fn repeatedly_hanging_documents_use_at_most_half_of_the_workers() {
    let mut bench = Bench::new().await;
    bench.config.attempt_deadline = Duration::from_millis(1_500);
    bench.config.workers = 4;
    for number in 100..120 {
        bench.server.answer(file(number), [super::server::Answer::Late(Duration::from_secs(600))]);
    }
    bench.announce(100..120).await;
    bench.start();
    bench.until("SELECT count(*) FROM invoices WHERE attempts > 1", 20).await;
    bench.announce(0..40).await;
    let started = std::time::Instant::now();
    bench.until(STORED, 40).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    bench.context.shutdown.stop();
    bench.context.shutdown.hard().cancel();
    bench.context.shutdown.wait(super::fetching::PATIENCE).await;
}
