//! A network that silently drops the connections to PostgreSQL: they are neither reset nor closed.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use riverlock_ledger::{Error, PostgresConfig};
use riverlock_runtime::{Context, Secret};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::fetching::{Bench, PATIENCE};
use crate::{fetch::watch::Watch, queue::database::Database};

const STORED: &str = "SELECT count(*) FROM invoices WHERE state = 'stored'";

/// `statement_timeout` in these tests; the fetcher's own limit is a little longer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// A proxy in front of PostgreSQL. While it is cut, it accepts everything and forwards nothing, and existing connections never
/// work again.
struct Wire {
    address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "the wire ends with the test")]
    async fn lay(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let Ok(there) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let ((from_here, to_here), (from_there, to_there)) = (tokio::io::split(here), tokio::io::split(there));
                tokio::spawn(pass_on(from_here, to_there, is_cut.clone()));
                tokio::spawn(pass_on(from_there, to_here, is_cut.clone()));
            }
        });
        Self { address, cut }
    }

    /// The configuration to connect to PostgreSQL through the proxy.
    fn to(&self, postgres: &PostgresConfig) -> PostgresConfig {
        let url = postgres.url.expose();
        let database = url.rsplit('/').next().unwrap();
        PostgresConfig {
            url: Secret::new(format!("postgres://riverlock:riverlock@{}/{database}", self.address)),
            statement_timeout: STATEMENT_TIMEOUT,
            connect_timeout: STATEMENT_TIMEOUT,
            ..postgres.clone()
        }
    }
}

async fn pass_on(mut from: ReadHalf<TcpStream>, mut to: WriteHalf<TcpStream>, is_cut: watch::Receiver<bool>) {
    let (mut buffer, mut is_lost) = ([0; 4096], false);
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        is_lost |= *is_cut.borrow();
        if !is_lost && to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    // The other side gets no notification either.
    if is_lost {
        std::future::pending::<()>().await;
    }
}

fn port(postgres: &PostgresConfig) -> u16 {
    let address = postgres.url.expose().rsplit('@').next().unwrap().split('/').next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_dead_connection_is_closed_and_replaced() {
    let bench = Bench::new().await;
    let wire = Wire::lay(port(&bench.database.config)).await;
    let through = Bench { context: Context::new(), config: bench.config.clone(), ..bench };
    let postgres = wire.to(&through.database.config);
    crate::fetch(through.config.clone(), &postgres, &through.context).unwrap();
    for round in 0..3 {
        let first = round * 40;
        through.announce(first..first + 20).await;
        through.until(STORED, i64::try_from(first + 20).unwrap()).await;
        wire.cut.send(true).unwrap();
        through.announce(first + 20..first + 40).await;
        let started = Instant::now();
        while through.context.health.not_ready().is_empty() {
            assert!(started.elapsed() < PATIENCE, "the dead connection is not detected");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wire.cut.send(false).unwrap();
        through.until(STORED, i64::try_from(first + 40).unwrap()).await;
    }
    assert!(through.context.health.stuck().is_empty());
    through.stop().await;
    through.check(0..120).await;
}

#[tokio::test]
async fn work_without_a_response_times_out_and_releases_its_session() {
    let bench = Bench::new().await;
    let wire = Wire::lay(port(&bench.database.config)).await;
    let database = Database::new(&PostgresConfig { connections_max: 2, ..wire.to(&bench.database.config) });
    let ask = || {
        database.run(async |connection| {
            let row = sqlx::query_scalar::<_, i32>("SELECT 1 FROM pg_sleep(0.2)").fetch_one(connection).await;
            Ok(row?)
        })
    };
    assert_eq!(futures::future::try_join(ask(), ask()).await.unwrap(), (1, 1));
    wire.cut.send(true).unwrap();
    for result in futures::future::join_all([ask(), ask()]).await {
        assert!(matches!(result, Err(Error::TimedOut(_) | Error::Sql(_))), "{result:?}");
    }
    wire.cut.send(false).unwrap();
    assert_eq!(futures::future::try_join(ask(), ask()).await.unwrap(), (1, 1));
}

#[tokio::test]
async fn gauges_do_not_keep_their_values_while_postgresql_is_unavailable() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (page, _recorded) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let value = |series: &str| {
        let text = page.render();
        let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series}: {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let bench = Bench::new().await;
    let wire = Wire::lay(port(&bench.database.config)).await;
    let postgres = wire.to(&bench.database.config);
    let fetcher =
        Arc::new(crate::fetch::worker::Fetcher::new(bench.config.clone(), &postgres, Context::new()).unwrap());
    let mut watch = Watch::new(fetcher, bench.config.clone(), bench.context.clone());
    bench.announce([1]).await;
    sqlx::query("UPDATE invoices SET next_attempt_at = now() - interval '1 hour'")
        .execute(&bench.database.pool)
        .await
        .unwrap();
    watch.look().await;
    let (due, age) = ("riverlock_invoice_documents{state=\"due\"}", "riverlock_invoice_oldest_due_age_seconds");
    let counted = value("riverlock_invoice_queue_counted_timestamp_seconds");
    let before = value(age);
    assert!(value(due) > 0.5 && before > 3_599.0 && counted > 0.0, "{}", page.render());
    wire.cut.send(true).unwrap();
    watch.look().await;
    assert!(value(due).is_nan() && value(age) > before + 0.9, "{}", page.render());
    wire.cut.send(false).unwrap();
    watch.look().await;
    assert!(value(due) > 0.5 && value("riverlock_invoice_queue_counted_timestamp_seconds") >= counted);
}
