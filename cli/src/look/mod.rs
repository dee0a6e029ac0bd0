//! Commands that show orders, events and documents.

pub(crate) mod audit;
pub mod invoices;
pub mod orders;
mod summary;
pub mod trace;
