//! Read model of orders for the CLI and the API.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{
    LineId, Mode, OrderId,
    events::{charge_event::OperationKey, order_state::LineState},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{
    domain::{Anomaly, EfnStatus, Facts, LineFacts, OperationFacts, OrderKey, Quantities, ShipmentFacts, Status},
    store::row::StoredOrder,
};

/// Maximum number of reads of an order that changes meanwhile, before a possibly inconsistent view is returned.
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
    /// Number of changes of the order.
    pub version: i32,
    /// Earliest time of each of Digital River's states, by state.
    pub transitions: BTreeMap<String, DateTime<Utc>>,
    /// Types of the order's events.
    pub seen: Vec<String>,
    /// Whether `order.accepted` was received. The name is that of Digital River's Salesforce app.
    pub ofi_received: bool,
    /// `open`, `pending` or `completed`: how much of the order was reported as shipped or cancelled. The name is that of the
    /// same app. Derived from Digital River's events.
    pub efn_status: EfnStatus,
    /// Whether `order.complete` was received. The name is that of the same app.
    pub ocn_received: bool,
    pub anomalies: Vec<&'static str>,
    #[schema(value_type = OrderDetails)]
    pub details: serde_json::Value,
    pub first_seen_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
    pub lines: Vec<LineView>,
    /// Fulfillments that were reported to Digital River.
    pub shipments: Vec<ShipmentView>,
    /// Charges, captures, cancels and refunds.
    pub operations: Vec<OperationView>,
}

/// Fields of the newest snapshot. Other stored fields are not shown.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderDetails {
    /// Digital River's name of the order's state.
    pub state: Option<String>,
    /// `review_opened`, `blocked` or `passed`.
    pub fraud_state: Option<String>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// The amount that the customer pays, in `currency`: a decimal number as text.
    pub total_amount: Option<String>,
    /// Digital River's id of the customer.
    pub customer_id: Option<String>,
    /// The Digital River company that sells.
    pub selling_entity_id: Option<String>,
    /// The merchant's own id of the order.
    pub upstream_id: Option<String>,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Line)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct LineView {
    pub line_id: String,
    pub sku_id: Option<String>,
    /// Units ordered.
    pub quantity: Option<i64>,
    /// Units shipped or delivered.
    pub fulfilled_quantity: i64,
    /// Pieces never to be shipped.
    pub cancelled_quantity: i64,
    pub physical: Option<bool>,
    pub state: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub fulfilled_at: Option<DateTime<Utc>>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub returned_at: Option<DateTime<Utc>>,
}

/// A fulfillment: one report of what was shipped.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Shipment)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipmentView {
    pub fulfillment_id: String,
    pub created_at: Option<DateTime<Utc>>,
    pub shipment_id: Option<String>,
    pub tracking_company: Option<String>,
    pub tracking_number: Option<String>,
    pub tracking_url: Option<String>,
    pub lines: Vec<ShipmentLineView>,
}

/// What a fulfillment says of a line.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ShipmentLine)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ShipmentLineView {
    pub line_id: String,
    pub fulfilled_quantity: i64,
    pub cancelled_quantity: i64,
}

/// A payment operation: a charge, a capture, a cancel or a refund.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct OperationView {
    pub kind: &'static str,
    pub charge_id: String,
    pub operation_id: String,
    #[schema(value_type = Option<String>)]
    pub amount: Option<Decimal>,
    pub currency: Option<String>,
    pub failure_code: Option<String>,
    pub fulfillment_id: Option<String>,
    pub pending_at: Option<DateTime<Utc>>,
    pub complete_at: Option<DateTime<Utc>>,
    pub failed_at: Option<DateTime<Utc>>,
}

/// Finds the orders with this id: one per mode, the live one first. Empty if the id is unknown or invalid.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable, or a row is invalid.
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
        // An order that changed between the statements is read again, so that all parts belong to one version.
        if row.version == stored.version || tries >= READS_MAX {
            return Ok(Some(OrderView::new(key, stored, row.first_seen_at, row.changed_at)));
        }
    }
}

impl OrderView {
    fn new(key: &OrderKey, stored: StoredOrder, first_seen_at: DateTime<Utc>, changed_at: DateTime<Utc>) -> Self {
        let facts = stored.facts;
        Self {
            order_id: key.order_id.to_string(),
            mode: key.mode,
            status: facts.status().to_string(),
            version: stored.version,
            transitions: facts.transitions.iter().map(|(state, time)| (state.to_string(), *time)).collect(),
            ofi_received: facts.ofi_received(),
            efn_status: facts.efn_status(),
            ocn_received: facts.ocn_received(),
            anomalies: facts.anomalies().into_iter().map(Anomaly::as_str).collect(),
            details: serde_json::to_value(&facts.snapshot.content).unwrap_or_default(),
            first_seen_at,
            changed_at,
            lines: line_views(&facts),
            shipments: facts
                .shipments
                .into_iter()
                .map(|(id, known)| ShipmentView::new(id.to_string(), known))
                .collect(),
            operations: facts.operations.into_iter().map(|(key, known)| OperationView::new(key, known)).collect(),
            seen: facts.seen.into_iter().collect(),
        }
    }
}

/// Every line of the order, including lines that only a fulfillment names.
fn line_views(facts: &Facts) -> Vec<LineView> {
    let line = |(line_id, quantities): (&LineId, Quantities)| {
        LineView::new(line_id.to_string(), facts.lines.get(line_id).cloned().unwrap_or_default(), quantities)
    };
    facts.quantities().into_iter().map(line).collect()
}

impl LineView {
    fn new(line_id: String, line: LineFacts, quantities: Quantities) -> Self {
        let reached = |state| line.transitions.get(&state).copied();
        Self {
            line_id,
            created_at: reached(LineState::Created),
            fulfilled_at: reached(LineState::Fulfilled),
            cancelled_at: reached(LineState::Cancelled),
            returned_at: reached(LineState::Returned),
            sku_id: line.snapshot.content.sku_id,
            quantity: quantities.ordered,
            fulfilled_quantity: quantities.fulfilled,
            cancelled_quantity: quantities.cancelled,
            physical: line.snapshot.content.physical,
            state: line.snapshot.content.state,
        }
    }
}

impl ShipmentView {
    fn new(fulfillment_id: String, known: ShipmentFacts) -> Self {
        let lines = known.lines.into_iter().map(|(line_id, line)| ShipmentLineView {
            line_id: line_id.to_string(),
            fulfilled_quantity: line.fulfilled,
            cancelled_quantity: line.cancelled,
        });
        Self {
            fulfillment_id,
            created_at: known.created_at,
            shipment_id: known.tracking.shipment_id,
            tracking_company: known.tracking.company,
            tracking_number: known.tracking.number,
            tracking_url: known.tracking.url,
            lines: lines.collect(),
        }
    }
}

impl OperationView {
    fn new(key: OperationKey, known: OperationFacts) -> Self {
        Self {
            kind: key.kind.as_str(),
            charge_id: key.charge_id,
            operation_id: key.operation_id,
            amount: known.details.amount,
            currency: known.details.currency,
            failure_code: known.details.failure_code,
            fulfillment_id: known.details.fulfillment_id,
            pending_at: known.pending_at,
            complete_at: known.complete_at,
            failed_at: known.failed_at,
        }
    }
}

/// Counts orders by status.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
pub async fn count_by_status(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, Error> {
    let rows = sqlx::query!(
        r#"-- orders_by_status
           SELECT status, count(*) AS "count!" FROM orders GROUP BY status"#
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.status, u64::try_from(row.count).unwrap_or_default())).collect())
}

/// The statuses of those of these orders that are stored.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable.
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
