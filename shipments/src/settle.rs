//! What a person decides about reports that Digital River refused, or that cannot be resolved.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Digital River has it, as this fulfillment.
    Reported {
        /// The fulfillment's id.
        fulfillment_id: String,
    },
    /// Digital River does not have it: it is sent again.
    SendAgain,
    /// It is not to be reported.
    Withdrawn,
}

/// Carries out a decision about a refused or unresolved report, or withdraws one that waits. Says whether the report was in such
/// a state.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn settle(
    connection: &mut PgConnection,
    report_id: Uuid,
    decision: &Decision,
    by: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let (state, fulfillment_id) = match decision {
        Decision::Reported { fulfillment_id } => ("reported", Some(fulfillment_id.as_str())),
        Decision::SendAgain => ("waiting", None),
        Decision::Withdrawn => ("withdrawn", None),
    };
    let changed = sqlx::query!(
        "-- shipment_report_settle
         UPDATE shipment_reports SET state = $2, fulfillment_id = $3, next_attempt_at = $4, settled_by = $5, settled_reason = $6,
             ended_at = CASE WHEN $2 <> 'waiting' THEN $4::timestamptz END, last_code = NULL, lease_id = NULL
         WHERE report_id = $1
           AND (state IN ('refused', 'unresolved') OR (state = 'waiting' AND $2 = 'withdrawn'))",
        report_id,
        state,
        fulfillment_id,
        now,
        by,
        reason
    );
    Ok(changed.execute(connection).await?.rows_affected() == 1)
}
