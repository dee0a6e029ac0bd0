//! Queries on the queue of reports: leases, results and the log of requests.

use chrono::{DateTime, Utc};
use riverlock_digital_river::fulfillments::{Line, Report};
use riverlock_ledger::{Error as LedgerError, outbox};
use riverlock_schemas::Mode;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::messages::Subject;

/// Longest result of a request that is logged, in characters.
const RESULT_CHARS_MAX: usize = 1_000;

/// A report that is leased to a worker.
#[derive(Clone, Debug)]
pub(crate) struct LeasedReport {
    pub(crate) report: Report,
    pub(crate) report_id: Uuid,
    pub(crate) mode: Mode,
    pub(crate) idempotency_key: String,
    pub(crate) lease_id: Uuid,
    /// Whether it is to be sent; otherwise the fulfillments are read back.
    pub(crate) to_send: bool,
    /// Number of reporting requests, including the next one.
    pub(crate) attempts: i32,
    /// Number of times the fulfillments were read back, including the next one.
    pub(crate) read_backs: i32,
    /// Digital River's code when it rejected the report because lines are finished.
    pub(crate) last_code: Option<String>,
    /// Fulfillments of the order's other reports. Only read for reading back.
    pub(crate) others: Vec<String>,
}

/// Leases at most `limit` reports of these modes, those that have been due longest first. A waiting report becomes
/// `sending` before the request, so that it is read back if the worker crashes. Of an order's waiting reports only the
/// oldest is leased, and none while another report of the order is in flight.
pub(crate) async fn lease(
    connection: &mut PgConnection,
    live_modes: &[bool],
    limit: i64,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<LeasedReport>, sqlx::Error> {
    let lease_id = Uuid::new_v4();
    let rows = sqlx::query_as!(
        LeasedRow,
        r#"-- shipment_report_lease
           WITH chosen AS (
               SELECT report_id, state FROM shipment_reports r
               WHERE state IN ('waiting', 'sending', 'unknown') AND next_attempt_at <= $2 AND live_mode = ANY($1)
                 AND (state <> 'waiting' OR NOT EXISTS (
                     SELECT FROM shipment_reports other
                     WHERE other.order_id = r.order_id AND other.live_mode = r.live_mode
                       AND (other.state IN ('sending', 'unknown', 'unresolved')
                            OR (other.state = 'waiting' AND other.report_id < r.report_id))))
               ORDER BY next_attempt_at, report_id LIMIT $5 FOR UPDATE SKIP LOCKED
           ), leased AS (
               UPDATE shipment_reports r SET
                   state = CASE chosen.state WHEN 'waiting' THEN 'sending' ELSE 'unknown' END,
                   attempts = attempts + (chosen.state = 'waiting')::int,
                   read_backs = CASE chosen.state WHEN 'waiting' THEN 0 ELSE read_backs + 1 END,
                   lease_id = $3, next_attempt_at = $4
               FROM chosen WHERE r.report_id = chosen.report_id
               RETURNING r.report_id, r.order_id, r.live_mode, r.idempotency_key, r.attempts, r.read_backs,
                         r.tracking_company, r.tracking_number, r.tracking_url, r.last_code, r.state = 'sending' AS to_send
           )
           SELECT leased.report_id AS "report_id!", leased.order_id AS "order_id!", leased.live_mode AS "live_mode!",
                  leased.idempotency_key AS "idempotency_key!", leased.attempts AS "attempts!",
                  leased.read_backs AS "read_backs!", leased.tracking_company, leased.tracking_number,
                  leased.tracking_url, leased.last_code, leased.to_send AS "to_send!",
                  lines.ids AS "ids!", lines.quantities AS "quantities!", lines.cancelled AS "cancelled!",
                  CASE WHEN to_send THEN '{}' ELSE ARRAY(
                      SELECT o.fulfillment_id FROM shipment_reports o
                      WHERE o.order_id = leased.order_id AND o.live_mode = leased.live_mode
                        AND o.report_id <> leased.report_id AND o.fulfillment_id IS NOT NULL
                  ) END AS "others!"
           FROM leased CROSS JOIN LATERAL (
               SELECT array_agg(line_id ORDER BY line_id) AS ids, array_agg(quantity ORDER BY line_id) AS quantities,
                      array_agg(cancel_quantity ORDER BY line_id) AS cancelled
               FROM shipment_report_lines l WHERE l.report_id = leased.report_id
           ) lines"#,
        live_modes,
        now,
        lease_id,
        until,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.leased(lease_id)).collect())
}

/// A row of the query that leases.
struct LeasedRow {
    report_id: Uuid,
    order_id: String,
    live_mode: bool,
    idempotency_key: String,
    attempts: i32,
    read_backs: i32,
    tracking_company: Option<String>,
    tracking_number: Option<String>,
    tracking_url: Option<String>,
    last_code: Option<String>,
    to_send: bool,
    ids: Vec<String>,
    quantities: Vec<i64>,
    cancelled: Vec<i64>,
    others: Vec<String>,
}

impl LeasedRow {
    fn leased(self, lease_id: Uuid) -> LeasedReport {
        let quantities = self.quantities.into_iter().zip(self.cancelled);
        let lines = self.ids.into_iter().zip(quantities);
        let line =
            |(line_id, (quantity, cancel_quantity)): (String, (i64, i64))| Line { line_id, quantity, cancel_quantity };
        LeasedReport {
            report: Report {
                report_id: self.report_id.to_string(),
                order_id: self.order_id,
                lines: lines.map(line).collect(),
                tracking_company: self.tracking_company,
                tracking_number: self.tracking_number,
                tracking_url: self.tracking_url,
            },
            report_id: self.report_id,
            mode: Mode::from_live(self.live_mode),
            idempotency_key: self.idempotency_key,
            lease_id,
            to_send: self.to_send,
            attempts: self.attempts,
            read_backs: self.read_backs,
            last_code: self.last_code,
            others: self.others,
        }
    }
}

/// A request about a report, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) operation: &'static str,
    pub(crate) at: DateTime<Utc>,
    pub(crate) status: Option<u16>,
    pub(crate) request_id: Option<String>,
    pub(crate) result: String,
}

/// The end of a lease: the request that was sent, and the report's new state.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) leased: LeasedReport,
    pub(crate) request: Request,
    pub(crate) state: &'static str,
    pub(crate) fulfillment_id: Option<String>,
    pub(crate) next_attempt_at: DateTime<Utc>,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
}

impl End {
    fn subject(&self) -> Subject<'_> {
        Subject {
            order_id: &self.leased.report.order_id,
            mode: self.leased.mode,
            report_id: self.leased.report_id,
            idempotency_key: &self.leased.idempotency_key,
        }
    }
}

/// Stores the new states of reports, their requests and the messages about them in one transaction. Returns the ids of
/// the reports whose lease the worker still held; the others are unchanged.
pub(crate) async fn end(
    connection: &mut PgConnection,
    ends: &[End],
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, LedgerError> {
    let mut transaction = connection.begin().await?;
    log(&mut transaction, ends).await?;
    let kept = sqlx::query_scalar!(
        "-- shipment_report_end
         UPDATE shipment_reports r SET state = n.state, fulfillment_id = n.fulfillment_id,
             next_attempt_at = n.next_attempt_at, last_code = n.code, last_error = n.error,
             ended_at = CASE WHEN n.state IN ('reported', 'refused') THEN $8::timestamptz END, lease_id = NULL
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[])
             AS n (report_id, lease_id, state, fulfillment_id, next_attempt_at, code, error)
         WHERE r.report_id = n.report_id AND r.lease_id = n.lease_id AND r.state IN ('sending', 'unknown')
         RETURNING r.report_id",
        &ends.iter().map(|end| end.leased.report_id).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.leased.lease_id).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.state).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.fulfillment_id.as_deref()).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.next_attempt_at).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.code.as_deref()).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.error.as_deref()).collect::<Vec<_>>() as _,
        now
    )
    .fetch_all(&mut *transaction)
    .await?;
    let changed = ends.iter().filter(|end| kept.contains(&end.leased.report_id));
    let messages: Vec<_> = changed
        .filter_map(|end| match (end.state, &end.fulfillment_id) {
            ("reported", Some(fulfillment_id)) => end.subject().reported(fulfillment_id),
            ("refused", _) => {
                let detail = end.error.as_deref().unwrap_or(&end.request.result);
                end.subject().refused(end.leased.attempts, end.code.as_deref(), detail)
            }
            _ => None,
        })
        .collect();
    outbox::add(&mut transaction, &messages, now).await?;
    transaction.commit().await?;
    Ok(kept)
}

/// Adds requests to the log.
async fn log(connection: &mut PgConnection, ends: &[End]) -> Result<(), sqlx::Error> {
    let result = |end: &End| end.request.result.chars().take(RESULT_CHARS_MAX).collect::<String>();
    sqlx::query!(
        "-- shipment_report_request
         INSERT INTO shipment_report_requests (report_id, requested_at, operation, status, request_id, result)
         SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::integer[], $5::text[], $6::text[])",
        &ends.iter().map(|end| end.leased.report_id).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.request.at).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.request.operation).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.request.status.map(i32::from)).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.request.request_id.as_deref()).collect::<Vec<_>>() as _,
        &ends.iter().map(result).collect::<Vec<_>>(),
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
