//! The orders' tables.

mod read;
mod write;

pub use read::{LineView, OrderView, count_by_status, find, statuses};
pub(crate) use write::{Change, lock, write};
