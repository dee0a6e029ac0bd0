//! Reads and writes the orders of a batch.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::events::order_state::OrderState;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    domain::{Facts, OrderKey, Snapshot, Stamp},
    store::row::{Change, StoredOrder, Time, key, known},
};

use super::{
    FiredEffects,
    lines::{self, Lines},
    parts,
};

/// Separates the items of a list that is passed as one text; no item contains a control character.
const SEPARATOR: &str = "\u{1f}";

/// Reads the orders without locking them. Concurrent writers are rare, and [`write`] detects them by the version. Charges and
/// shipments may be newer than the order.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable, or a row is invalid.
pub(crate) async fn read(
    connection: &mut PgConnection,
    keys: &[OrderKey],
) -> Result<BTreeMap<OrderKey, StoredOrder>, Error> {
    let (order_ids, live_modes) = columns(keys);
    let rows = sqlx::query_file_as!(OrderRow, "src/store/orders_read.sql", &order_ids as _, &live_modes)
        .fetch_all(&mut *connection)
        .await?;
    with_parts(connection, rows).await
}

fn columns(keys: &[OrderKey]) -> (Vec<&str>, Vec<bool>) {
    keys.iter().map(|key| (key.order_id.as_str(), key.mode.is_live())).unzip()
}

async fn with_parts(
    connection: &mut PgConnection,
    rows: Vec<OrderRow>,
) -> Result<BTreeMap<OrderKey, StoredOrder>, Error> {
    let mut orders = rows.into_iter().map(OrderRow::into_stored).collect::<Result<_, _>>()?;
    parts::read(connection, &mut orders).await?;
    Ok(orders)
}

/// Writes the orders, and those of their charges and shipments that changed.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable, or when another transaction has inserted or changed one of the orders
/// since it was read.
pub(crate) async fn write(connection: &mut PgConnection, changes: &[Change], now: DateTime<Utc>) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let facts = || changes.iter().map(|change| &change.after);
    let reached = |state: OrderState| facts().map(|facts| facts.reached(state)).collect::<Vec<Time>>();
    let written = sqlx::query_file!(
        "src/store/orders_write.sql",
        &changes.iter().map(|change| change.key.order_id.as_str()).collect::<Vec<_>>() as _,
        &changes.iter().map(|change| change.key.mode.is_live()).collect::<Vec<_>>(),
        &changes.iter().map(|change| change.version).collect::<Vec<_>>(),
        &facts().map(|facts| facts.status().as_str()).collect::<Vec<_>>() as _,
        &facts().map(|facts| join(&facts.seen)).collect::<Vec<_>>(),
        &reached(OrderState::PendingPayment) as _,
        &reached(OrderState::InReview) as _,
        &reached(OrderState::Accepted) as _,
        &reached(OrderState::Fulfilled) as _,
        &reached(OrderState::Complete) as _,
        &reached(OrderState::Blocked) as _,
        &reached(OrderState::Cancelled) as _,
        &reached(OrderState::Returned) as _,
        &reached(OrderState::Dispute) as _,
        &facts().map(|facts| join(&facts.unknown_states)).collect::<Vec<_>>(),
        &facts().map(|facts| facts.conflicted).collect::<Vec<_>>(),
        &facts().map(|facts| facts.snapshot.stamp.updated_at).collect::<Vec<_>>() as _,
        &facts().map(|facts| facts.snapshot.stamp.created_at).collect::<Vec<_>>() as _,
        &facts().map(|facts| facts.snapshot.stamp.event_id.as_str()).collect::<Vec<_>>() as _,
        &facts().map(|facts| json(&facts.snapshot.content)).collect::<Vec<_>>(),
        &facts().map(|facts| json(&Lines(facts))).collect::<Vec<_>>(),
        now,
        &changes.iter().map(|change| change.fired.as_json()).collect::<Vec<_>>() as _,
    )
    .execute(&mut *connection)
    .await?;
    if written.rows_affected() != changes.len() as u64 {
        return Err(Error::LostRace("an order"));
    }
    parts::write(connection, changes).await
}

/// Checks that orders still have these versions.
///
/// # Errors
/// When PostgreSQL returns an error or is unavailable, or when another transaction has changed one of the orders.
pub(crate) async fn check_versions(connection: &mut PgConnection, orders: &[(OrderKey, i32)]) -> Result<(), Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let same = sqlx::query_scalar!(
        r#"-- orders_check_versions
           SELECT count(*) AS "same!" FROM orders
           JOIN unnest($1::text[], $2::boolean[], $3::integer[]) AS n (order_id, live_mode, version)
               USING (order_id, live_mode, version)"#,
        &orders.iter().map(|(key, _)| key.order_id.as_str()).collect::<Vec<_>>() as _,
        &orders.iter().map(|(key, _)| key.mode.is_live()).collect::<Vec<_>>(),
        &orders.iter().map(|(_, version)| *version).collect::<Vec<_>>(),
    );
    let same = same.fetch_one(connection).await?;
    if usize::try_from(same) == Ok(orders.len()) { Ok(()) } else { Err(Error::LostRace("an order")) }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("structs and maps with string keys can be serialized")
}

fn join(items: &BTreeSet<String>) -> String {
    items.iter().map(String::as_str).collect::<Vec<_>>().join(SEPARATOR)
}

struct OrderRow {
    order_id: String,
    live_mode: bool,
    version: i32,
    seen: Vec<String>,
    pending_payment_at: Time,
    in_review_at: Time,
    accepted_at: Time,
    fulfilled_at: Time,
    complete_at: Time,
    blocked_at: Time,
    cancelled_at: Time,
    returned_at: Time,
    dispute_at: Time,
    unknown_states: Vec<String>,
    conflicted: bool,
    snapshot_updated_at: Time,
    snapshot_created_at: Time,
    snapshot_event_id: String,
    /// JSON, like `lines` and `fired`. Parsed here, so that an error can name the order.
    details: String,
    lines: String,
    fired: String,
}

impl OrderRow {
    fn into_stored(self) -> Result<(OrderKey, StoredOrder), Error> {
        let id = self.order_id.clone();
        let inconsistent = |reason: String| Error::Inconsistent { table: "orders", id: id.clone(), reason };
        let key = key(self.order_id, self.live_mode).map_err(inconsistent)?;
        let content = serde_json::from_str(&self.details).map_err(|error| inconsistent(error.to_string()))?;
        let transitions = [
            (OrderState::PendingPayment, self.pending_payment_at),
            (OrderState::InReview, self.in_review_at),
            (OrderState::Accepted, self.accepted_at),
            (OrderState::Fulfilled, self.fulfilled_at),
            (OrderState::Complete, self.complete_at),
            (OrderState::Blocked, self.blocked_at),
            (OrderState::Cancelled, self.cancelled_at),
            (OrderState::Returned, self.returned_at),
            (OrderState::Dispute, self.dispute_at),
        ];
        let stamp = Stamp {
            updated_at: self.snapshot_updated_at,
            created_at: self.snapshot_created_at,
            event_id: self.snapshot_event_id,
        };
        let lines = lines::parse(&self.lines, &stamp).map_err(|error| inconsistent(format!("the lines: {error}")))?;
        let facts = Facts {
            seen: self.seen.into_iter().collect(),
            transitions: known(transitions),
            unknown_states: self.unknown_states.into_iter().collect(),
            conflicted: self.conflicted,
            snapshot: Snapshot { stamp, content },
            lines,
            ..Facts::default()
        };
        Ok((key, StoredOrder { version: self.version, facts, fired: FiredEffects::from_json(self.fired) }))
    }
}
