//! Comparing a list of events with PostgreSQL.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use riverlock_digital_river::Priority;
use riverlock_reconcile::{
    events::{Options, Progress},
    listing::windows::Range,
    reconciler::Reconciler,
};
use riverlock_runtime::{
    Shutdown, SystemClock,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::EmbeddedBroker;
use riverlock_sandbox::stack::usage;
use riverlock_schemas::Mode;
use riverlock_tests::Database;

use crate::account::{self, Account};

/// Requests per second, far more than Digital River allows: the cost is measured, not the limit.
const RATE: u32 = 10_000;

/// Parts of the run after which memory is measured.
const PARTS: u64 = 4;

const MEGABYTE: u64 = 1_000_000;

/// Compares events that PostgreSQL knows. Returns the report.
pub(crate) async fn measure(events: u64) -> anyhow::Result<String> {
    let database = Database::create().await?;
    let mut connection = database.connect().await?;
    let known = "INSERT INTO reconciled_events (event_id, run_id, topic, partition, record_offset)
                 SELECT lpad(to_hex(i), 8, '0') || '-7c2d-4a53-8a53-0b5c3d1f7e02', gen_random_uuid(), 't', 0, i
                 FROM generate_series(0, $1::bigint - 1) i";
    sqlx::query(known).bind(i64::try_from(events)?).execute(&mut connection).await?;
    sqlx::query("ANALYZE reconciled_events").execute(&mut connection).await?;
    let kafka = KafkaConfig::default();
    let names = topics::names(&kafka).into_iter().map(|name| (name, kafka.partitions));
    let broker = EmbeddedBroker::start(names)?;
    let kafka = KafkaConfig { brokers: broker.bootstrap(), ..kafka };
    let account = Account::start(events, RATE).await?;

    let (shutdown, pid) = (Shutdown::new(), i32::try_from(std::process::id())?);
    let reconciler = Reconciler {
        client: &account.client,
        kafka: &kafka,
        consumers: &[],
        answer_limit: database.config.answer_limit(),
        clock: &SystemClock,
        stop: shutdown.soft(),
    };
    let options = Options {
        mode: Mode::Test,
        types: vec!["order.*".to_owned()],
        range: Range { from: account::start(), to: account::end() },
        window: TimeDelta::hours(6),
        overlap: TimeDelta::minutes(5),
        catch_up: Duration::from_secs(10),
        apply: false,
        resume: false,
        priority: Priority::Foreground,
    };
    let (begun, before) = (Instant::now(), usage::own_cpu(pid)?);
    let mut memory: Vec<(u64, u64)> = Vec::new();
    let mut watch = |progress: Progress| {
        let part = progress.listed * PARTS / events.max(1);
        if part >= memory.len() as u64 {
            memory.extend(usage::memory(pid).ok().map(|(now, _)| (progress.listed, now)));
        }
    };
    let report = reconciler.run(&mut connection, &options, &mut watch).await?;
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), (usage::own_cpu(pid)? - before).as_secs_f64());
    anyhow::ensure!(
        report.listed >= events && report.missing == 0,
        "{} listed, {} missing",
        report.listed,
        report.missing
    );

    let mut text = String::new();
    let listed = report.listed;
    writeln!(text, "reconcile, events of 30 days in windows of 6 hours, all known to PostgreSQL")?;
    writeln!(text, "  events     {listed} listed in {elapsed:.1} s, {:.0} a second", listed as f64 / elapsed)?;
    writeln!(text, "  CPU        {:.0} µs an event", cpu * 1e6 / listed as f64)?;
    for (listed, bytes) in memory {
        writeln!(text, "  memory     {} MB after {listed} events", bytes / MEGABYTE)?;
    }
    writeln!(text, "  at Digital River's limit, 25 requests a second for test data: {:.0} s", listed as f64 / 2_500.0)?;
    Ok(text)
}
