//! The continuous audit: proves the records that are new since its last run, and exports the result as metrics.
//!
//! Marks in PostgreSQL record the offset up to which each partition is proved, so that no run reads a topic from the
//! beginning again. A mark never passes a range with a mismatch: every run reads that range again until it is right.
//! One process at a time runs the audit, holding a lock; all export the same metrics because these come from the
//! database.
//!
//! Changes to rows that were already proved are found only by `riverlock audit`, which proves everything from the
//! beginning.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use riverlock_ledger::{
    Error, PostgresConfig,
    metrics::OUTCOMES,
    postgres::{self, Lock, TRANSACTION_LIMIT, bounded, cluster},
    store::Partition,
};
use riverlock_runtime::{Component, ConfigError, Context, config::DurationText, kafka::KafkaConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::metrics as names;

use super::{
    AuditError, Report,
    compare::{Comparison, PAGE_RECORDS, Range},
    count_kept,
    source::Source,
    store::{self, ProvenRange},
};

/// Records of one partition that are proved before its mark is moved.
const STRETCH_RECORDS: i64 = 20_000;
/// Time without a heartbeat after which the process counts as stuck, added to the time that a page takes at the
/// configured rate.
const STUCK_AFTER: Duration = Duration::from_secs(900);
/// Time between two reads of the metrics from the database, and before a failed run is repeated.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// The audit that the processor runs continuously.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Whether the processor audits while it runs.
    pub enabled: bool,
    /// Time from the end of one run to the start of the next.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Most records that a run reads per second, to limit the load beside live traffic.
    pub records_per_second_max: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(300), records_per_second_max: 20_000 }
    }
}

impl AuditConfig {
    /// Checks the limits.
    ///
    /// # Errors
    ///
    /// When a value is zero or out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600)).contains(&self.interval) {
            return Err(ConfigError::refused("audit.interval", "must be from 1s to 7d"));
        }
        if self.records_per_second_max == 0 {
            return Err(ConfigError::refused("audit.records_per_second_max", "must be at least 1"));
        }
        Ok(())
    }
}

/// The continuous audit's settings and connections.
#[derive(Clone, Debug)]
pub struct Auditor {
    /// Interval and rate.
    pub config: AuditConfig,
    /// Kafka, which has the records.
    pub kafka: KafkaConfig,
    /// PostgreSQL, which has the outcomes.
    pub postgres: PostgresConfig,
    /// The consumers with the topics that each reads.
    pub consumers: Vec<(&'static str, Vec<String>)>,
}

impl Auditor {
    /// Audits until the shutdown, on a separate thread because requests to Kafka block. Errors are logged and retried.
    ///
    /// # Errors
    /// When the thread cannot be started, or panics.
    pub async fn run(self, context: Context) -> Result<(), &'static str> {
        names::describe_audit();
        let component = context.health.register_beating("audit", STUCK_AFTER + self.page_duration());
        let (runtime, (result, ended)) = (Handle::current(), oneshot::channel());
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let work = move || {
            runtime.block_on(self.work(&context, &component));
            // The receiver is gone if the process is already shutting down.
            let _ = result.send(());
        };
        thread.spawn(work).map_err(|_| "cannot start the audit's thread")?;
        ended.await.map_err(|_| "the audit's thread panicked")
    }

    /// Minimum time for a page of records at the configured rate.
    fn page_duration(&self) -> Duration {
        Duration::from_secs_f64(PAGE_RECORDS as f64 / f64::from(self.config.records_per_second_max))
    }

    async fn work(&self, context: &Context, component: &Component) {
        let soft = context.shutdown.soft();
        let mut source = None;
        while !soft.is_cancelled() {
            component.beat();
            match self.run_if_due(context, &mut source, &|| component.beat()).await {
                Ok(_) | Err(AuditError::Stopped) => component.ready(),
                Err(error) => {
                    // The client may be broken: create a new one.
                    source = None;
                    component.not_ready(error.to_string());
                    counter!(names::AUDIT_RUNS, "result" => "error").increment(1);
                    tracing::warn!(%error, "the audit failed and is retried in {} s: {error}", LOOK_INTERVAL.as_secs());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL.min(self.config.interval)) => {}
                () = soft.cancelled() => {}
            }
        }
    }

    /// Runs the audit if a run is due and no other process is running it, and updates the metrics. Returns whether it
    /// ran.
    ///
    /// # Errors
    /// When Kafka or PostgreSQL does not answer.
    pub async fn look(&self, context: &Context) -> Result<bool, AuditError> {
        self.run_if_due(context, &mut None, &|| {}).await
    }

    /// Like [`Self::look`]; calls `beat` repeatedly during a run.
    async fn run_if_due(
        &self,
        context: &Context,
        source: &mut Option<Source>,
        beat: &(dyn Fn() + Sync),
    ) -> Result<bool, AuditError> {
        let mut connection = self.postgres.connect_as("audit").await?;
        // Checked again under the lock: another process may have just finished a run.
        let limit = self.postgres.answer_limit();
        let is_due = bounded(limit, self.due(&mut connection)).await?
            && bounded(limit, postgres::try_lock(&mut connection, Lock::Audit)).await?
            && bounded(limit, self.due(&mut connection)).await?;
        if is_due {
            let source = match source {
                Some(source) => source,
                none => none.insert(Source::open(&self.kafka)?),
            };
            self.make_run(source, &mut connection, context, beat).await?;
        }
        bounded(TRANSACTION_LIMIT, show(&mut connection)).await?;
        // Closed in order, so that the lock is free before the next process asks.
        connection.close().await?;
        Ok(is_due)
    }

    async fn due(&self, connection: &mut PgConnection) -> Result<bool, Error> {
        let Some(last) = store::last_run(connection).await? else { return Ok(true) };
        // If the clock was set back, a run is due at once.
        Ok(last.seconds_ago < 0.0 || last.seconds_ago >= self.config.interval.as_secs_f64())
    }

    async fn make_run(
        &self,
        source: &mut Source,
        connection: &mut PgConnection,
        context: &Context,
        beat: &(dyn Fn() + Sync),
    ) -> Result<(), AuditError> {
        let begun = Instant::now();
        let consumers: Vec<(&str, Vec<String>)> =
            self.consumers.iter().map(|(name, topics)| (*name, topics.clone())).collect();
        let rate = Some(self.config.records_per_second_max);
        let report = prove_new_from(source, connection, &consumers, rate, context.shutdown.soft(), beat).await?;
        bounded(TRANSACTION_LIMIT, store::set_last_run(connection, &report, begun.elapsed())).await?;
        let result = if report.balances() { "right" } else { "wrong" };
        counter!(names::AUDIT_RUNS, "result" => result).increment(1);
        counter!(names::AUDIT_UNPROVED).increment(report.expired);
        for note in &report.notes {
            tracing::warn!("{note}");
        }
        if report.balances() {
            tracing::debug!("{report}");
        } else {
            tracing::error!(
                wrong = report.wrong,
                "the audit does not balance; `riverlock audit` lists everything: {}",
                report.findings.join("; ")
            );
        }
        Ok(())
    }
}

/// Sets the metrics from the database.
async fn show(connection: &mut PgConnection) -> Result<(), Error> {
    let (acknowledged, outcomes) = store::mark_sums(connection).await?;
    gauge!(names::AUDIT_ACKNOWLEDGED).set(acknowledged as f64);
    for outcome in OUTCOMES {
        let count = outcomes.get(outcome).copied().unwrap_or_default();
        gauge!(names::AUDIT_OUTCOMES, "outcome" => outcome).set(count as f64);
    }
    let Some(last) = store::last_run(connection).await? else { return Ok(()) };
    gauge!(names::AUDIT_WRONG).set(last.wrong as f64);
    gauge!(names::AUDIT_PENDING).set(last.pending as f64);
    gauge!(names::AUDIT_DURATION).set(last.duration_seconds);
    gauge!(names::AUDIT_LAST_SUCCESS).set(last.succeeded_at.unwrap_or_default());
    Ok(())
}

/// Proves the records since the marks, advances the marks, and reports everything proved so far and the current
/// mismatches.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer. Marks that were advanced before stay advanced.
pub async fn prove_new(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    rate: Option<u32>,
    stop: &CancellationToken,
) -> Result<Report, AuditError> {
    prove_new_from(&mut Source::open(kafka)?, connection, consumers, rate, stop, &|| {}).await
}

async fn prove_new_from(
    source: &mut Source,
    connection: &mut PgConnection,
    consumers: &[(&str, Vec<String>)],
    rate: Option<u32>,
    stop: &CancellationToken,
    beat: &(dyn Fn() + Sync),
) -> Result<Report, AuditError> {
    source.prepare(connection, consumers).await?;
    let source = &*source;
    // Kafka's end offsets are requested after those of the database, because records are written before they are read.
    let marks = bounded(TRANSACTION_LIMIT, store::partition_marks(connection, consumers, &source.ids)).await?;
    let watermarks = source.watermarks()?;
    let mut report = Report::default();
    report.check_offsets(source, &marks, &watermarks);

    let mut left: HashMap<Partition, Range> = HashMap::new();
    let mut passed = Vec::new();
    for (&partition, &(low, high)) in &watermarks {
        let Some(mark) = marks.get(&partition) else { continue };
        // A partition without a mark is audited from its first offset.
        let proved = mark.proved.unwrap_or(low);
        report.wrong(u64::try_from(proved - high).unwrap_or_default(), || {
            format!("{} ends at {high}, but was proved up to {proved} before", source.name(partition))
        });
        let unproved = (proved, low.min(mark.reached));
        if unproved.0 < unproved.1 {
            let rows = store::count_rows(connection, partition, unproved.0, unproved.1).await?;
            report.expired += u64::try_from(rows).unwrap_or_default();
            report.note_deleted(&source.name(partition), unproved.0, unproved.1);
            passed.push(ProvenRange { partition, to: unproved.1, outcomes: BTreeMap::new() });
        }
        let range = Range { next: proved.max(low), end: mark.reached.min(high) };
        if range.next < range.end {
            left.insert(partition, range);
        }
    }
    // Advance the mark past records that Kafka has deleted, so that they are reported once.
    bounded(TRANSACTION_LIMIT, store::advance_marks(connection, &passed)).await?;
    while !left.is_empty() {
        let comparison = Comparison::new(source, stop, rate, beat);
        prove_stretches(comparison, connection, &mut left, &mut report).await?;
    }
    (report.acknowledged, report.outcomes) = bounded(TRANSACTION_LIMIT, store::mark_sums(connection)).await?;
    Ok(report)
}

/// Several runs with one client, as in one process.
pub(crate) async fn runs(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
    consumers: &[(&'static str, Vec<String>)],
    rounds: usize,
) -> Result<(), AuditError> {
    let mut source = Source::open(kafka)?;
    for _ in 0..rounds {
        let never = CancellationToken::new();
        let report = prove_new_from(&mut source, connection, consumers, None, &never, &|| {}).await?;
        store::set_last_run(connection, &report, Duration::ZERO).await?;
    }
    Ok(())
}

/// The SQL statements of a run that finds nothing new and updates the metrics.
pub(crate) async fn statements(
    connection: &mut PgConnection,
    consumers: &[(&'static str, Vec<String>)],
) -> Result<(), AuditError> {
    let topics: Vec<String> = consumers.iter().flat_map(|(_, topics)| topics).cloned().collect();
    cluster::current(connection).await?;
    let ids = riverlock_ledger::store::topic_ids_to_read(connection, &topics).await?;
    store::partition_marks(connection, consumers, &ids).await?;
    store::advance_marks(connection, &[]).await?;
    store::mark_sums(connection).await?;
    store::set_last_run(connection, &Report::default(), Duration::ZERO).await?;
    Ok(show(connection).await?)
}

/// Proves the next range of every partition, and advances the marks of those without a mismatch. A partition with a
/// mismatch is not processed further in this run.
async fn prove_stretches(
    mut comparison: Comparison<'_>,
    connection: &mut PgConnection,
    left: &mut HashMap<Partition, Range>,
    report: &mut Report,
) -> Result<(), AuditError> {
    let source = comparison.source;
    let mut stretches: Vec<(Partition, Range)> = Vec::with_capacity(left.len());
    for (&partition, range) in left.iter() {
        stretches.push((partition, Range { next: range.next, end: range.end.min(range.next + STRETCH_RECORDS) }));
    }
    comparison.read(connection, stretches.iter().copied().collect()).await?;

    let mut proved = Vec::new();
    for (partition, range) in stretches {
        (comparison.beat)();
        let counts = comparison.partitions.remove(&partition).unwrap_or_default();
        let rows = count_kept(report, connection, source, partition, range, &counts).await?;
        let found: i64 = counts.outcomes.values().sum();
        report.wrong += counts.wrong;
        if rows != found {
            let Range { next: from, end: to } = range;
            report.wrong(rows.abs_diff(found), || {
                format!("{} has {rows} rows from {from} to {to} for {found} records", source.name(partition))
            });
        }
        if counts.wrong > 0 || rows != found {
            left.remove(&partition);
            continue;
        }
        proved.push(ProvenRange { partition, to: range.end, outcomes: counts.outcomes });
        match left.get_mut(&partition) {
            Some(rest) if range.end < rest.end => rest.next = range.end,
            _ => drop(left.remove(&partition)),
        }
    }
    report.findings.append(&mut comparison.findings);
    report.findings.truncate(super::report::FINDINGS_MAX);
    bounded(TRANSACTION_LIMIT, store::advance_marks(connection, &proved)).await?;
    Ok(())
}
