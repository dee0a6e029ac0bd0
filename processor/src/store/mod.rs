//! SQL for the tables of orders.

mod lines;
mod list;
mod parts;
mod read;
mod row;
mod write;

pub use list::{ListFilter, ListPosition, OrderSummary, list, list_conflicted};
pub use read::{
    LineView, OperationView, OrderDetails, OrderView, ShipmentLineView, ShipmentView, count_by_status, find, statuses,
};
pub(crate) use row::Change;
pub(crate) use write::{read, write};
