//! The consumers' common half: from a record in Kafka to one audited outcome in PostgreSQL.
//!
//! A consumer brings a [`Projection`]: what to make of an event (pure) and how to write it (one call, inside a transaction).
//! The ledger brings the rest: batches, one transaction per batch with audit rows, dead letters *and consumed offsets*,
//! retries, isolation of poison, rebalances, and the outbox with its relay.
//!
//! Invariants:
//! - every record that is read gets exactly one outcome, in the same transaction as its effect;
//! - offsets live in PostgreSQL; what is committed to Kafka only shows lag;
//! - no transaction spans a network call, and every transaction may run twice.
//!
//! Deliberately absent: what an order or an invoice is. Only the mark of an order whose event came with contradicting bodies
//! is set here, because any consumer may see the second body.

pub mod alive;
pub mod batch;
pub mod consumer;
pub mod detail;
pub mod error;
pub mod metrics;
pub mod outbox;
#[doc(hidden)]
pub mod periodic;
pub mod postgres;
pub mod projection;
pub mod reading;
pub mod relay;
pub mod spellings;
pub mod store;
pub mod view;

pub use detail::Dead;
pub use error::Error;
pub use postgres::PostgresConfig;
pub use projection::{Decision, Fresh, Projection, Reading, Record};
