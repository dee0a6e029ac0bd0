//! `riverlock replay` over the whole backlog, in a separate process: this program with other arguments.
//!
//! The database has lost the rows of every tenth order. The plan reads every record and finds them; applying the plan reads
//! them again and restores the rows.

use std::{
    num::NonZeroU32,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use riverlock_ledger::PostgresConfig;
use riverlock_processor::{Orders, ProcessorConfig};
use riverlock_recovery::replay::{self, Consumer, Observer, Replay, Selection};
use riverlock_runtime::{Secret, SystemClock, kafka::KafkaConfig};
use riverlock_sandbox::stack::{Process, usage};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;

/// The first argument of the replaying process.
pub(crate) const COMMAND: &str = "replay";
/// The second argument if there is no plan yet.
const PLAN: &str = "plan";
/// No rate limit.
const RATE: NonZeroU32 = NonZeroU32::MAX;
/// How long a replay may take.
const WITHIN: Duration = Duration::from_secs(3600);
/// The orders that the database has lost.
const LOST: &str = "hashtext(order_id) % 10 = 0";

/// The result of a replay, and the resources used.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Replayed {
    /// Its plan; `None` if nothing would change.
    pub(crate) plan: Option<String>,
    /// Records that it read.
    pub(crate) records: u64,
    /// Records that had no outcome before.
    pub(crate) fresh: u64,
    pub(crate) took: Duration,
    /// Memory after a fifth of the records, at the end, and at its peak, in bytes.
    pub(crate) memory_early: u64,
    pub(crate) memory: u64,
    pub(crate) memory_peak: u64,
}

/// Deletes the rows of some orders; returns the number of their events.
pub(crate) async fn lose(connection: &mut PgConnection) -> anyhow::Result<u64> {
    for table in ["charge_operations", "shipments", "outbox", "orders"] {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE {LOST}"))).execute(&mut *connection).await?;
    }
    let statement = format!("DELETE FROM events WHERE {LOST}");
    Ok(sqlx::query(AssertSqlSafe(statement)).execute(connection).await?.rows_affected())
}

/// Plans a replay of everything, or applies a plan, in a separate process.
pub(crate) async fn run(
    brokers: &str,
    postgres: &PostgresConfig,
    plan: Option<&str>,
    home: &Path,
) -> anyhow::Result<Replayed> {
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.args([COMMAND, plan.unwrap_or(PLAN), brokers, postgres.url.expose()]);
    let log = home.join(format!("replay-{}.log", plan.unwrap_or(PLAN)));
    let process = Process::spawn("replay", &command, &log)?;
    let status = tokio::time::timeout(WITHIN, process.wait()).await.context("the replay does not end")??;
    let text = std::fs::read_to_string(&log)?;
    let last = text.lines().last().filter(|_| status.success()).unwrap_or_default();
    serde_json::from_str(last).map_err(|_| process.failure(&format!("ended with {status}")))
}

/// Replays in this process, and prints the resources used.
pub(crate) async fn replay(plan: &str, brokers: &str, url: &str) -> anyhow::Result<()> {
    let kafka = KafkaConfig { brokers: brokers.to_owned(), ..super::stage::kafka_config() };
    let postgres = PostgresConfig { url: Secret::new(url), ..PostgresConfig::default() };
    let consumers = [Consumer::new(Orders::new(ProcessorConfig::default().modes), kafka.topics().orders())];
    let replay = Replay {
        kafka: &kafka,
        postgres: &postgres,
        consumers: &consumers,
        clock: &SystemClock,
        stop: CancellationToken::new(),
        rate: RATE,
        by: "the benchmark",
        why: "a test",
    };
    let (started, mut memory) = (Instant::now(), Memory::default());
    let (plan, records, fresh) = if plan == PLAN {
        let planned = replay::plan(&replay, &Selection::default(), 0, &mut memory).await?;
        (planned.plan.map(|plan| plan.to_string()), planned.read, planned.report.records - planned.report.known)
    } else {
        let applied = replay::apply(&replay, plan, &mut memory).await?;
        anyhow::ensure!(applied.done, "the plan was not applied completely");
        (Some(applied.plan), applied.records, applied.fresh)
    };
    let took = started.elapsed();
    let (now, memory_peak) = usage::memory(i32::try_from(std::process::id())?)?;
    let replayed = Replayed { plan, records, fresh, took, memory_early: memory.early, memory: now, memory_peak };
    println!("{}", serde_json::to_string(&replayed)?);
    Ok(())
}

/// Measures memory after a fifth of the records.
#[derive(Default)]
struct Memory {
    total: u64,
    early: u64,
}

impl Observer for Memory {
    fn begin(&mut self, total: u64, _done: u64) {
        self.total = total;
    }

    fn progress(&mut self, read: u64, _selected: u64) {
        if self.early == 0 && read >= self.total / 5 {
            let own = i32::try_from(std::process::id()).unwrap_or_default();
            self.early = usage::memory(own).map_or(0, |(now, _)| now);
        }
    }

    fn say(&mut self, text: &str) {
        eprintln!("replay: {text}");
    }
}
