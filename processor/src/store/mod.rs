//! SQL for the tables of orders.

mod cache;
mod fired;
mod lines;
mod list;
mod parts;
mod read;
mod row;
mod write;

pub(crate) use cache::OrderCache;
pub(crate) use fired::{FiredEffects, inconsistent_effects};
pub use list::{ListFilter, ListPosition, OrderSummary, list, list_conflicted};
pub use read::{
    LineView, OperationView, OrderDetails, OrderView, ShipmentLineView, ShipmentView, count_by_status, find, statuses,
};
pub(crate) use row::{Change, StoredOrder, order_key as key};
pub(crate) use write::{check_versions, read, write};
