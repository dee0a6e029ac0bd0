//! Sends the due reports, one after the other.

use std::{convert::Infallible, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{counter, gauge};
use riverlock_digital_river::{Client, Error, fulfillments};
use riverlock_ledger::{Error as LedgerError, PostgresConfig, postgres::bounded};
use riverlock_runtime::Context;
use sqlx::PgConnection;

use crate::{
    decide::{Next, ReadBack, after_read_back, after_report, backoff},
    metrics as names,
    store::{self, End, LeasedReport, Request},
};

/// How long a report is leased to a worker. Longer than a request may take with all attempts and waits, so that no
/// other worker reads back while the request is in flight.
const LEASE: TimeDelta = TimeDelta::minutes(10);

/// Wait before looking for due reports again when there was none.
const IDLE: Duration = Duration::from_secs(1);

/// Wait after an error of PostgreSQL.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// Time between two counts of the reports.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Time without a heartbeat after which the process counts as stuck; longer than a report may take.
const STUCK_AFTER: Duration = Duration::from_secs(15 * 60);

/// Longest error text that is stored, in characters.
const ERROR_CHARS_MAX: usize = 1_000;

/// Sends due reports until the shutdown. Errors are logged and retried; it never returns an error.
pub async fn run(client: Client, postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe();
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("shipments", STUCK_AFTER);
    // Reports can be delayed without harm, so the process is ready regardless.
    component.ready();
    let worker = Worker { client, postgres, context };
    let (mut connection, mut counted) = (None, None::<std::time::Instant>);
    while !soft.is_cancelled() {
        component.beat();
        let wait = match worker.step(&mut connection, &mut counted).await {
            Ok(true) => continue,
            Ok(false) => IDLE,
            Err(error) => {
                tracing::warn!("cannot report shipments: {error}");
                connection = None;
                ERROR_WAIT
            }
        };
        component.rest(wait, &soft).await;
    }
    Ok(())
}

struct Worker {
    client: Client,
    postgres: PostgresConfig,
    context: Context,
}

impl Worker {
    /// Limits the wait for PostgreSQL's answer.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LedgerError> {
        bounded(self.postgres.answer_limit(), async { Ok(work.await?) }).await
    }

    /// Processes one due report. Returns whether there was one.
    async fn step(
        &self,
        connection: &mut Option<PgConnection>,
        counted: &mut Option<std::time::Instant>,
    ) -> Result<bool, LedgerError> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(self.postgres.connect_as("shipments").await?),
        };
        if counted.is_none_or(|at| at.elapsed() >= COUNT_INTERVAL) {
            *counted = Some(std::time::Instant::now());
            let counts = self.bounded(store::counts(connection)).await?;
            for state in names::STATES {
                let count = counts.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
                gauge!(names::REPORTS, "state" => state).set(count as f64);
            }
        }
        let modes: Vec<bool> = self.client.modes().map(riverlock_schemas::Mode::is_live).collect();
        let now = self.context.clock.now();
        let leased = match self.bounded(store::lease(connection, &modes, now, now + LEASE)).await {
            // Another worker leased another report of the order concurrently.
            Err(LedgerError::Sql(sqlx::Error::Database(error))) if error.is_unique_violation() => return Ok(true),
            leased => leased?,
        };
        let Some(leased) = leased else { return Ok(false) };
        if leased.to_send {
            self.send(connection, &leased).await?;
        } else {
            self.read_back(connection, &leased).await?;
        }
        Ok(true)
    }

    async fn send(&self, connection: &mut PgConnection, leased: &LeasedReport) -> Result<(), LedgerError> {
        let result = fulfillments::create(&self.client, leased.mode, &leased.report).await;
        let now = self.context.clock.now();
        match result {
            Ok((fulfillment, request_id)) => {
                let request = Request::new("report", Some(201), request_id.as_deref(), "reported");
                self.log(connection, leased, &request, now).await?;
                self.finish(connection, leased, Next::Reported { fulfillment_id: fulfillment.id }, None, now).await
            }
            Err(error) => {
                let text = error.to_string();
                let request = Request::new("report", error.status(), error.request_id.as_deref(), &text);
                self.log(connection, leased, &request, now).await?;
                self.finish(connection, leased, after_report(&error, leased.attempts), Some(&error), now).await
            }
        }
    }

    async fn read_back(&self, connection: &mut PgConnection, leased: &LeasedReport) -> Result<(), LedgerError> {
        let found = fulfillments::of_order(&self.client, leased.mode, &leased.report.order_id).await;
        let now = self.context.clock.now();
        let (found, request_id) = match found {
            Ok(found) => found,
            Err(error) => {
                let text = error.to_string();
                let request = Request::new("read_back", error.status(), error.request_id.as_deref(), &text);
                self.log(connection, leased, &request, now).await?;
                let wait = backoff(leased.read_backs);
                return self.finish(connection, leased, Next::ReadBack(wait), Some(&error), now).await;
            }
        };
        let others = self.bounded(store::fulfillments_of_others(connection, leased)).await?;
        let next = after_read_back(&ReadBack {
            report_id: &leased.report.report_id,
            lines: &leased.report.lines,
            found: &found,
            others: &others,
            read_backs: leased.read_backs,
            refused: leased.last_code.is_some(),
            sent_before: leased.attempts > 1,
        });
        let result = format!("{} fulfillments of the order: {}", found.len(), name(&next));
        let request = Request::new("read_back", Some(200), request_id.as_deref(), &result);
        self.log(connection, leased, &request, now).await?;
        self.finish(connection, leased, next, None, now).await
    }

    async fn log(
        &self,
        connection: &mut PgConnection,
        leased: &LeasedReport,
        request: &Request<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let label = if request.status.is_some_and(|status| status < 300) { "ok" } else { "failed" };
        counter!(names::REQUESTS, "operation" => request.operation, "result" => label).increment(1);
        self.bounded(store::log(connection, leased.report_id, request, now)).await
    }

    async fn finish(
        &self,
        connection: &mut PgConnection,
        leased: &LeasedReport,
        next: Next,
        error: Option<&Error>,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let later = |wait: Duration| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::zero());
        let text = error.map(|error| error.to_string().chars().take(ERROR_CHARS_MAX).collect::<String>());
        // The code of a rejection stays with the report until it is read back; it is cleared when the report is sent
        // again.
        let conflict = error.filter(|error| error.status() == Some(409)).map(Error::code);
        let code = conflict.or_else(|| leased.last_code.as_deref().filter(|_| !matches!(next, Next::SendAgain(_))));
        let (state, at) = match &next {
            Next::Reported { .. } => ("reported", now),
            Next::SendAgain(wait) => ("waiting", later(*wait)),
            Next::ReadBack(wait) => ("unknown", later(*wait)),
            Next::Refused => ("refused", now),
            Next::Unresolved => ("unresolved", now),
        };
        let fulfillment_id = match &next {
            Next::Reported { fulfillment_id } => Some(fulfillment_id.as_str()),
            _ => None,
        };
        let end = End { state, fulfillment_id, next_attempt_at: at, code, error: text.as_deref() };
        let kept = self.bounded(store::end(connection, leased, &end, now)).await?;
        let (report_id, order_id) = (leased.report_id, &leased.report.order_id);
        match state {
            _ if !kept => tracing::warn!(
                "shipment report {report_id}: the lease had expired and was taken over; nothing was changed"
            ),
            "reported" => tracing::info!("shipment report {report_id} of order {order_id} was reported"),
            "refused" => tracing::error!(
                "shipment report {report_id} of order {order_id} was rejected: {}",
                text.as_deref().or(code).unwrap_or_default()
            ),
            "unresolved" => tracing::error!(
                "shipment report {report_id} of order {order_id}: it is unknown whether Digital River has it; \
                 use `riverlock shipments settle`"
            ),
            _ => {}
        }
        Ok(())
    }
}

/// Describes a decision in the log of requests.
fn name(next: &Next) -> &'static str {
    match next {
        Next::Reported { .. } => "this report is among them",
        Next::SendAgain(_) => "this report is not among them and is sent again",
        Next::ReadBack(_) => "this report is not among them yet",
        Next::Refused => "this report is not among them and was rejected",
        Next::Unresolved => "one of them may be this report",
    }
}
