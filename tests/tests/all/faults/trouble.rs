//! Consumers with transient database errors, during rebalances, and when they stop polling.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use riverlock_ledger::{Error, consumer::BatchConfig};
use riverlock_runtime::{Context, telemetry};
use riverlock_tests::outcomes;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{
    sync::{Barrier, watch},
    time::Instant,
};

use crate::harness::{
    PATIENCE,
    projection::{Applying, Every},
    proxy::Proxy,
    topic::{TOPIC, Topic, consume},
    until,
};

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!("event-{i}"))
}

/// Fails with each statement of [`TROUBLES`], then applies everything.
struct Troubled {
    attempts: Arc<AtomicUsize>,
}

/// Errors that the data does not cause; each statement fails its transaction.
const TROUBLES: [&str; 8] = [
    "DO $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT * FROM a_table_that_is_not_there",
    "SET TRANSACTION READ ONLY",
    "DO $$ BEGIN RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'a connection failed' USING ERRCODE = '08006'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'a bug' USING ERRCODE = 'XX000'; END $$",
    "SET LOCAL statement_timeout = 20; SELECT pg_sleep(1)",
];

impl Applying for Troubled {
    const NAME: &'static str = "troubled";

    async fn apply(&self, connection: &mut PgConnection, _ids: &[String]) -> Result<(), Error> {
        if let Some(trouble) = TROUBLES.get(self.attempts.fetch_add(1, Ordering::Relaxed)) {
            sqlx::raw_sql(*trouble).execute(connection).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_errors_are_retried_and_every_event_is_applied() {
    let setting = Topic::new().await;
    setting.produce(numbered(50)).await;
    let (context, attempts) = (Context::new(), Arc::new(AtomicUsize::new(0)));
    let projection = Every(Troubled { attempts: Arc::clone(&attempts) });
    let task = consume(&setting, &setting.database.config, projection, &BatchConfig::default(), &context);
    setting.until_rows(50).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    assert!(attempts.load(Ordering::Relaxed) > TROUBLES.len(), "not every error occurred: the test showed nothing");
    let mut connection = setting.database.connect().await.unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap(), [("applied".to_owned(), 50)].into());
    let letters: i64 =
        sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&mut connection).await.unwrap();
    assert_eq!(letters, 0);
}

/// Two workers that deadlock the first time: each updates one row, waits for the other, and updates the other's row.
struct Crossed {
    rows: [[i32; 2]; 2],
    meeting: Barrier,
    attempts: AtomicUsize,
    code: &'static str,
    met: Arc<AtomicUsize>,
}

impl Crossed {
    async fn cross(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        let update = "UPDATE crossed SET hits = hits + 1 WHERE id = $1";
        let [first, second] = self.rows[attempt % 2];
        if attempt < 2 {
            self.meeting.wait().await;
        }
        sqlx::query(update).bind(first).execute(&mut *connection).await?;
        if attempt < 2 && first != second {
            self.meeting.wait().await;
        }
        sqlx::query(update).bind(second).execute(connection).await?;
        Ok(())
    }
}

impl Applying for Crossed {
    const NAME: &'static str = "crossed";

    async fn apply(&self, connection: &mut PgConnection, _ids: &[String]) -> Result<(), Error> {
        let result = self.cross(connection).await;
        if let Err(sqlx::Error::Database(error)) = &result
            && error.code().as_deref() == Some(self.code)
        {
            self.met.fetch_add(1, Ordering::SeqCst);
        }
        Ok(result?)
    }
}

/// Runs two conflicting workers; returns how often they failed with `code`.
async fn cross(isolation: &str, rows: [[i32; 2]; 2], code: &'static str) -> usize {
    let setting = Topic::new().await;
    let mut connection = setting.database.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE TABLE crossed (id integer PRIMARY KEY, hits integer NOT NULL);
         INSERT INTO crossed VALUES (1, 0), (2, 0);
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''{isolation}''', current_database()); END $$"
    )))
    .execute(&mut connection)
    .await
    .unwrap();
    setting.produce(numbered(60)).await;
    let (context, met) = (Context::new(), Arc::new(AtomicUsize::new(0)));
    let (meeting, attempts) = (Barrier::new(2), AtomicUsize::new(0));
    let projection = Every(Crossed { rows, meeting, attempts, code, met: Arc::clone(&met) });
    let config = BatchConfig { linger: Duration::from_millis(500), workers: 2, ..BatchConfig::default() };
    let task = consume(&setting, &setting.database.config, projection, &config, &context);
    setting.until_rows(60).await;
    context.shutdown.stop();
    task.await.unwrap().unwrap();
    assert_eq!(outcomes(&mut connection).await.unwrap(), [("applied".to_owned(), 60)].into());
    met.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_and_serialization_failures_are_retried_and_every_event_is_applied() {
    let deadlocks = cross("read committed", [[1, 2], [2, 1]], "40P01").await;
    let failures = cross("repeatable read", [[1, 1], [1, 1]], "40001").await;
    assert!(deadlocks > 0 && failures > 0, "{deadlocks} and {failures}: the test showed nothing");
}

/// Counts the records that it decides about, with an optional delay for each.
#[derive(Clone, Default)]
struct Counting {
    asked: Arc<AtomicUsize>,
    slow: Arc<AtomicBool>,
}

impl Applying for Counting {
    const NAME: &'static str = "counting";

    fn decided(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    async fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
        let seconds = if self.slow.load(Ordering::Relaxed) { ids.len() as f64 / 50.0 } else { 0.0 };
        sqlx::query("SELECT pg_sleep($1)").bind(seconds).execute(connection).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_share_partitions_and_a_rebalance_waits_for_batches_in_flight() {
    const EVENTS: i64 = 8_000;
    let setting = Topic::new().await;
    setting.produce((0..EVENTS).map(|i| format!("event-{i}"))).await;
    let config = BatchConfig { records_max: 50, workers: 2, ..BatchConfig::default() };
    let slow = Arc::new(AtomicBool::new(true));
    let (mut contexts, mut counts, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let (context, asked) = (Context::new(), Arc::new(AtomicUsize::new(0)));
        let projection = Every(Counting { asked: Arc::clone(&asked), slow: Arc::clone(&slow) });
        tasks.push(consume(&setting, &setting.database.config, projection, &config, &context));
        contexts.push(context);
        until("a consumer was assigned no partition", || asked.load(Ordering::Relaxed) > 0).await;
        counts.push(asked);
    }
    // The first consumer stops half-way; the second processes the rest.
    contexts[0].shutdown.stop();
    tasks.remove(0).await.unwrap().unwrap();
    assert!(setting.rows().await < EVENTS, "everything was processed before the rebalance: the test showed nothing");
    slow.store(false, Ordering::Relaxed);
    setting.until_rows(EVENTS).await;
    contexts[1].shutdown.stop();
    tasks.remove(0).await.unwrap().unwrap();
    let asked: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(
        i64::try_from(asked.iter().sum::<usize>()).unwrap(),
        EVENTS,
        "no record was processed by both: {asked:?}"
    );
}

/// Applies nothing until its gate is open.
struct Gated {
    asked: Arc<AtomicUsize>,
    open: watch::Receiver<bool>,
}

impl Applying for Gated {
    const NAME: &'static str = "gated";

    fn decided(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    async fn apply(&self, _connection: &mut PgConnection, _ids: &[String]) -> Result<(), Error> {
        self.open.clone().wait_for(|open| *open).await.expect("the test holds the gate");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_revoked_while_paused_is_read_after_it_is_assigned_again() {
    const EVENTS: i64 = 2_000;
    let page = telemetry::metrics().unwrap();
    let setting = Topic::new().await;
    setting.produce((0..EVENTS).map(|i| format!("event-{i}"))).await;
    let config = BatchConfig { records_max: 50, workers: 1, ..BatchConfig::default() };
    let (gate, open) = watch::channel(false);
    let consume_through = |open: watch::Receiver<bool>| {
        let (context, asked) = (Context::new(), Arc::new(AtomicUsize::new(0)));
        let projection = Every(Gated { asked: Arc::clone(&asked), open });
        let task = consume(&setting, &setting.database.config, projection, &config, &context);
        (context, asked, task)
    };
    let (first, _, first_task) = consume_through(open);
    let shows = |line: &str| page.render().lines().any(|shown| shown == line);
    let lag =
        |records: i64| format!("riverlock_consumer_lag_records{{consumer=\"gated\",topic=\"{TOPIC}\"}} {records}");
    until("the partition is not paused", || shows("riverlock_consumer_paused{consumer=\"gated\"} 1")).await;
    until("the lag of paused partitions is not counted", || shows(&lag(EVENTS))).await;

    // The second consumer is assigned some of the partitions, and stops when none is paused.
    let (_second_gate, open) = watch::channel(true);
    let (second, asked, second_task) = consume_through(open);
    until("the second consumer was assigned no partition", || asked.load(Ordering::Relaxed) > 0).await;
    gate.send_replace(true);
    setting.until_rows(EVENTS).await;
    second.shutdown.stop();
    second_task.await.unwrap().unwrap();
    setting.produce((EVENTS..2 * EVENTS).map(|i| format!("event-{i}"))).await;
    setting.until_rows(2 * EVENTS).await;
    until("the lag does not return to 0", || shows(&lag(0))).await;
    first.shutdown.stop();
    first_task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stops_polling_is_reported_until_it_polls_again() {
    let setting = Topic::new().await;
    setting.produce(numbered(20)).await;
    let (proxy, postgres) = Proxy::to_database(&setting.database).await;
    let context = Context::new();
    let config = BatchConfig { stuck_after: Duration::from_millis(1_500), ..BatchConfig::default() };
    let task = consume(&setting, &postgres, Every(Counting::default()), &config, &context);
    // The topic has its number; now PostgreSQL stops answering while partitions are being started.
    let mut connection = setting.database.connect().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM topics").fetch_one(&mut connection).await.unwrap() == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.open.send_replace(false);
    until("polling has stopped, and is not reported as stuck", || !context.health.stuck().is_empty()).await;
    proxy.open.send_replace(true);
    setting.until_rows(20).await;
    assert!(context.health.stuck().is_empty(), "it polls again");
    context.shutdown.stop();
    task.await.unwrap().unwrap();
}
