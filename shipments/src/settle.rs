//! Decisions of operators about reports that Digital River rejected or that are unresolved.

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, outbox};
use riverlock_schemas::Mode;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::messages::Subject;

/// An operator's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Digital River has the report, as this fulfillment.
    Reported {
        /// The fulfillment's id.
        fulfillment_id: String,
    },
    /// Digital River does not have it: send it again.
    SendAgain,
    /// Do not report it.
    Withdrawn,
}

impl Decision {
    /// The report's state after the decision.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::Reported { .. } => "reported",
            Self::SendAgain => "waiting",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Whether the decision is possible for a report in `state`: any for `refused` and `unresolved`, only withdrawal
    /// for `waiting`.
    #[must_use]
    pub fn fits(&self, state: &str) -> bool {
        matches!(state, "refused" | "unresolved") || (state == "waiting" && *self == Self::Withdrawn)
    }
}

/// Applies a decision to a refused or unresolved report, or withdraws a waiting one; with the message for other systems
/// if Digital River has it. Returns whether the report was in such a state.
///
/// # Errors
/// When PostgreSQL fails. Nothing is changed then.
pub async fn settle(
    connection: &mut PgConnection,
    report_id: Uuid,
    decision: &Decision,
    by: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let fulfillment_id = match decision {
        Decision::Reported { fulfillment_id } => Some(fulfillment_id.as_str()),
        Decision::SendAgain | Decision::Withdrawn => None,
    };
    let mut transaction = connection.begin().await?;
    let changed = sqlx::query!(
        "-- shipment_report_settle
         UPDATE shipment_reports SET state = $2, fulfillment_id = $3, next_attempt_at = $4, settled_by = $5, settled_reason = $6,
             ended_at = CASE WHEN $2 <> 'waiting' THEN $4::timestamptz END, last_code = NULL, lease_id = NULL
         WHERE report_id = $1
           AND (state IN ('refused', 'unresolved') OR (state = 'waiting' AND $2 = 'withdrawn'))
         RETURNING order_id, live_mode, idempotency_key",
        report_id,
        decision.state(),
        fulfillment_id,
        now,
        by,
        reason
    );
    let Some(row) = changed.fetch_optional(&mut *transaction).await? else { return Ok(false) };
    let subject = Subject {
        order_id: &row.order_id,
        mode: Mode::from_live(row.live_mode),
        report_id,
        idempotency_key: &row.idempotency_key,
    };
    let message = fulfillment_id.and_then(|fulfillment_id| subject.reported(fulfillment_id));
    outbox::add(&mut transaction, message.as_slice(), now).await?;
    transaction.commit().await?;
    Ok(true)
}
