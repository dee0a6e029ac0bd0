//! The orders' tables.

mod list;
mod read;
mod write;

pub use list::{ListFilter, ListPosition, OrderSummary, list};
pub use read::{LineView, OrderView, count_by_status, find, statuses};
pub(crate) use write::{Change, lock, write};
