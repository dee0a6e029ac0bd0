//! One, two and three processors, killed at every critical point, yield the same tables byte for byte.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use riverlock_ledger::{
    PostgresConfig, batch,
    postgres::{self, cluster},
};
use riverlock_processor::Orders;
use riverlock_recovery::audit;
use riverlock_runtime::Secret;
use riverlock_sandbox::stack::{Process, kafka_for_test, ports};
use riverlock_schemas::Mode;
use riverlock_tests::{Database, World, binary, hostile, load::Target, now, outcomes, record, state};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::{task::JoinSet, time::Instant};

const ORDERS: u64 = 600;
/// Concurrent deliveries of one event.
const DELIVERIES: i64 = 100;
/// Most attempts to deliver an event.
const ATTEMPTS_MAX: usize = 20;
/// Records in a batch: few, so that there are many batches.
const BATCH_RECORDS: &str = "20";
/// The longest that any step may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The advisory lock that a commit waits for while its processor is killed.
const COMMIT_LOCK: i64 = 4_711;

/// Where a processor is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CrashPoint {
    /// While this statement of a batch's transaction waits for this table; earlier statements are done.
    Statement { table: &'static str, lock: &'static str, name: &'static str },
    /// Before the commit.
    Commit,
    /// Between the commit in PostgreSQL and that of the offsets in Kafka.
    BetweenCommits,
    /// When another processor has just been assigned partitions, while a batch is in flight.
    Rebalance,
}

/// Blocks changes, not reads and row locks.
const CHANGES: &str = "SHARE";
/// Blocks every access.
const EVERYTHING: &str = "ACCESS EXCLUSIVE";

const CRASH_POINTS: [CrashPoint; 8] = [
    CrashPoint::Statement { table: "events", lock: CHANGES, name: "events_add" },
    CrashPoint::Statement { table: "orders", lock: EVERYTHING, name: "orders_read" },
    CrashPoint::Statement { table: "orders", lock: CHANGES, name: "orders_write" },
    CrashPoint::Statement { table: "outbox", lock: CHANGES, name: "outbox_add" },
    CrashPoint::Statement { table: "consumer_offsets", lock: CHANGES, name: "consumer_offsets_advance" },
    CrashPoint::Commit,
    CrashPoint::BetweenCommits,
    CrashPoint::Rebalance,
];

/// Processors on one database.
struct Processors<'a> {
    world: &'a World,
    home: &'a Path,
    postgres: PostgresConfig,
    running: Vec<Process>,
    started: usize,
}

impl<'a> Processors<'a> {
    async fn start(world: &'a World, home: &'a Path, count: usize) -> anyhow::Result<Self> {
        let name = format!("proof_{count}");
        let mut admin = world.local.config.postgres.connect().await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
        let url = Secret::new(world.local.postgres.url_of(&name));
        let postgres = PostgresConfig { url, ..PostgresConfig::default() };
        let mut connection = postgres.connect().await?;
        postgres::migrate(&mut connection).await?;
        cluster::adopt(&mut connection, &cluster::connected(&world.local.config.kafka).await?).await?;
        // A commit waits for the advisory lock, and then takes a while, so that work is left for every crash point.
        sqlx::raw_sql(AssertSqlSafe(format!(
            "CREATE FUNCTION wait_to_commit() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock_shared({COMMIT_LOCK}), pg_sleep(0.02); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER wait_to_commit AFTER INSERT OR UPDATE ON consumer_offsets
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_to_commit()"
        )))
        .execute(&mut connection)
        .await?;
        let mut processors = Self { world, home, postgres, running: Vec::new(), started: 0 };
        for _ in 0..count {
            processors.add()?;
        }
        Ok(processors)
    }

    fn add(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let mut command = Command::new(binary()?);
        command
            .arg("--config")
            .arg(&self.world.local.config_file)
            .arg("processor")
            .env("RIVERLOCK__POSTGRES__URL", self.postgres.url.expose())
            .env("RIVERLOCK__ADMIN__LISTEN", format!("127.0.0.1:{}", ports::free_port()?))
            .env("RIVERLOCK__PROCESSOR__BATCH__RECORDS_MAX", BATCH_RECORDS);
        let (database, number) = (self.postgres.options()?, self.started);
        let log = format!("{}-{number}.log", database.get_database().unwrap_or_default());
        self.running.push(Process::spawn(&format!("processor {number}"), &command, &self.home.join(log))?);
        Ok(())
    }

    /// Kills the processor that has the connection from a port, or the first one, and starts another instead.
    async fn kill(&mut self, port: Option<i32>) -> anyhow::Result<()> {
        let index = match port {
            None => 0,
            Some(port) => {
                let of = self.running.iter().position(|process| owns(process.pid(), port));
                of.with_context(|| format!("no processor has the connection from port {port}"))?
            }
        };
        self.running.remove(index).kill().await?;
        self.add()
    }

    async fn connect(&self) -> anyhow::Result<PgConnection> {
        // The server must not end a session of the test that holds a lock.
        let options = self.postgres.options()?.options([("idle_in_transaction_session_timeout", "0")]);
        Ok(options.connect().await?)
    }

    async fn until_read_more_than(&self, records: i64) -> anyhow::Result<i64> {
        let (until, mut connection) = (Instant::now() + PATIENCE, self.connect().await?);
        loop {
            let read = read(&mut connection).await?;
            if read > records {
                return Ok(read);
            }
            if let Some(ended) = self.running.iter().find(|process| !process.is_running()) {
                return Err(ended.failure("ended"));
            }
            ensure!(Instant::now() < until, "nothing was read after {records} records");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the processors have made progress, and kills one of them at the point.
    async fn crash_at(&mut self, point: CrashPoint) -> anyhow::Result<()> {
        let mut holder = self.connect().await?;
        let before = read(&mut holder).await?;
        self.until_read_more_than(before).await?;
        match point {
            CrashPoint::Statement { table, lock, name } => {
                let lock = format!("BEGIN; LOCK TABLE {table} IN {lock} MODE");
                sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await?;
                let port = self.until_waiting(&format!("-- {name}%")).await?;
                self.kill(Some(port)).await?;
            }
            CrashPoint::Commit => {
                hold_commits(&mut holder).await?;
                let port = self.until_waiting("COMMIT").await?;
                self.kill(Some(port)).await?;
            }
            CrashPoint::BetweenCommits => {
                let before = read(&mut holder).await?;
                self.until_read_more_than(before).await?;
                self.kill(None).await?;
            }
            CrashPoint::Rebalance => {
                hold_commits(&mut holder).await?;
                let port = self.until_waiting("COMMIT").await?;
                self.add()?;
                // The other processor waits some seconds for the batch, and then releases its partitions.
                self.until_assigned().await?;
                let index = self.running.iter().position(|process| owns(process.pid(), port));
                let index = index.context("the processor with the batch has ended")?;
                self.running.remove(index).kill().await?;
            }
        }
        // Releases its locks.
        holder.close().await?;
        Ok(())
    }

    /// Waits until a statement like this waits for a lock, and returns its client's port.
    async fn until_waiting(&self, like: &str) -> anyhow::Result<i32> {
        let (until, mut connection) = (Instant::now() + PATIENCE, self.connect().await?);
        loop {
            let port: Option<i32> = sqlx::query_scalar(
                "SELECT client_port FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 LIMIT 1",
            )
            .bind(like)
            .fetch_optional(&mut connection)
            .await?;
            if let Some(port) = port {
                return Ok(port);
            }
            ensure!(Instant::now() < until, "no processor came to {like}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the newest processor has been assigned partitions.
    async fn until_assigned(&self) -> anyhow::Result<()> {
        let (until, newest) = (Instant::now() + PATIENCE, self.running.last().context("no processor runs")?);
        let is_reported = |line: &str| line.split_once(": assign ").is_some_and(|(_, rest)| !rest.starts_with('0'));
        while !std::fs::read_to_string(newest.log()).is_ok_and(|log| log.lines().any(is_reported)) {
            ensure!(Instant::now() < until, "the new processor got no partitions");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until everything is read, and audits that every record has its outcome.
    async fn finish(self) -> anyhow::Result<(String, std::collections::BTreeMap<String, i64>)> {
        let config = &self.world.local.config;
        let consumers = [(riverlock_processor::CONSUMER, config.kafka.topics().orders())];
        let mut connection = self.connect().await?;
        // No more kills: commits need not be slow.
        sqlx::query("DROP TRIGGER wait_to_commit ON consumer_offsets").execute(&mut connection).await?;
        let (mut left, mut moved) = (u64::MAX, Instant::now());
        while left > 0 {
            let pending = audit::pending(&config.kafka, &mut connection, &consumers).await?;
            if pending != left {
                (left, moved) = (pending, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                let logs: Vec<String> =
                    self.running.iter().map(|one| one.failure("reads nothing").to_string()).collect();
                bail!("{left} records are left unread\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let report = audit::run(&config.kafka, &mut connection, &consumers).await?;
        ensure!(report.balances(), "{report}: {:?}", report.findings);
        for process in &self.running {
            process.kill().await?;
        }
        Ok((state(&mut connection).await?, outcomes(&mut connection).await?))
    }
}

async fn hold_commits(holder: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("SELECT pg_advisory_lock($1)").bind(COMMIT_LOCK).execute(holder).await?;
    Ok(())
}

/// The number of records with an outcome.
async fn read(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let read = sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offsets");
    Ok(read.fetch_one(connection).await?)
}

/// Whether a process owns the TCP connection from this port.
fn owns(pid: i32, port: i32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let local = format!(":{port:04X}");
    let inodes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1)?.ends_with(&local).then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
    });
    let inodes: Vec<String> = inodes.collect();
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    links.any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
}

/// Sends bodies to ingest concurrently.
async fn send(world: &World, bodies: Vec<Vec<u8>>) -> anyhow::Result<()> {
    let mut requests = JoinSet::new();
    for body in bodies {
        let target = Target {
            address: world.local.config.ingest.listen,
            path: "/webhooks/digital-river".to_owned(),
            secret: "sandbox-signing-secret".to_owned(),
            bodies: [bytes::Bytes::from(body)].into(),
            connections: 1,
        };
        requests.spawn(async move {
            // Rejected or late: sent again, as Digital River does.
            for _ in 0..ATTEMPTS_MAX {
                if target.once().await.is_ok_and(|status| status == 202) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            false
        });
    }
    let acknowledged = requests.join_all().await;
    ensure!(acknowledged.into_iter().all(|yes| yes), "an event was never acknowledged");
    Ok(())
}

/// An event that is delivered many times at once.
fn often() -> Vec<u8> {
    br#"{"id":"often","type":"order.accepted","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{"object":{"id":"often","state":"accepted","updatedTime":"2026-01-01T00:00:00Z","items":[{"id":"line","quantity":1}]}}}"#.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_two_and_three_processors_killed_at_every_crash_point_yield_identical_tables() {
    if !kafka_for_test("one_two_and_three_processors_killed_at_every_crash_point_yield_identical_tables") {
        return;
    }
    let world = World::start(17, ORDERS, 400).await.unwrap();
    let report = world.begin().await.unwrap().unwrap();
    assert!(report.complete);
    let hostile = hostile::corpus();
    send(&world, hostile.iter().map(|hostile| hostile.body.clone()).collect()).await.unwrap();
    send(&world, (0..DELIVERIES).map(|_| often()).collect()).await.unwrap();
    world.local.services[1].kill().await.unwrap();

    let reference = Database::create().await.unwrap();
    let mut plain = reference.connect().await.unwrap();
    let lives: Vec<_> = world.play.lives().collect();
    let bodies = riverlock_tests::events(&lives).map(|event| event.body.to_vec());
    let bodies = bodies.chain(hostile.iter().map(|hostile| hostile.body.clone())).chain([often()]);
    let records: Vec<_> = bodies.zip(0..).map(|(body, offset)| record(0, offset, &body)).collect();
    let orders = Orders::new(vec![Mode::Test, Mode::Live]);
    batch::apply(&mut plain, &orders, &records, None, now()).await.unwrap();
    let expected = state(&mut plain).await.unwrap();

    let home = riverlock_sandbox::stack::temporary_dir().unwrap();
    for count in 1..=3 {
        let mut processors = Processors::start(&world, home.path(), count).await.unwrap();
        for point in CRASH_POINTS {
            if let Err(error) = processors.crash_at(point).await {
                panic!("{count} processors, {point:?}: {error:#}");
            }
            println!("{count} processors: killed at {point:?}");
        }
        let mut connection = processors.connect().await.unwrap();
        let (found, outcomes) = processors.finish().await.unwrap();
        assert_eq!(found, expected, "{count} processors");
        let often: (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE outcome = 'applied'), count(*) FILTER (WHERE outcome = 'duplicate'),
                    (SELECT count(*) FROM effects WHERE order_id = 'often')
             FROM event_records WHERE event_id = 'often'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!((often.0, often.2), (1, 1), "concurrent deliveries take effect once");
        assert!(often.1 >= DELIVERIES - 1, "only {} duplicates: the test showed nothing", often.1);
        assert!(outcomes["dead"] > 0, "{outcomes:?}: the test showed nothing");
    }
    world.stop().await.unwrap();
}
