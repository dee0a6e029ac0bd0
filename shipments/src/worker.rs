//! Sends the reports that are due, one after the other.

use std::{convert::Infallible, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{counter, gauge};
use riverlock_digital_river::{Client, Error, fulfillments};
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::Context;
use sqlx::PgConnection;

use crate::{
    decide::{Next, ReadBack, after_read_back, after_report, backoff},
    metrics as names,
    store::{self, End, Leased, Request},
};

/// How long a report belongs to the worker that took it. Longer than a request may take with all its attempts and waits, so
/// that no other worker reads back while the request is still on its way.
const LEASE: TimeDelta = TimeDelta::minutes(10);

/// How long nothing is looked for when nothing was due.
const IDLE: Duration = Duration::from_secs(1);

/// How long after an error of PostgreSQL.
const TROUBLE: Duration = Duration::from_secs(5);

/// How often the reports are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Longest text of an error that is stored, characters.
const ERROR_CHARS_MAX: usize = 1_000;

/// Sends due reports until the shutdown.
///
/// # Errors
/// Never: trouble is logged and waited out.
pub async fn run(client: Client, postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe();
    let soft = context.shutdown.soft().clone();
    let (mut connection, mut counted) = (None, None::<std::time::Instant>);
    while !soft.is_cancelled() {
        let wait = match step(&client, &postgres, &context, &mut connection, &mut counted).await {
            Ok(true) => continue,
            Ok(false) => IDLE,
            Err(error) => {
                tracing::warn!("shipments are not reported at the moment: PostgreSQL: {error}");
                connection = None;
                TROUBLE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

/// Deals with one due report. Says whether there was one.
async fn step(
    client: &Client,
    postgres: &PostgresConfig,
    context: &Context,
    connection: &mut Option<PgConnection>,
    counted: &mut Option<std::time::Instant>,
) -> Result<bool, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(postgres.connect().await?),
    };
    if counted.is_none_or(|at| at.elapsed() >= COUNT_INTERVAL) {
        *counted = Some(std::time::Instant::now());
        let counts = store::counts(connection).await?;
        for state in names::STATES {
            let count = counts.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
            gauge!(names::REPORTS, "state" => state).set(count as f64);
        }
    }
    let modes: Vec<bool> = client.modes().map(riverlock_schemas::Mode::is_live).collect();
    let now = context.clock.now();
    let leased = match store::lease(connection, &modes, now, now + LEASE).await {
        // Another worker took another report of the order in the same moment.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(true),
        leased => leased?,
    };
    let Some(leased) = leased else { return Ok(false) };
    if leased.to_send {
        send(client, connection, context, &leased).await?;
    } else {
        read_back(client, connection, context, &leased).await?;
    }
    Ok(true)
}

async fn send(
    client: &Client,
    connection: &mut PgConnection,
    context: &Context,
    leased: &Leased,
) -> Result<(), sqlx::Error> {
    let result = fulfillments::create(client, leased.mode, &leased.report).await;
    let now = context.clock.now();
    match result {
        Ok((fulfillment, request_id)) => {
            log(connection, leased, "report", Some(201), request_id.as_deref(), "reported", now).await?;
            finish(connection, leased, Next::Reported { fulfillment_id: fulfillment.id }, None, now).await
        }
        Err(error) => {
            let text = error.to_string();
            log(connection, leased, "report", error.status(), error.request_id.as_deref(), &text, now).await?;
            finish(connection, leased, after_report(&error, leased.attempts), Some(&error), now).await
        }
    }
}

async fn read_back(
    client: &Client,
    connection: &mut PgConnection,
    context: &Context,
    leased: &Leased,
) -> Result<(), sqlx::Error> {
    let found = fulfillments::of_order(client, leased.mode, &leased.report.order_id).await;
    let now = context.clock.now();
    let (found, request_id) = match found {
        Ok(found) => found,
        Err(error) => {
            let text = error.to_string();
            log(connection, leased, "read_back", error.status(), error.request_id.as_deref(), &text, now).await?;
            let wait = backoff(leased.read_backs);
            return finish(connection, leased, Next::ReadBack(wait), Some(&error), now).await;
        }
    };
    let others = store::fulfillments_of_others(connection, leased).await?;
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
    log(connection, leased, "read_back", Some(200), request_id.as_deref(), &result, now).await?;
    finish(connection, leased, next, None, now).await
}

/// What follows, in a word.
fn name(next: &Next) -> &'static str {
    match next {
        Next::Reported { .. } => "this report is among them",
        Next::SendAgain(_) => "this report is not among them and is sent again",
        Next::ReadBack(_) => "this report is not among them yet",
        Next::Refused => "this report is not among them and was refused",
        Next::Unresolved => "one of them may be this report",
    }
}

async fn log(
    connection: &mut PgConnection,
    leased: &Leased,
    operation: &'static str,
    status: Option<u16>,
    request_id: Option<&str>,
    result: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let label = if status.is_some_and(|status| status < 300) { "ok" } else { "failed" };
    counter!(names::REQUESTS, "operation" => operation, "result" => label).increment(1);
    let result: String = result.chars().take(ERROR_CHARS_MAX).collect();
    store::log(connection, leased.report_id, &Request { operation, status, request_id, result: &result }, now).await
}

async fn finish(
    connection: &mut PgConnection,
    leased: &Leased,
    next: Next,
    error: Option<&Error>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let later = |wait: Duration| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::zero());
    let text = error.map(|error| error.to_string().chars().take(ERROR_CHARS_MAX).collect::<String>());
    // The code of a refusal stays with the report until it was read back; a report that is sent again has none.
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
    let kept = store::end(connection, leased, &end, now).await?;
    let (report_id, order_id) = (leased.report_id, &leased.report.order_id);
    match state {
        _ if !kept => tracing::warn!("shipment report {report_id}: its lease had passed on; nothing was changed"),
        "reported" => tracing::info!("shipment report {report_id} of order {order_id} is reported"),
        "refused" => tracing::error!(
            "shipment report {report_id} of order {order_id} is refused: {}",
            text.as_deref().or(code).unwrap_or_default()
        ),
        "unresolved" => tracing::error!(
            "shipment report {report_id} of order {order_id}: whether Digital River has it cannot be told; \
             `riverlock shipments settle` decides"
        ),
        _ => {}
    }
    Ok(())
}
