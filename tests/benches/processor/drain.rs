//! The processor in a separate process: this program with other arguments.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use riverlock_ledger::{PostgresConfig, consumer::BatchConfig};
use riverlock_processor::ProcessorConfig;
use riverlock_runtime::{
    Context, Secret, admin,
    admin::AdminConfig,
    kafka::KafkaConfig,
    shutdown::GRACE,
    telemetry::{self, TelemetryConfig},
};
use riverlock_sandbox::stack::{Process, Signal, usage};
use sqlx::PgConnection;

/// The first argument of a serving process.
pub(crate) const COMMAND: &str = "serve";
/// The interval at which the processor's progress is read.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// The longest time without progress.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How long the processor may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Properties of librdkafka, as in `kafka.properties`.
pub(crate) type Properties = BTreeMap<String, String>;

/// A running processor.
pub(crate) struct Drain {
    process: Process,
    connection: PgConnection,
}

/// A processor's progress, and the resources that it has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) at: Instant,
    /// Records read, according to the offsets in PostgreSQL.
    pub(crate) records: usize,
    pub(crate) processor_cpu: Duration,
    pub(crate) postgres_cpu: Duration,
    pub(crate) kafka_cpu: Duration,
    /// Current and peak memory, in bytes.
    pub(crate) memory: u64,
    pub(crate) memory_peak: u64,
}

/// The processes of the servers.
#[derive(Clone, Copy)]
pub(crate) struct Servers {
    pub(crate) postgres: i32,
    pub(crate) kafka: i32,
}

impl Drain {
    /// Starts a processor on a database.
    pub(crate) async fn start(
        brokers: &str,
        postgres: &PostgresConfig,
        batch: &BatchConfig,
        properties: &Properties,
        home: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.args([COMMAND, brokers, postgres.url.expose(), &serde_json::to_string(&(batch, properties))?]);
        let process = Process::spawn("processor", &command, &home.join("processor.log"))?;
        Ok(Self { process, connection: postgres.connect().await? })
    }

    /// Reads its progress.
    pub(crate) async fn mark(&mut self, servers: Servers) -> anyhow::Result<Mark> {
        let records: i64 = sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offsets")
            .fetch_one(&mut self.connection)
            .await?;
        let pid = self.process.pid();
        let used = || anyhow::Ok((usage::cpu(pid)?, usage::memory(pid)?));
        let (processor_cpu, (memory, memory_peak)) = used().map_err(|_| self.process.failure("ended"))?;
        Ok(Mark {
            at: Instant::now(),
            records: usize::try_from(records)?,
            processor_cpu,
            postgres_cpu: usage::cpu(servers.postgres)?,
            kafka_cpu: usage::cpu(servers.kafka)?,
            memory,
            memory_peak,
        })
    }

    /// Waits until it has read at least `records` records.
    pub(crate) async fn until(&mut self, records: usize, servers: Servers) -> anyhow::Result<Mark> {
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            let mark = self.mark(servers).await?;
            if mark.records >= records {
                return Ok(mark);
            }
            if last != Some(mark.records) {
                (last, moved) = (Some(mark.records), Instant::now());
            }
            if moved.elapsed() > STALL_MAX {
                return Err(self.process.failure(&format!("makes no progress at {} records", mark.records)));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Stops it with SIGTERM.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let status = self.process.stop(Signal::TERM, STOP_WITHIN).await?;
        if status.success() { Ok(()) } else { Err(self.process.failure(&format!("ended with {status}"))) }
    }
}

/// Runs the processor until SIGTERM.
pub(crate) async fn serve(brokers: &str, url: &str, settings: &str) -> anyhow::Result<()> {
    telemetry::init_logs(&TelemetryConfig::default())?;
    let context = Context::new();
    context.shutdown.on_signals()?;
    // As in the service: counters cost CPU time as well.
    let admin = AdminConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    admin::start(&admin, telemetry::metrics()?, &context).await?;
    let (batch, properties): (BatchConfig, Properties) = serde_json::from_str(settings)?;
    let properties = properties.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
    let kafka = KafkaConfig { brokers: brokers.to_owned(), properties, ..super::stage::kafka_config() };
    let postgres = PostgresConfig { url: Secret::new(url), ..PostgresConfig::default() };
    let config = ProcessorConfig { batch, ..ProcessorConfig::default() };
    riverlock_processor::start(config, &kafka, &postgres, &context);
    if context.shutdown.wait(GRACE).await { Ok(()) } else { bail!("the processor failed") }
}
