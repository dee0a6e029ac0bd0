//! Types that the store's modules share.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::{Mode, OrderId};

use super::FiredEffects;
use crate::domain::{Facts, OrderKey};

pub(crate) type Time = Option<DateTime<Utc>>;

/// A stored order.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredOrder {
    pub(crate) version: i32,
    pub(crate) facts: Facts,
    pub(crate) fired: FiredEffects,
}

/// An order with new facts.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: OrderKey,
    pub(crate) before: Facts,
    pub(crate) after: Facts,
    /// The effects that have fired, with those of this change.
    pub(crate) fired: FiredEffects,
    /// The version to write; the stored version is one less.
    pub(crate) version: i32,
}

pub(crate) fn key(order_id: String, live_mode: bool) -> Result<OrderKey, String> {
    let order_id = OrderId::parse(order_id).map_err(|error| format!("the order id {error}"))?;
    Ok(OrderKey { order_id, mode: Mode::from_live(live_mode) })
}

/// The key of a row of `orders`.
///
/// # Errors
/// When the id is invalid.
pub(crate) fn order_key(order_id: String, live_mode: bool) -> Result<OrderKey, Error> {
    key(order_id.clone(), live_mode).map_err(|reason| Error::Inconsistent { table: "orders", id: order_id, reason })
}

pub(crate) fn known<S: Ord>(transitions: impl IntoIterator<Item = (S, Time)>) -> BTreeMap<S, DateTime<Utc>> {
    transitions.into_iter().filter_map(|(state, time)| Some((state, time?))).collect()
}
