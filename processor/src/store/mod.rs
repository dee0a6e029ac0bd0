//! The orders' tables.

mod read;
mod write;

pub use read::{LineView, OrderView, find};
pub(crate) use write::{Change, lock, write};
