//! The measurements.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use riverlock_ledger::{PostgresConfig, consumer::BatchConfig, postgres};
use riverlock_runtime::{
    Secret,
    kafka::{KafkaConfig, topics},
};
use riverlock_sandbox::stack::{self, Kafka, Postgres, ports, usage};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    backlog::{self, Backlog},
    drain::{Drain, Mark, Properties, Servers},
    floor::{self, Understood},
    insert::Rows,
    replay::{self, Replayed},
};

/// The template of the other databases: all tables, no rows.
const TEMPLATE: &str = "bench_empty";
/// The database for the whole backlog.
const WHOLE: &str = "bench_whole";
/// Events with a transaction each, as a fraction of a turn's events.
const SINGLE_EVENTS_DIVISOR: usize = 20;
/// Measurements of memory while the whole backlog is read.
const STEPS: usize = 10;

/// The options of a run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Events in Kafka; all are read twice at the end.
    pub(crate) events: usize,
    /// Events of one turn.
    pub(crate) turn_events: usize,
    /// Turns of each variant.
    pub(crate) rounds: usize,
    /// Partitions of every topic.
    pub(crate) partitions: i32,
    /// The processor's batch settings.
    pub(crate) batch: BatchConfig,
    /// Properties of its librdkafka.
    pub(crate) properties: Properties,
}

impl Default for Options {
    fn default() -> Self {
        let (partitions, batch) = (KafkaConfig::default().partitions, BatchConfig::default());
        Self { events: 1_000_000, turn_events: 150_000, rounds: 3, partitions, batch, properties: Properties::new() }
    }
}

/// The settings of Kafka without its address.
pub(crate) fn kafka_config() -> KafkaConfig {
    // Short, because processors follow each other; other settings have their defaults.
    KafkaConfig { session_timeout: Duration::from_secs(6), ..KafkaConfig::default() }
}

/// The servers and the backlog.
pub(crate) struct Stage {
    postgres: Postgres,
    kafka: Kafka,
    home: tempfile::TempDir,
    pub(crate) backlog: Backlog,
    properties: Properties,
    rows: Option<Rows>,
}

/// A part of a drain between two marks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    pub(crate) events: usize,
    pub(crate) took: Duration,
    pub(crate) processor_cpu: Duration,
    pub(crate) postgres_cpu: Duration,
    pub(crate) kafka_cpu: Duration,
    pub(crate) memory_peak: u64,
}

impl Drained {
    fn between(from: &Mark, to: &Mark) -> Self {
        Self {
            events: to.records - from.records,
            took: to.at - from.at,
            processor_cpu: to.processor_cpu - from.processor_cpu,
            postgres_cpu: to.postgres_cpu - from.postgres_cpu,
            kafka_cpu: to.kafka_cpu - from.kafka_cpu,
            memory_peak: to.memory_peak,
        }
    }

    pub(crate) fn rate(&self) -> f64 {
        rate(self.events, self.took)
    }

    pub(crate) fn micros(&self, cpu: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 events")]
        let events = self.events.max(1) as f64;
        cpu.as_secs_f64() * 1e6 / events
    }
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 events")]
pub(crate) fn rate(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64().max(1e-9)
}

/// The result of a turn that only inserts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inserted {
    pub(crate) rate: f64,
    /// PostgreSQL's CPU time per event.
    pub(crate) postgres_cpu: Duration,
}

/// The results of one round.
pub(crate) struct Round {
    pub(crate) processor: Drained,
    /// Inserting the rows of `events` only.
    pub(crate) audit_rows: Inserted,
    /// Inserting all rows.
    pub(crate) all_rows: Inserted,
    /// Reading the events only.
    pub(crate) understood: Understood,
    /// Kafka's CPU time per event.
    pub(crate) understood_kafka_cpu: Duration,
    pub(crate) single: Drained,
}

/// The whole backlog, read for the first time and again, and replayed.
pub(crate) struct Whole {
    pub(crate) first: Vec<Mark>,
    pub(crate) again: Vec<Mark>,
    pub(crate) planned: Replayed,
    pub(crate) applied: Replayed,
}

impl Stage {
    pub(crate) async fn start(options: &Options) -> anyhow::Result<Self> {
        let home = stack::temporary_dir()?;
        eprintln!("bench: starting PostgreSQL and Apache Kafka");
        let postgres = Postgres::start(&home.path().join("postgres"), ports::free_port()?).await?;
        let kafka = Kafka::start(&home.path().join("kafka"), &[ports::free_port()?]).await?;
        let config = KafkaConfig { brokers: kafka.bootstrap(), partitions: options.partitions, ..kafka_config() };
        topics::create(&config).await?;
        eprintln!("bench: writing {} events to Kafka", options.events);
        let events = options.events;
        let backlog = tokio::task::spawn_blocking(move || backlog::produce(&config, events)).await??;
        let properties = options.properties.clone();
        let stage = Self { postgres, kafka, home, backlog, properties, rows: None };
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}"))).execute(&mut stage.admin().await?).await?;
        postgres::migrate(&mut stage.config(TEMPLATE).connect().await?).await?;
        Ok(stage)
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.kafka.stop().await?;
        self.postgres.stop().await
    }

    /// All variants in turn, by round.
    pub(crate) async fn rounds(&mut self, options: &Options) -> anyhow::Result<Vec<Round>> {
        let mut rounds = Vec::new();
        for round in 1..=options.rounds {
            eprintln!("bench: {} events per variant, round {round} of {}", options.turn_events, options.rounds);
            let processor = self.drain("bench_drained", options.turn_events, &options.batch).await?;
            if self.rows.is_none() {
                let mut connection = self.config("bench_drained").connect().await?;
                self.rows = Some(Rows::read(&mut connection, options.batch.records_max).await?);
            }
            let audit_rows = self.insert(&["events"], &options.batch).await?;
            let all_rows = self.insert(&["events", "orders", "outbox"], &options.batch).await?;
            let kafka = self.servers()?.kafka;
            let before = usage::cpu(kafka)?;
            let understood = floor::run(&self.kafka.bootstrap(), options.turn_events, self.home.path()).await?;
            let understood_kafka_cpu = (usage::cpu(kafka)? - before) / u32::try_from(understood.records)?.max(1);
            let one = BatchConfig { records_max: 1, ..options.batch.clone() };
            let single = self.drain("bench_single", options.turn_events / SINGLE_EVENTS_DIVISOR, &one).await?;
            eprintln!(
                "bench: {:.0}, {:.0}, {:.0}, {:.0} and {:.0} events/s",
                processor.rate(),
                audit_rows.rate,
                all_rows.rate,
                rate(understood.records, understood.took),
                single.rate()
            );
            rounds.push(Round { processor, audit_rows, all_rows, understood, understood_kafka_cpu, single });
        }
        Ok(rounds)
    }

    /// Reads the whole backlog into an empty database, then again with reset offsets; then deletes a part and replays.
    pub(crate) async fn whole(&self, options: &Options) -> anyhow::Result<Whole> {
        eprintln!("bench: reading all {} events", self.backlog.events);
        let postgres = self.create(WHOLE).await?;
        let first = self.steps(&postgres, &options.batch).await?;
        let mut connection = postgres.connect().await?;
        let before = totals(&mut connection).await?;
        anyhow::ensure!(before.0 == i64::try_from(self.backlog.events)?, "{} events have an outcome", before.0);
        sqlx::query("UPDATE consumer_offsets SET next_offset = 0").execute(&mut connection).await?;
        eprintln!("bench: reading them again");
        let again = self.steps(&postgres, &options.batch).await?;
        anyhow::ensure!(totals(&mut connection).await? == before, "reading the events again changed something");
        let (planned, applied) = self.replay(&postgres).await?;
        Ok(Whole { first, again, planned, applied })
    }

    async fn replay(&self, postgres: &PostgresConfig) -> anyhow::Result<(Replayed, Replayed)> {
        let mut connection = postgres.connect().await?;
        let before = digest(&mut connection).await?;
        let lost = replay::lose(&mut connection).await?;
        eprintln!("bench: planning to replay all events, of which the database has lost {lost}");
        let (brokers, home) = (self.kafka.bootstrap(), self.home.path());
        let planned = replay::run(&brokers, postgres, None, home).await?;
        anyhow::ensure!(planned.fresh == lost, "{} lost events were found", planned.fresh);
        eprintln!("bench: replaying");
        let applied = replay::run(&brokers, postgres, planned.plan.as_deref(), home).await?;
        anyhow::ensure!(digest(&mut connection).await? == before, "the replay did not restore the lost rows");
        Ok((planned, applied))
    }

    async fn steps(&self, postgres: &PostgresConfig, batch: &BatchConfig) -> anyhow::Result<Vec<Mark>> {
        let servers = self.servers()?;
        let mut drain =
            Drain::start(&self.kafka.bootstrap(), postgres, batch, &self.properties, self.home.path()).await?;
        let mut marks = vec![drain.until(1, servers).await?];
        for step in 1..=STEPS {
            marks.push(drain.until(self.backlog.events * step / STEPS, servers).await?);
        }
        drain.stop().await?;
        Ok(marks)
    }

    /// A turn of the processor on an empty database, without its start.
    async fn drain(&self, database: &str, events: usize, batch: &BatchConfig) -> anyhow::Result<Drained> {
        let servers = self.servers()?;
        let postgres = self.create(database).await?;
        let mut drain =
            Drain::start(&self.kafka.bootstrap(), &postgres, batch, &self.properties, self.home.path()).await?;
        let from = drain.until(1, servers).await?;
        let to = drain.until((from.records + events).min(self.backlog.events), servers).await?;
        anyhow::ensure!(
            to.records > from.records,
            "everything was read before anything was measured: --events is too small"
        );
        drain.stop().await?;
        Ok(Drained::between(&from, &to))
    }

    /// A turn of inserting rows into an empty database.
    async fn insert(&self, tables: &[&str], batch: &BatchConfig) -> anyhow::Result<Inserted> {
        let rows = self.rows.as_ref().context("nothing was drained yet")?;
        let postgres = self.create("bench_inserted").await?;
        let server = self.servers()?.postgres;
        let (started, before) = (Instant::now(), usage::cpu(server)?);
        rows.insert(&postgres, tables, batch.workers).await?;
        let events = u32::try_from(rows.events)?.max(1);
        Ok(Inserted {
            rate: rate(rows.events, started.elapsed()),
            postgres_cpu: (usage::cpu(server)? - before) / events,
        })
    }

    /// Creates an empty database; replaces an existing one.
    async fn create(&self, name: &str) -> anyhow::Result<PostgresConfig> {
        let mut admin = self.admin().await?;
        for statement in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"),
            // A checkpoint, so that a turn does not include writes of the previous one.
            "CHECKPOINT".to_owned(),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await?;
        }
        Ok(self.config(name))
    }

    async fn admin(&self) -> anyhow::Result<PgConnection> {
        Ok(self.config("postgres").connect().await?)
    }

    fn config(&self, database: &str) -> PostgresConfig {
        let statement_timeout = Duration::from_secs(600);
        let url = Secret::new(self.postgres.url_of(database));
        PostgresConfig { url, statement_timeout, ..PostgresConfig::default() }
    }

    fn servers(&self) -> anyhow::Result<Servers> {
        let kafka = self.kafka.node(1).context("Kafka does not run")?.pid();
        Ok(Servers { postgres: self.postgres.process().pid(), kafka })
    }
}

/// The number of rows in `events`, and the sum of the orders' versions: neither grows when events are read again.
async fn totals(connection: &mut PgConnection) -> anyhow::Result<(i64, i64, i64)> {
    Ok(sqlx::query_as(
        "SELECT (SELECT count(*) FROM events), (SELECT coalesce(sum(version), 0) FROM orders),
                (SELECT count(*) FROM effects)",
    )
    .fetch_one(connection)
    .await?)
}

/// A digest of all effects, independent of batches.
async fn digest(connection: &mut PgConnection) -> anyhow::Result<(i64, i64, String)> {
    Ok(sqlx::query_as(
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM effects),
                (SELECT sum(hashtextextended((to_jsonb(o) - '{version,fired,first_seen_at,changed_at}'::text[])::text, 0))::text
                 FROM orders o)",
    )
    .fetch_one(connection)
    .await?)
}
