//! Finds events that Digital River has and Riverlock never got, and writes them to the raw topics.
//!
//! The Events API goes back 30 days. It is read in closed time windows, from the newest to the oldest, so that nothing can move
//! between pages while they are read; every window overlaps the one before it. Events are compared by their id alone: a listed
//! event may differ in bytes from the delivered one.
//!
//! An event that is written twice would do no harm (consumers know it by its id). It is not written twice all the same: before
//! anything is compared the consumers must have read what Kafka had at the start, and what a run writes is remembered until
//! they have read it.

pub mod config;
pub mod error;
pub mod events;
pub mod job;
pub mod listing;
pub mod metrics;
pub mod objects;
pub mod reconciler;
pub mod report;
mod store;
mod topics;

pub use config::ReconcileConfig;
pub use error::ReconcileError;
pub use events::{Options, Progress};
pub use reconciler::{Consumers, Reconciler};
pub use report::Report;
