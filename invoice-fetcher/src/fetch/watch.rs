//! Gauges of the queue: due documents, documents without an account, and missing invoices.
//!
//! While PostgreSQL is unavailable, gauges do not keep their last values: counts become NaN, which Prometheus shows as a gap
//! and for which no comparison is true, and the age of the most overdue document keeps growing.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use riverlock_ledger::Error;
use riverlock_runtime::Context;
use riverlock_schemas::Mode;

use crate::{
    InvoiceFetcherConfig,
    fetch::worker::Fetcher,
    metrics as names,
    queue::{AGES, OpenCounts, missing},
};

/// Minimum interval between counts of the queue.
const INTERVAL: Duration = Duration::from_secs(5);

/// Minimum pause between slow counts, as a multiple of their duration: a large table is counted more rarely.
const PAUSE_FACTOR: u32 = 50;

/// Maximum time between heartbeats. Every statement of this task has its own time limit.
const BEAT_AGE_MAX: Duration = Duration::from_secs(300);

/// Counts until shutdown. Errors are logged when they begin and when they end, and do not end the task.
pub(crate) async fn run(
    fetcher: Arc<Fetcher>,
    config: InvoiceFetcherConfig,
    context: Context,
) -> Result<(), Infallible> {
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("invoice-watch", BEAT_AGE_MAX);
    component.ready();
    let mut watch = Watch::new(fetcher, config, context);
    while !soft.is_cancelled() {
        component.beat();
        watch.look().await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

pub(crate) struct Watch {
    fetcher: Arc<Fetcher>,
    config: InvoiceFetcherConfig,
    context: Context,
    /// How long the most overdue document has been due, and when that was counted.
    overdue: (Duration, Instant),
    /// When the counts that read whole tables are due.
    slow_at: Instant,
    /// Whether the last count failed.
    is_blind: bool,
    /// Modes for which waiting documents without an account were logged.
    logged_waiting: Vec<Mode>,
}

impl Watch {
    pub(crate) fn new(fetcher: Arc<Fetcher>, config: InvoiceFetcherConfig, context: Context) -> Self {
        let now = Instant::now();
        let overdue = (Duration::ZERO, now);
        Self { fetcher, config, context, overdue, slow_at: now, is_blind: false, logged_waiting: Vec::new() }
    }

    /// Counts once and sets the gauges, to NaN if counting failed.
    pub(crate) async fn look(&mut self) {
        match self.count().await {
            Ok(()) => {
                if std::mem::take(&mut self.is_blind) {
                    tracing::info!("the invoice queue is counted again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!(%error, "the invoice queue cannot be counted: {error}");
                }
                show_nothing();
                let (overdue, counted) = self.overdue;
                if !overdue.is_zero() {
                    gauge!(names::OLDEST_DUE).set((overdue + counted.elapsed()).as_secs_f64());
                }
            }
        }
    }

    async fn count(&mut self) -> Result<(), Error> {
        let waiting = self.fetcher.queue().waiting().await?;
        self.show_waiting(&waiting);
        if Instant::now() >= self.slow_at {
            let begun = Instant::now();
            let result = self.show_all().await;
            self.slow_at = Instant::now() + begun.elapsed() * PAUSE_FACTOR;
            result?;
        }
        gauge!(names::COUNTED).set(self.context.clock.now().timestamp() as f64);
        Ok(())
    }

    fn show_waiting(&mut self, waiting: &[OpenCounts]) {
        let has_account = |waiting: &&OpenCounts| self.fetcher.accounts.of(waiting.mode).is_some();
        let (fetched, unfetched): (Vec<&OpenCounts>, Vec<&OpenCounts>) = waiting.iter().partition(has_account);
        gauge!(names::DOCUMENTS, "state" => "due").set(waiting.iter().map(OpenCounts::documents).sum::<i64>() as f64);
        for (number, age) in AGES.into_iter().enumerate() {
            let due: i64 = fetched.iter().map(|waiting| waiting.due[number]).sum();
            gauge!(names::DUE_DOCUMENTS, "age" => age).set(due as f64);
        }
        let overdue = fetched.iter().map(|waiting| waiting.overdue).max().unwrap_or_default();
        self.overdue = (overdue, Instant::now());
        gauge!(names::OLDEST_DUE).set(overdue.as_secs_f64());
        for waiting in fetched {
            gauge!(names::WAITING_ACCOUNT, "mode" => waiting.mode.as_str()).set(0.0);
            self.logged_waiting.retain(|mode| *mode != waiting.mode);
        }
        for waiting in unfetched {
            let (mode, documents) = (waiting.mode, waiting.documents());
            gauge!(names::WAITING_ACCOUNT, "mode" => mode.as_str()).set(documents as f64);
            if documents > 0 && !self.logged_waiting.contains(&mode) {
                self.logged_waiting.push(mode);
                tracing::warn!(
                    "{documents} {mode} documents wait for an account: set invoice_fetcher.{mode}.api_key to download them"
                );
            }
        }
    }

    /// Sets the gauges whose counts read whole tables.
    async fn show_all(&self) -> Result<(), Error> {
        let ended = self.fetcher.queue().ended().await?;
        gauge!(names::DOCUMENTS, "state" => "stored").set(ended.stored as f64);
        gauge!(names::DOCUMENTS, "state" => "discarded").set(ended.discarded as f64);
        let (config, now) = (&self.config.missing, self.context.clock.now());
        let database = self.fetcher.queue().database();
        let missing = database.run(async |connection| missing::count(connection, config, now).await).await?;
        for (mode, orders) in missing {
            gauge!(names::MISSING_ORDERS, "mode" => mode.as_str()).set(orders as f64);
        }
        Ok(())
    }
}

fn show_nothing() {
    for state in names::STATES {
        gauge!(names::DOCUMENTS, "state" => state).set(f64::NAN);
    }
    for age in AGES {
        gauge!(names::DUE_DOCUMENTS, "age" => age).set(f64::NAN);
    }
    for mode in [Mode::Live, Mode::Test] {
        gauge!(names::WAITING_ACCOUNT, "mode" => mode.as_str()).set(f64::NAN);
        gauge!(names::MISSING_ORDERS, "mode" => mode.as_str()).set(f64::NAN);
    }
}
