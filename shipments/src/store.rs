//! Queries on reports, their lines and their requests.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_digital_river::fulfillments::{Line, Report};
use riverlock_schemas::Mode;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{check::KnownOrder, report::NewReport};

/// Longest result of a request that is logged, in characters.
const RESULT_CHARS_MAX: usize = 1_000;

/// Takes a lock until the end of the transaction, so that shipments of one order of this install are stored one after
/// the other.
pub(crate) async fn lock_order(connection: &mut PgConnection, order_id: &str, mode: Mode) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- shipment_order_lock
         SELECT pg_advisory_xact_lock(hashtextextended(
             'riverlock/' || coalesce(current_schema(), '') || '/shipments/' || $1 || '/' || $2, 0))",
        mode.as_str(),
        order_id
    )
    .fetch_one(connection)
    .await
    .map(drop)
}

/// Returns the report with this key, and the hash of its content.
pub(crate) async fn by_key(
    connection: &mut PgConnection,
    new: &NewReport,
) -> Result<Option<(Uuid, Vec<u8>)>, sqlx::Error> {
    let row = sqlx::query!(
        "-- shipment_report_by_key
         SELECT report_id, content_sha256 FROM shipment_reports
         WHERE order_id = $1 AND live_mode = $2 AND idempotency_key = $3",
        new.order_id,
        new.mode.is_live(),
        new.idempotency_key
    );
    Ok(row.fetch_optional(connection).await?.map(|row| (row.report_id, row.content_sha256)))
}

/// Returns the facts of an order; `None` if there is no such order.
pub(crate) async fn known(
    connection: &mut PgConnection,
    order_id: &str,
    mode: Mode,
) -> Result<Option<KnownOrder>, sqlx::Error> {
    let order = sqlx::query!(
        "-- shipment_order
         SELECT status, accepted_at FROM orders WHERE order_id = $1 AND live_mode = $2",
        order_id,
        mode.is_live()
    );
    let Some(order) = order.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let lines = sqlx::query!(
        r#"-- shipment_order_lines
           SELECT line_id AS "line_id!", quantity FROM order_lines WHERE order_id = $1 AND live_mode = $2"#,
        order_id,
        mode.is_live()
    );
    let lines = lines.fetch_all(&mut *connection).await?.into_iter().map(|row| (row.line_id, row.quantity));
    // Fulfillments of this install's own reports also arrive as events and are counted once.
    let reported = sqlx::query!(
        r#"-- shipment_order_reported
           SELECT line_id AS "line_id!", sum(quantity)::bigint AS "quantity!" FROM (
               SELECT s.line_id, s.fulfilled_quantity + s.cancelled_quantity AS quantity FROM shipments s
               WHERE s.order_id = $1 AND s.live_mode = $2 AND NOT EXISTS (
                   SELECT FROM shipment_reports r
                   WHERE r.order_id = $1 AND r.live_mode = $2 AND r.fulfillment_id = s.fulfillment_id)
               UNION ALL
               SELECT l.line_id, l.quantity + l.cancel_quantity FROM shipment_report_lines l
               JOIN shipment_reports r USING (report_id)
               WHERE r.order_id = $1 AND r.live_mode = $2 AND r.state NOT IN ('refused', 'withdrawn')
           ) AS parts GROUP BY line_id"#,
        order_id,
        mode.is_live()
    );
    let reported = reported.fetch_all(connection).await?.into_iter().map(|row| (row.line_id, row.quantity));
    Ok(Some(KnownOrder {
        status: order.status,
        accepted: order.accepted_at.is_some(),
        lines: lines.collect(),
        reported: reported.collect::<BTreeMap<_, _>>(),
    }))
}

/// Stores a report in the state `waiting`.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    report_id: Uuid,
    new: &NewReport,
    content_sha256: &[u8],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- shipment_report_insert
         INSERT INTO shipment_reports (report_id, order_id, live_mode, idempotency_key, content_sha256, source, created_by,
             tracking_company, tracking_number, tracking_url, state, next_attempt_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'waiting', $11, $11)",
        report_id,
        new.order_id,
        new.mode.is_live(),
        new.idempotency_key,
        content_sha256,
        new.source.as_str(),
        new.created_by,
        new.tracking_company.as_deref(),
        new.tracking_number.as_deref(),
        new.tracking_url.as_deref(),
        now
    )
    .execute(&mut *connection)
    .await?;
    let ids: Vec<String> = new.lines.iter().map(|line| line.line_id.clone()).collect();
    let quantities: Vec<i64> = new.lines.iter().map(|line| line.quantity).collect();
    let cancelled: Vec<i64> = new.lines.iter().map(|line| line.cancel_quantity).collect();
    sqlx::query!(
        "-- shipment_report_lines_insert
         INSERT INTO shipment_report_lines (report_id, line_id, quantity, cancel_quantity)
         SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[])",
        report_id,
        &ids,
        &quantities,
        &cancelled
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A report that is leased to a worker.
#[derive(Clone, Debug)]
pub(crate) struct LeasedReport {
    pub(crate) report: Report,
    pub(crate) report_id: Uuid,
    pub(crate) mode: Mode,
    pub(crate) lease_id: Uuid,
    /// Whether it is to be sent; otherwise the fulfillments are read back.
    pub(crate) to_send: bool,
    /// Number of reporting requests, including the next one.
    pub(crate) attempts: i32,
    /// Number of times the fulfillments were read back, including the next one.
    pub(crate) read_backs: i32,
    /// Digital River's code when it rejected the report because lines are finished.
    pub(crate) last_code: Option<String>,
}

/// Leases the report that has been due longest, of one of these modes. A waiting report becomes `sending` before the
/// request, so that it is read back if the worker crashes. Orders with another report in flight are skipped.
pub(crate) async fn lease(
    connection: &mut PgConnection,
    live_modes: &[bool],
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<LeasedReport>, sqlx::Error> {
    let lease_id = Uuid::new_v4();
    let row = sqlx::query!(
        r#"-- shipment_report_lease
           WITH chosen AS (
               SELECT report_id, state FROM shipment_reports r
               WHERE state IN ('waiting', 'sending', 'unknown') AND next_attempt_at <= $2 AND live_mode = ANY($1)
                 AND (state <> 'waiting' OR NOT EXISTS (
                     SELECT FROM shipment_reports other
                     WHERE other.order_id = r.order_id AND other.live_mode = r.live_mode
                       AND (other.state IN ('sending', 'unknown', 'unresolved')
                            OR (other.state = 'waiting' AND other.report_id < r.report_id))))
               ORDER BY next_attempt_at, report_id LIMIT 1 FOR UPDATE SKIP LOCKED
           )
           UPDATE shipment_reports r SET
               state = CASE chosen.state WHEN 'waiting' THEN 'sending' ELSE 'unknown' END,
               attempts = attempts + (chosen.state = 'waiting')::int,
               read_backs = CASE chosen.state WHEN 'waiting' THEN 0 ELSE read_backs + 1 END,
               lease_id = $3, next_attempt_at = $4
           FROM chosen WHERE r.report_id = chosen.report_id
           RETURNING r.report_id, r.order_id, r.live_mode, r.attempts, r.read_backs, r.tracking_company, r.tracking_number,
                     r.tracking_url, r.last_code, r.state = 'sending' AS "to_send!""#,
        live_modes,
        now,
        lease_id,
        until
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let report = Report {
        report_id: row.report_id.to_string(),
        order_id: row.order_id,
        lines: lines(connection, row.report_id).await?,
        tracking_company: row.tracking_company,
        tracking_number: row.tracking_number,
        tracking_url: row.tracking_url,
    };
    Ok(Some(LeasedReport {
        report,
        report_id: row.report_id,
        mode: Mode::from_live(row.live_mode),
        lease_id,
        to_send: row.to_send,
        attempts: row.attempts,
        read_backs: row.read_backs,
        last_code: row.last_code,
    }))
}

/// Returns a report's lines by id.
pub(crate) async fn lines(connection: &mut PgConnection, report_id: Uuid) -> Result<Vec<Line>, sqlx::Error> {
    let rows = sqlx::query!(
        "-- shipment_report_lines_of
         SELECT line_id, quantity, cancel_quantity FROM shipment_report_lines WHERE report_id = $1 ORDER BY line_id",
        report_id
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    let line = |(line_id, quantity, cancel_quantity)| Line { line_id, quantity, cancel_quantity };
    Ok(rows.map(|row| line((row.line_id, row.quantity, row.cancel_quantity))).collect())
}

/// Returns the fulfillments of the order's other reports.
pub(crate) async fn fulfillments_of_others(
    connection: &mut PgConnection,
    leased: &LeasedReport,
) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- shipment_reports_fulfillments
           SELECT fulfillment_id AS "fulfillment_id!" FROM shipment_reports
           WHERE order_id = $1 AND live_mode = $2 AND report_id <> $3 AND fulfillment_id IS NOT NULL"#,
        leased.report.order_id,
        leased.mode.is_live(),
        leased.report_id
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| row.fulfillment_id).collect())
}

/// The new state of a report.
#[derive(Clone, Debug)]
pub(crate) struct End<'a> {
    pub(crate) state: &'static str,
    pub(crate) fulfillment_id: Option<&'a str>,
    pub(crate) next_attempt_at: DateTime<Utc>,
    pub(crate) code: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
}

/// Stores the new state of a report; returns whether the worker still held the lease.
pub(crate) async fn end(
    connection: &mut PgConnection,
    leased: &LeasedReport,
    end: &End<'_>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let ended = matches!(end.state, "reported" | "refused");
    let changed = sqlx::query!(
        "-- shipment_report_end
         UPDATE shipment_reports SET state = $3, fulfillment_id = $4, next_attempt_at = $5, last_code = $6, last_error = $7,
             ended_at = CASE WHEN $8 THEN $9::timestamptz END, lease_id = NULL
         WHERE report_id = $1 AND lease_id = $2 AND state IN ('sending', 'unknown')",
        leased.report_id,
        leased.lease_id,
        end.state,
        end.fulfillment_id,
        end.next_attempt_at,
        end.code,
        end.error,
        ended,
        now
    );
    Ok(changed.execute(connection).await?.rows_affected() == 1)
}

/// A request about a report, for the log.
pub(crate) struct Request<'a> {
    pub(crate) operation: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) result: &'a str,
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        operation: &'static str,
        status: Option<u16>,
        request_id: Option<&'a str>,
        result: &'a str,
    ) -> Self {
        Self { operation, status, request_id, result }
    }
}

/// Adds a request to the log.
pub(crate) async fn log(
    connection: &mut PgConnection,
    report_id: Uuid,
    request: &Request<'_>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let result: String = request.result.chars().take(RESULT_CHARS_MAX).collect();
    sqlx::query!(
        "-- shipment_report_request
         INSERT INTO shipment_report_requests (report_id, requested_at, operation, status, request_id, result)
         VALUES ($1, $2, $3, $4, $5, $6)",
        report_id,
        now,
        request.operation,
        request.status.map(i32::from),
        request.request_id,
        result
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Counts reports by state, except reported and withdrawn ones.
pub(crate) async fn counts(connection: &mut PgConnection) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- shipment_reports_count
           SELECT state, count(*) AS "count!" FROM shipment_reports
           WHERE state IN ('waiting', 'sending', 'unknown', 'refused', 'unresolved') GROUP BY state"#
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.state, row.count)).collect())
}
