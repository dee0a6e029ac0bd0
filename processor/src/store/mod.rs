//! The orders' tables.

mod parts;
mod read;
mod write;

pub use read::{LineView, OperationView, OrderView, ShipmentLineView, ShipmentView, count_by_status, find, statuses};
pub(crate) use write::{Change, lock, write};
