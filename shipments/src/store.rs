//! Queries that store shipments and read their lines.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_digital_river::fulfillments::Line;
use riverlock_schemas::Mode;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{check::KnownOrder, report::NewReport};

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
