//! The background job: compares at an interval, in one process at a time.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{counter, gauge};
use riverlock_digital_river::{Client, Priority};
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::{Component, Context, kafka::KafkaConfig};
use riverlock_schemas::Mode;

use crate::{
    config::ReconcileConfig, error::ReconcileError, events::Options, listing::windows::Range, metrics as names,
    reconciler::Reconciler, report::Report,
};

/// Wait after a failed run.
const RETRY_WAIT: Duration = Duration::from_secs(60);

/// Time without a heartbeat after which the process counts as stuck, in addition to `catch_up`; longer than a page may
/// take with all its attempts.
const STUCK_AFTER: Duration = Duration::from_secs(15 * 60);

/// Settings and connections of the background job.
#[derive(Clone)]
pub struct Job {
    /// Settings of the comparison.
    pub config: ReconcileConfig,
    /// Digital River's API.
    pub client: Client,
    /// Kafka, for writing missing events.
    pub kafka: Arc<KafkaConfig>,
    /// PostgreSQL, which has the outcomes.
    pub postgres: PostgresConfig,
    /// The consumers with the topics that each reads.
    pub consumers: Vec<(&'static str, Vec<String>)>,
    /// The modes and their event types.
    pub types: Vec<(Mode, Vec<String>)>,
}

impl Job {
    /// Compares at the configured interval until the shutdown. Errors are logged, counted and retried.
    pub async fn run(self, context: Context) -> Result<(), std::convert::Infallible> {
        let Some(interval) = self.config.interval else {
            context.shutdown.soft().cancelled().await;
            return Ok(());
        };
        names::describe(self.types.iter().map(|(mode, _)| *mode));
        let soft = context.shutdown.soft().clone();
        let component = context.health.register_beating("reconcile", STUCK_AFTER + self.config.catch_up);
        // Comparisons can be delayed without harm, so the process is ready regardless.
        component.ready();
        while !soft.is_cancelled() {
            let mut wait = interval;
            for (mode, types) in &self.types {
                component.beat();
                match self.once(&context, &component, *mode, types).await {
                    Ok(report) => succeeded(&report, context.clock.now()),
                    // Another process is doing the same work.
                    Err(ReconcileError::Running(_) | ReconcileError::Stopped) => {}
                    Err(error) => {
                        counter!(names::RUNS, "mode" => mode.as_str(), "result" => "error").increment(1);
                        tracing::warn!("cannot compare {mode} data with Digital River's events: {error}");
                        wait = interval.min(RETRY_WAIT);
                    }
                }
            }
            component.rest(wait, &soft).await;
        }
        Ok(())
    }

    async fn once(
        &self,
        context: &Context,
        component: &Component,
        mode: Mode,
        types: &[String],
    ) -> Result<Report, ReconcileError> {
        let mut connection = self.postgres.connect_as("reconcile").await?;
        let delta = |duration: Duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        let to = context.clock.now() - delta(self.config.settle);
        let options = Options {
            mode,
            types: types.to_vec(),
            range: Range { from: to - delta(self.config.lookback), to },
            window: delta(self.config.window),
            overlap: delta(self.config.overlap),
            catch_up: self.config.catch_up,
            apply: self.config.apply,
            resume: true,
            priority: Priority::Background,
        };
        let reconciler = Reconciler {
            client: &self.client,
            kafka: &self.kafka,
            consumers: &self.consumers,
            answer_limit: self.postgres.answer_limit(),
            clock: context.clock.as_ref(),
            stop: context.shutdown.soft(),
        };
        reconciler.run(&mut connection, &options, &mut |_| component.beat()).await
    }
}

fn succeeded(report: &Report, now: DateTime<Utc>) {
    let mode = report.mode.as_str();
    counter!(names::RUNS, "mode" => mode, "result" => "ok").increment(1);
    counter!(names::MISSING, "mode" => mode).increment(report.missing);
    counter!(names::WRITTEN, "mode" => mode).increment(report.written);
    gauge!(names::LAST_SUCCESS, "mode" => mode).set(now.timestamp() as f64);
    gauge!(names::COVERED, "mode" => mode).set((report.to - report.from).as_seconds_f64());
    if report.missing > 0 {
        tracing::warn!(
            "{} events with {mode} data were never delivered; {} of them were fetched and written",
            report.missing,
            report.written
        );
    }
}
