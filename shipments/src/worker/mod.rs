//! Sends the due reports, several at the same time.

mod queue;
mod send;

use std::{convert::Infallible, sync::Arc, time::Duration};

use chrono::TimeDelta;
use metrics::{counter, gauge};
use riverlock_digital_river::Client;
use riverlock_ledger::{Error as LedgerError, PostgresConfig, postgres::bounded};
use riverlock_runtime::{Component, Context};
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::Instant};

use self::queue::{End, LeasedReport};
use crate::metrics as names;

/// How long a report is leased to a worker. Longer than a request may take with all attempts and waits, so that no
/// other worker reads back while the request is in flight.
const LEASE: TimeDelta = TimeDelta::minutes(10);

/// Most requests at the same time. With answers within a second they use the rate limit of live mode, 250 requests
/// per second.
const IN_FLIGHT_MAX: usize = 256;

/// Wait before looking for due reports again when there was none.
const IDLE: Duration = Duration::from_secs(1);

/// Wait after an error of PostgreSQL.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// How long the first result waits for others that are stored in the same transaction.
const GATHER: Duration = Duration::from_millis(100);

/// Time between two counts of the reports.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Time without a heartbeat after which the process counts as stuck; longer than storing results may take.
const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);

/// Sends due reports until the shutdown; requests in flight are then awaited. Errors are logged and retried; it never
/// returns an error.
pub async fn run(client: Client, postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe();
    let component = context.health.register_beating("shipments", STUCK_AFTER);
    // Reports can be delayed without harm, so the process is ready regardless.
    component.ready();
    let modes = client.modes().map(riverlock_schemas::Mode::is_live).collect();
    let worker = Worker {
        client: Arc::new(client),
        postgres,
        context,
        component,
        modes,
        connection: None,
        in_flight: JoinSet::new(),
        ends: Vec::new(),
        counted: None,
    };
    worker.run().await;
    Ok(())
}

struct Worker {
    client: Arc<Client>,
    postgres: PostgresConfig,
    context: Context,
    component: Component,
    /// The modes that have an API key.
    modes: Vec<bool>,
    connection: Option<PgConnection>,
    in_flight: JoinSet<End>,
    /// Results that are not stored yet.
    ends: Vec<End>,
    counted: Option<Instant>,
}

impl Worker {
    async fn run(mut self) {
        let soft = self.context.shutdown.soft().clone();
        loop {
            self.component.beat();
            let stopping = soft.is_cancelled();
            if stopping && self.in_flight.is_empty() && self.ends.is_empty() {
                return;
            }
            let wait = match self.step(stopping).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!("cannot report shipments: {error}");
                    self.connection = None;
                    if stopping {
                        // The next worker reads these reports back when their leases have expired.
                        return;
                    }
                    self.component.rest(ERROR_WAIT, &soft).await;
                    continue;
                }
            };
            self.gather(wait, stopping).await;
        }
    }

    /// Stores results and leases due reports. Returns how long to wait for the next result.
    async fn step(&mut self, stopping: bool) -> Result<Duration, LedgerError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.postgres.connect_as("shipments").await?,
        };
        self.store(&mut connection).await?;
        if stopping {
            self.connection = Some(connection);
            return Ok(IDLE);
        }
        self.count(&mut connection).await?;
        let leased = self.lease(&mut connection).await?;
        self.connection = Some(connection);
        let found = !leased.is_empty();
        for report in leased {
            let (client, clock) = (Arc::clone(&self.client), Arc::clone(&self.context.clock));
            self.in_flight.spawn(async move { send::exchange(&client, clock.as_ref(), report).await });
        }
        Ok(if found { Duration::ZERO } else { IDLE })
    }

    /// Waits until a request has ended, at most as long as given; then collects further results for a moment.
    async fn gather(&mut self, wait: Duration, stopping: bool) {
        let soft = self.context.shutdown.soft().clone();
        let full = self.in_flight.len() >= IN_FLIGHT_MAX;
        let until = Instant::now() + if full { IDLE } else { wait };
        tokio::select! {
            ended = self.in_flight.join_next(), if !self.in_flight.is_empty() => self.ended(ended),
            () = tokio::time::sleep_until(until) => {}
            () = soft.cancelled(), if !stopping => {}
        }
        if self.ends.is_empty() {
            return;
        }
        let until = Instant::now() + GATHER;
        while self.ends.len() < IN_FLIGHT_MAX && !self.in_flight.is_empty() {
            match tokio::time::timeout_at(until, self.in_flight.join_next()).await {
                Ok(ended) => self.ended(ended),
                Err(_) => return,
            }
        }
    }

    fn ended(&mut self, ended: Option<Result<End, tokio::task::JoinError>>) {
        match ended {
            Some(Ok(end)) => {
                let label = if end.request.status.is_some_and(|status| status < 300) { "ok" } else { "failed" };
                counter!(names::REQUESTS, "operation" => end.request.operation, "result" => label).increment(1);
                self.ends.push(end);
            }
            // The report is read back when its lease has expired.
            Some(Err(error)) => tracing::error!("a request about a shipment panicked: {error}"),
            None => {}
        }
    }

    /// Stores the results. They are kept if PostgreSQL fails.
    async fn store(&mut self, connection: &mut PgConnection) -> Result<(), LedgerError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let now = self.context.clock.now();
        let kept = bounded(self.postgres.answer_limit(), queue::end(connection, &self.ends, now)).await?;
        for end in self.ends.drain(..) {
            tell(&end, kept.contains(&end.leased.report_id));
        }
        Ok(())
    }

    async fn lease(&self, connection: &mut PgConnection) -> Result<Vec<LeasedReport>, LedgerError> {
        let free = IN_FLIGHT_MAX.saturating_sub(self.in_flight.len());
        if free == 0 {
            return Ok(Vec::new());
        }
        let now = self.context.clock.now();
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let lease = async { Ok(queue::lease(connection, &self.modes, limit, now, now + LEASE).await?) };
        match bounded(self.postgres.answer_limit(), lease).await {
            // Another worker leased another report of one of the orders concurrently. The next attempt sees it.
            Err(LedgerError::Sql(sqlx::Error::Database(error))) if error.is_unique_violation() => Ok(Vec::new()),
            leased => leased,
        }
    }

    /// Counts the reports by state, at an interval.
    async fn count(&mut self, connection: &mut PgConnection) -> Result<(), LedgerError> {
        if self.counted.is_some_and(|at| at.elapsed() < COUNT_INTERVAL) {
            return Ok(());
        }
        self.counted = Some(Instant::now());
        let counts = async { Ok::<_, LedgerError>(queue::counts(connection).await?) };
        let counts = bounded(self.postgres.answer_limit(), counts).await?;
        for state in names::STATES {
            let count = counts.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
            gauge!(names::REPORTS, "state" => state).set(count as f64);
        }
        Ok(())
    }
}

/// Logs the outcome of a request about a report.
fn tell(end: &End, kept: bool) {
    let (report_id, order_id) = (end.leased.report_id, &end.leased.report.order_id);
    match end.state {
        _ if !kept => {
            tracing::warn!(
                "shipment report {report_id}: the lease had expired and was taken over; nothing was changed"
            );
        }
        "reported" => tracing::info!("shipment report {report_id} of order {order_id} was reported"),
        "refused" => tracing::error!(
            "shipment report {report_id} of order {order_id} was rejected: {}",
            end.error.as_deref().or(end.code.as_deref()).unwrap_or_default()
        ),
        "unresolved" => tracing::error!(
            "shipment report {report_id} of order {order_id}: it is unknown whether Digital River has it; \
             use `riverlock shipments settle`"
        ),
        _ => {}
    }
}
