//! Reasons why an order cannot be recomputed.

use riverlock_schemas::kafka::record::Position;

/// Maximum attempts to recompute an order while new events keep arriving.
pub(crate) const ROUNDS_MAX: usize = 10;

/// The reason why an order is left unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Kafka has deleted one of its records.
    #[error("Kafka no longer has {0}; an order is not recomputed from a part of its events")]
    Gone(Position),
    /// A record's body is not the one that was audited.
    #[error("the body of {0} is not the one that was audited")]
    OtherBody(Position),
    /// A record that was applied would not be applied with the current code and configuration.
    #[error("{0} was applied, but would not be applied today: {1}")]
    NotApplied(Position, String),
    /// The order is stored, but has no audited event.
    #[error("no audited events; cannot recompute it")]
    NoEvents,
    /// New events arrive faster than they are read.
    #[error("its events changed {ROUNDS_MAX} times while they were read")]
    Moving,
    /// Some of its records are in a partition that is unavailable.
    #[error("{0}; run the command again when the partition is available")]
    Unavailable(String),
    /// The recomputed rows violate a constraint.
    #[error("the database rejects the recomputed rows: {0}")]
    Database(String),
}
