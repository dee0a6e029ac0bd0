//! Orders for people who look.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{Mode, OrderId};
use serde::Serialize;
use sqlx::PgConnection;

use crate::domain::{OrderKey, Status};

/// How often an order that keeps changing is read before it is shown as it is.
const READS_MAX: u32 = 3;

/// An order with its lines.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Order)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct OrderView {
    pub order_id: String,
    #[schema(value_type = String, pattern = "^(live|test)$")]
    pub mode: Mode,
    #[schema(value_type = Status)]
    pub status: String,
    /// How often the order has changed.
    pub version: i32,
    /// Earliest time of each of Digital River's states, in the order of time.
    pub transitions: BTreeMap<String, DateTime<Utc>>,
    /// Types of the events that have been seen.
    pub seen: Vec<String>,
    pub anomalies: Vec<&'static str>,
    #[schema(value_type = crate::api::Details)]
    pub details: serde_json::Value,
    pub first_seen_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
    pub lines: Vec<LineView>,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Line)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct LineView {
    pub line_id: String,
    pub sku_id: Option<String>,
    pub quantity: Option<i64>,
    pub physical: Option<bool>,
    pub state: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub fulfilled_at: Option<DateTime<Utc>>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub returned_at: Option<DateTime<Utc>>,
}

/// The order of that id; two, the live one first, if there is one in each mode. None for what can be no order's id.
///
/// # Errors
/// When PostgreSQL refuses, or a row cannot be understood.
pub async fn find(connection: &mut PgConnection, order_id: &str) -> Result<Vec<OrderView>, Error> {
    let Ok(order_id) = OrderId::parse(order_id) else {
        return Ok(Vec::new());
    };
    let mut views = Vec::new();
    for mode in [Mode::Live, Mode::Test] {
        let key = OrderKey { order_id: order_id.clone(), mode };
        views.extend(find_one(connection, &key).await?);
    }
    Ok(views)
}

async fn find_one(connection: &mut PgConnection, key: &OrderKey) -> Result<Option<OrderView>, Error> {
    let mut tries = 0;
    loop {
        let Some(stored) = super::write::read(connection, std::slice::from_ref(key)).await?.remove(key) else {
            return Ok(None);
        };
        let row = sqlx::query!(
            "-- orders_times
             SELECT version, first_seen_at, changed_at FROM orders WHERE order_id = $1 AND live_mode = $2",
            key.order_id.as_str(),
            key.mode.is_live()
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        tries += 1;
        // An order that changed between the statements is read again, so that all parts are of one version.
        if row.version == stored.version || tries >= READS_MAX {
            return Ok(Some(OrderView::new(key, stored, row.first_seen_at, row.changed_at)));
        }
    }
}

impl OrderView {
    fn new(
        key: &OrderKey,
        stored: super::write::Stored,
        first_seen_at: DateTime<Utc>,
        changed_at: DateTime<Utc>,
    ) -> Self {
        let facts = stored.facts;
        Self {
            order_id: key.order_id.to_string(),
            mode: key.mode,
            status: facts.status().to_string(),
            version: stored.version,
            transitions: facts.transitions.iter().map(|(state, time)| (state.to_string(), *time)).collect(),
            anomalies: facts.anomalies().into_iter().map(crate::domain::Anomaly::as_str).collect(),
            details: serde_json::to_value(&facts.snapshot.content).unwrap_or_default(),
            first_seen_at,
            changed_at,
            lines: facts.lines.into_iter().map(|(line_id, line)| LineView::new(line_id.to_string(), line)).collect(),
            seen: facts.seen.into_iter().collect(),
        }
    }
}

impl LineView {
    fn new(line_id: String, line: crate::domain::LineFacts) -> Self {
        use riverlock_schemas::order_state::LineState;
        let reached = |state| line.transitions.get(&state).copied();
        Self {
            line_id,
            created_at: reached(LineState::Created),
            fulfilled_at: reached(LineState::Fulfilled),
            cancelled_at: reached(LineState::Cancelled),
            returned_at: reached(LineState::Returned),
            sku_id: line.snapshot.content.sku_id,
            quantity: line.snapshot.content.quantity,
            physical: line.snapshot.content.physical,
            state: line.snapshot.content.state,
        }
    }
}

/// How many orders have which status.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn count_by_status(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, Error> {
    let rows = sqlx::query!(
        r#"-- orders_by_status
           SELECT status, count(*) AS "count!" FROM orders GROUP BY status"#
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.status, u64::try_from(row.count).unwrap_or_default())).collect())
}

/// The status of each of these orders that is known.
///
/// # Errors
/// When PostgreSQL refuses.
pub async fn statuses(
    connection: &mut PgConnection,
    mode: Mode,
    order_ids: &[String],
) -> Result<BTreeMap<String, String>, Error> {
    let rows = sqlx::query!(
        "-- orders_statuses
         SELECT order_id, status FROM orders WHERE live_mode = $1 AND order_id = ANY($2)",
        mode.is_live(),
        order_ids
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.order_id, row.status)).collect())
}
