//! The fulfillment state machine, pure: no async, no clock, no I/O.
//!
//! Events arrive late, twice and out of order. Therefore an order is not its last event, but a set of *facts* that only grows.
//! [`Facts::of`] returns the facts of one event, [`Facts::join`] merges two sets. The join is commutative, associative and
//! idempotent, so the same events produce the same facts in every order, duplication and batching; `laws` tests this.
//! [`Facts::status`] and [`effects`] are functions of the facts alone.

pub mod effects;
mod facts;
mod fulfillment;
#[cfg(test)]
mod laws;
mod status;

pub use facts::{Facts, LineFacts, OperationFacts, OrderKey, ShipmentFacts, Snapshot, Stamp};
pub use fulfillment::{EfnStatus, Quantities};
pub use status::{Anomaly, Status};
