//! The fulfillment state machine, pure: no async, no clock, no I/O.
//!
//! Events arrive late, twice and out of order. So an order is not what the last event said: it is a set of *facts* that
//! only grows. [`Facts::of`] is what one event says, [`Facts::join`] brings two sets together. The join is commutative,
//! associative and idempotent, therefore every order, duplication and batching of the same events ends in the same facts;
//! `laws` tests that. [`Facts::status`] and [`effects`] are functions of the facts alone.

pub mod effects;
mod facts;
mod fulfillment;
#[cfg(test)]
mod laws;
mod status;

pub use facts::{Facts, LineFacts, OperationFacts, OrderKey, ShipmentFacts, Snapshot, Stamp};
pub use fulfillment::{EfnStatus, Quantities};
pub use status::{Anomaly, Status};
