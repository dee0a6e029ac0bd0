//! Parts that only some orders have: charge operations and shipments. Batches without them execute no statement for them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{
    FulfillmentId, LineId,
    events::{
        charge_event::{OperationDetails, OperationKey, OperationKind},
        event_type::{CHARGE_PREFIX, FULFILLMENT_CREATED},
        fulfillment_event::{ReportedQuantities, Tracking},
    },
};
use rust_decimal::Decimal;
use sqlx::PgConnection;

use crate::{
    domain::{Facts, OperationFacts, OrderKey, ShipmentFacts},
    store::row::{Change, StoredOrder, key},
};

type Time = Option<DateTime<Utc>>;

/// Adds operations and shipments to orders that were just read. The types of an order's events tell whether it has any.
pub(super) async fn read(
    connection: &mut PgConnection,
    orders: &mut BTreeMap<OrderKey, StoredOrder>,
) -> Result<(), Error> {
    let (order_ids, live_modes) =
        keys_where(orders, |facts| facts.seen.iter().any(|name| name.starts_with(CHARGE_PREFIX)));
    if !order_ids.is_empty() {
        let rows = sqlx::query_file_as!(OperationRow, "src/store/charge_operations_read.sql", &order_ids, &live_modes)
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            let (key, operation, facts) = row.into_operation()?;
            if let Some(order) = orders.get_mut(&key) {
                order.facts.operations.insert(operation, facts);
            }
        }
    }
    let (order_ids, live_modes) = keys_where(orders, |facts| facts.seen.contains(FULFILLMENT_CREATED));
    if !order_ids.is_empty() {
        let rows = sqlx::query_file_as!(ShipmentRow, "src/store/shipments_read.sql", &order_ids, &live_modes)
            .fetch_all(connection)
            .await?;
        for row in rows {
            row.add_to(orders)?;
        }
    }
    Ok(())
}

fn keys_where(orders: &BTreeMap<OrderKey, StoredOrder>, wanted: impl Fn(&Facts) -> bool) -> (Vec<String>, Vec<bool>) {
    let keys = orders.iter().filter(|(_, order)| wanted(&order.facts)).map(|(key, _)| key);
    keys.map(|key| (key.order_id.as_str().to_owned(), key.mode.is_live())).unzip()
}

/// Writes those operations and shipments that changed.
pub(super) async fn write(connection: &mut PgConnection, changes: &[Change]) -> Result<(), Error> {
    write_operations(connection, changes).await?;
    write_shipments(connection, changes).await
}

async fn write_operations(connection: &mut PgConnection, changes: &[Change]) -> Result<(), Error> {
    let rows: Vec<(&OrderKey, &OperationKey, &OperationFacts)> = changes
        .iter()
        .flat_map(|change| change.after.operations.iter().map(move |(operation, facts)| (change, operation, facts)))
        .filter(|(change, operation, facts)| change.before.operations.get(operation) != Some(facts))
        .map(|(change, operation, facts)| (&change.key, operation, facts))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let details = || rows.iter().map(|(_, _, facts)| &facts.details);
    sqlx::query_file!(
        "src/store/charge_operations_write.sql",
        &rows.iter().map(|(key, _, _)| key.order_id.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(key, _, _)| key.mode.is_live()).collect::<Vec<_>>(),
        &rows.iter().map(|(_, operation, _)| operation.kind.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, operation, _)| operation.charge_id.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, operation, _)| operation.operation_id.as_str()).collect::<Vec<_>>() as _,
        &details().map(|details| details.amount).collect::<Vec<_>>() as _,
        &details().map(|details| details.currency.as_deref()).collect::<Vec<_>>() as _,
        &details().map(|details| details.failure_code.as_deref()).collect::<Vec<_>>() as _,
        &details().map(|details| details.fulfillment_id.as_deref()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, _, facts)| facts.pending_at).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, _, facts)| facts.complete_at).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, _, facts)| facts.failed_at).collect::<Vec<_>>() as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_shipments(connection: &mut PgConnection, changes: &[Change]) -> Result<(), Error> {
    let changed = changes.iter().flat_map(|change| {
        let shipments =
            change.after.shipments.iter().filter(move |(id, facts)| change.before.shipments.get(id) != Some(facts));
        shipments.map(move |(id, facts)| (&change.key, id, facts))
    });
    let rows: Vec<(&OrderKey, &FulfillmentId, &ShipmentFacts, &LineId, &ReportedQuantities)> = changed
        .flat_map(|(key, id, facts)| facts.lines.iter().map(move |(line_id, line)| (key, id, facts, line_id, line)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let tracking = || rows.iter().map(|(_, _, facts, _, _)| &facts.tracking);
    sqlx::query_file!(
        "src/store/shipments_write.sql",
        &rows.iter().map(|(key, ..)| key.order_id.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(key, ..)| key.mode.is_live()).collect::<Vec<_>>(),
        &rows.iter().map(|(_, id, ..)| id.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, _, _, line_id, _)| line_id.as_str()).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, _, _, _, line)| line.fulfilled).collect::<Vec<_>>(),
        &rows.iter().map(|(_, _, _, _, line)| line.cancelled).collect::<Vec<_>>(),
        &rows.iter().map(|(_, _, facts, _, _)| facts.created_at).collect::<Vec<_>>() as _,
        &tracking().map(|tracking| tracking.shipment_id.as_deref()).collect::<Vec<_>>() as _,
        &tracking().map(|tracking| tracking.company.as_deref()).collect::<Vec<_>>() as _,
        &tracking().map(|tracking| tracking.number.as_deref()).collect::<Vec<_>>() as _,
        &tracking().map(|tracking| tracking.url.as_deref()).collect::<Vec<_>>() as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

struct OperationRow {
    order_id: String,
    live_mode: bool,
    kind: String,
    charge_id: String,
    operation_id: String,
    amount: Option<Decimal>,
    currency: Option<String>,
    failure_code: Option<String>,
    fulfillment_id: Option<String>,
    pending_at: Time,
    complete_at: Time,
    failed_at: Time,
}

impl OperationRow {
    fn into_operation(self) -> Result<(OrderKey, OperationKey, OperationFacts), Error> {
        let id = format!("{}/{}/{}/{}", self.order_id, self.kind, self.charge_id, self.operation_id);
        let inconsistent = |reason: String| Error::Inconsistent { table: "charge_operations", id: id.clone(), reason };
        let kind = OperationKind::parse(&self.kind).ok_or_else(|| inconsistent("the kind is unknown".to_owned()))?;
        let facts = OperationFacts {
            pending_at: self.pending_at,
            complete_at: self.complete_at,
            failed_at: self.failed_at,
            details: OperationDetails {
                amount: self.amount,
                currency: self.currency,
                failure_code: self.failure_code,
                fulfillment_id: self.fulfillment_id,
            },
        };
        let operation = OperationKey { kind, charge_id: self.charge_id, operation_id: self.operation_id };
        Ok((key(self.order_id, self.live_mode).map_err(inconsistent)?, operation, facts))
    }
}

struct ShipmentRow {
    order_id: String,
    live_mode: bool,
    fulfillment_id: String,
    line_id: String,
    fulfilled_quantity: i64,
    cancelled_quantity: i64,
    created_at: Time,
    shipment_id: Option<String>,
    tracking_company: Option<String>,
    tracking_number: Option<String>,
    tracking_url: Option<String>,
}

impl ShipmentRow {
    /// Adds the row to its order. Each row is one line of a shipment and repeats the shipment's own fields.
    fn add_to(self, orders: &mut BTreeMap<OrderKey, StoredOrder>) -> Result<(), Error> {
        let id = format!("{}/{}/{}", self.order_id, self.fulfillment_id, self.line_id);
        let inconsistent = |reason: String| Error::Inconsistent { table: "shipments", id: id.clone(), reason };
        let key = key(self.order_id, self.live_mode).map_err(inconsistent)?;
        let fulfillment_id =
            FulfillmentId::parse(self.fulfillment_id).map_err(|error| inconsistent(format!("the id {error}")))?;
        let line_id = LineId::parse(self.line_id).map_err(|error| inconsistent(format!("the line id {error}")))?;
        let Some(order) = orders.get_mut(&key) else {
            return Ok(());
        };
        let shipment = order.facts.shipments.entry(fulfillment_id).or_insert_with(|| ShipmentFacts {
            created_at: self.created_at,
            tracking: Tracking {
                shipment_id: self.shipment_id,
                company: self.tracking_company,
                number: self.tracking_number,
                url: self.tracking_url,
            },
            lines: BTreeMap::new(),
        });
        let reported = ReportedQuantities { fulfilled: self.fulfilled_quantity, cancelled: self.cancelled_quantity };
        shipment.lines.insert(line_id, reported);
        Ok(())
    }
}
