#![doc = include_str!("../README.md")]

pub mod backup;
pub mod hostile;
mod limit;
pub mod load;

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Weak},
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use riverlock::develop::{
    args::BrokerKind,
    local::{Local, Ports},
};
use riverlock_ledger::{DeadReason, PostgresConfig, Record, batch, postgres};
use riverlock_runtime::Secret;
use riverlock_sandbox::{Api, Clock, Life, PlannedEvent, PlayConfig, PlayReport, Progress, play, stack};
use riverlock_schemas::Mode;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A PostgreSQL server shared by the tests of one process while one of them needs it.
pub struct Server {
    postgres: stack::Postgres,
    _folder: tempfile::TempDir,
}

/// A database for one test, with all tables.
pub struct Database {
    /// The connection settings.
    pub config: PostgresConfig,
    _server: Arc<Server>,
    _limit: limit::Limit,
}

impl Database {
    /// Creates an empty database.
    ///
    /// # Errors
    /// If PostgreSQL cannot be started.
    pub async fn create() -> anyhow::Result<Self> {
        let limit = limit::Limit::start()?;
        static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => {
                let folder = stack::temporary_dir()?;
                let port = stack::ports::free_port()?;
                let postgres = stack::Postgres::start(&folder.path().join("postgres"), port).await?;
                let server = Arc::new(Server { postgres, _folder: folder });
                *shared = Arc::downgrade(&server);
                server
            }
        };
        let name = format!("test_{:016x}", fastrand::u64(..));
        let mut admin = config(server.postgres.url()).connect().await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
        drop(shared);
        let config = config(server.postgres.url_of(&name));
        postgres::migrate(&mut config.connect().await?).await?;
        Ok(Self { config, _server: server, _limit: limit })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If PostgreSQL returns an error.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(self.config.connect().await?)
    }
}

fn config(url: String) -> PostgresConfig {
    PostgresConfig { url: Secret::new(url), ..PostgresConfig::default() }
}

/// A record with this body, as a consumer reads it.
#[must_use]
pub fn record(partition: i32, offset: i64, body: &[u8]) -> Record {
    Record {
        topic_id: 1,
        topic: Arc::from("riverlock.raw.test"),
        partition,
        offset,
        timestamp: DateTime::UNIX_EPOCH,
        key: None,
        headers: None,
        payload: body.to_vec(),
    }
}

/// The reason of a dead letter that PostgreSQL rejected.
#[must_use]
pub fn refused() -> DeadReason {
    DeadReason { reason: "database", detail: "division by zero".to_owned() }
}

/// Generated orders with their events.
#[must_use]
pub fn lives(seed: u64, count: u64) -> Vec<Life> {
    let start = riverlock_sandbox::PlayConfig::default_start();
    (0..count).map(|index| Life::generate(seed, index, riverlock_sandbox::Mode::Test, start)).collect()
}

/// The events of orders, in the order in which they happened.
pub fn events(lives: &[Life]) -> impl Iterator<Item = &PlannedEvent> {
    lives.iter().flat_map(|life| &life.events)
}

/// All stored data that must not depend on order, duplicates or batching of events, as one text. It excludes when and how
/// often rows were written, and the times inside messages. Invoices are compared by their bytes.
///
/// # Errors
/// If PostgreSQL returns an error.
pub async fn state(connection: &mut PgConnection) -> anyhow::Result<String> {
    let mut state = String::new();
    for (table, query) in [
        ("orders", "SELECT to_jsonb(t) - '{version,fired,first_seen_at,changed_at}'::text[] AS row FROM orders t"),
        ("charge_operations", "SELECT to_jsonb(t) AS row FROM charge_operations t"),
        ("shipments", "SELECT to_jsonb(t) AS row FROM shipments t"),
        (
            "effects",
            "SELECT jsonb_build_array(order_id, live_mode, kind, effect_key) AS row FROM effects WHERE kind LIKE 'fulfillment.%'",
        ),
    ] {
        let text = format!("SELECT coalesce(string_agg(row::text, E'\\n' ORDER BY row::text), '') FROM ({query}) q");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *connection).await?;
        state.push_str(&format!("{table}:\n{rows}\n"));
    }
    Ok(state)
}

/// The number of records by outcome.
///
/// # Errors
/// If PostgreSQL returns an error.
pub async fn outcomes(connection: &mut PgConnection) -> anyhow::Result<std::collections::BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT outcome, count(*) FROM event_records GROUP BY outcome").fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

/// The path of the binary that `make test` builds.
///
/// # Errors
/// If it has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let binary = tests.ancestors().nth(2).context("the test binary is in no folder")?.join("riverlock");
    anyhow::ensure!(binary.is_file(), "{} is not built; `make test` builds it", binary.display());
    Ok(binary)
}

/// A complete stack: servers, services, and the sandbox that plays orders to them.
pub struct World {
    /// The servers and services.
    pub local: Local,
    /// The orders to play.
    pub play: PlayConfig,
    api: JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

impl World {
    /// Starts everything, and prepares playing `orders` orders.
    ///
    /// # Errors
    /// If a server or service does not start.
    pub async fn start(seed: u64, orders: u64, rate_per_second: u32) -> anyhow::Result<Self> {
        let folder = stack::temporary_dir()?;
        let local = Local::start(&binary()?, folder.path(), &Ports::free()?, BrokerKind::Kafka, |_| {}).await?;
        let sandbox = local.config.sandbox.clone();
        let api = Api::new(&sandbox, Clock::system());
        let listener = TcpListener::bind(sandbox.listen).await?;
        let play = PlayConfig {
            seed,
            orders,
            mode: sandbox.mode,
            rate_per_second: NonZeroU32::new(rate_per_second),
            target: sandbox.target,
            events: Some(api.events()),
            ..PlayConfig::default()
        };
        #[expect(clippy::disallowed_methods, reason = "a test has no shutdown; the task ends with the world")]
        let api = tokio::spawn(riverlock_sandbox::serve(listener, api, std::future::pending()));
        Ok(Self { local, play, api, _folder: folder })
    }

    /// Plays in the background.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a test has no shutdown; it awaits the task")]
    pub fn begin(&self) -> JoinHandle<anyhow::Result<PlayReport>> {
        tokio::spawn(play(self.play.clone(), Arc::new(Progress::new()), CancellationToken::new()))
    }

    /// Waits until everything is processed, and checks that no event was lost or invented, every order has its final
    /// status, every invoice has the served bytes, and the tables equal those of a database to which all events were
    /// applied in order.
    ///
    /// # Errors
    /// Names the condition that does not hold.
    pub async fn settle_and_check(&mut self, report: &PlayReport) -> anyhow::Result<()> {
        anyhow::ensure!(report.complete, "not every event was acknowledged in the end: {:?}", report.counts);
        riverlock::develop::demo::drain::wait(&mut self.local).await?;
        let config = &self.local.config;
        let mut connection = config.postgres.connect().await?;
        let audit = riverlock_recovery::audit::run(&config.kafka, &mut connection, &config.consumers()).await?;
        anyhow::ensure!(audit.balances() && audit.pending == 0, "{audit}: {:?}", audit.findings);
        let acknowledged = report.counts.acknowledged;
        anyhow::ensure!(audit.acknowledged >= acknowledged, "{acknowledged} requests were acknowledged, but {audit}");
        let verified = riverlock::develop::demo::verify::run(&self.play, config, &mut connection).await?;
        anyhow::ensure!(verified.problems_total == 0, "{:?}", verified.problems);

        let reference = Database::create().await?;
        let mut plain = reference.connect().await?;
        let orders = riverlock_processor::Orders::new(vec![Mode::Test, Mode::Live]);
        for (life, partition) in self.play.lives().zip(0..) {
            let records: Vec<Record> =
                life.events.iter().zip(0..).map(|(event, offset)| record(partition, offset, &event.body)).collect();
            batch::apply(&mut plain, &orders, &records, None, now()).await?;
        }
        anyhow::ensure!(state(&mut connection).await? == state(&mut plain).await?, "the tables differ");
        Ok(())
    }

    /// Ends everything.
    ///
    /// # Errors
    /// If a process does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.api.abort();
        self.local.stop().await
    }
}

/// The present time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "tests of processes run in real time")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
