//! Queries on records that were not stored as reports.

use chrono::{DateTime, Utc};
use riverlock_ledger::Record;
use riverlock_schemas::Mode;
use serde::Serialize;
use sqlx::PgConnection;

use super::record;
use crate::NewReport;

/// Why a record did not become a report.
pub(super) struct Rejection<'a> {
    pub(super) outcome: &'static str,
    pub(super) code: &'a str,
    pub(super) detail: &'a str,
    /// The shipment, if it could be read.
    pub(super) new: Option<&'a NewReport>,
}

/// Stores a rejected record. Returns `false` if it was stored before.
pub(super) async fn reject(
    connection: &mut PgConnection,
    record: &Record,
    rejection: &Rejection<'_>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let new = rejection.new;
    let added = sqlx::query!(
        "-- shipment_rejections_add
         INSERT INTO shipment_rejections (topic_id, partition, record_offset, outcome, code, detail, order_id, live_mode,
             idempotency_key, payload, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
        record.topic_id,
        record.partition,
        record.offset,
        rejection.outcome,
        rejection.code,
        rejection.detail,
        new.map(|new| new.order_id.as_str()),
        new.map(|new| new.mode.is_live()),
        new.map(record::key),
        record.payload,
        now
    )
    .execute(connection)
    .await?;
    Ok(added.rows_affected() > 0)
}

/// A record that did not become a report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the columns of shipment_rejections are described in the migration")]
pub struct RejectionView {
    /// For a record of an earlier Kafka cluster: `<cluster id>/<topic>`.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub outcome: String,
    pub code: String,
    pub detail: String,
    pub order_id: Option<String>,
    pub live_mode: Option<bool>,
    pub idempotency_key: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl RejectionView {
    /// The order's mode; `None` if the record could not be read.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.live_mode.map(Mode::from_live)
    }
}

/// Returns rejected records, newest first.
pub async fn rejections(
    connection: &mut PgConnection,
    order_id: Option<&str>,
    limit: i64,
) -> Result<Vec<RejectionView>, sqlx::Error> {
    sqlx::query_as!(
        RejectionView,
        r#"-- shipment_rejections_list
           SELECT full_name AS "topic!", partition, record_offset AS "offset", outcome, code, detail, order_id, live_mode,
                  idempotency_key, created_at
           FROM shipment_rejections JOIN topic_names USING (topic_id)
           WHERE $1::text IS NULL OR order_id = $1
           ORDER BY created_at DESC, topic_id, partition, record_offset DESC LIMIT $2"#,
        order_id,
        limit
    )
    .fetch_all(connection)
    .await
}
