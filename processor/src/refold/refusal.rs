//! Why an order cannot be recomputed.

use riverlock_schemas::record::Position;

/// How often an order is folded again because events came while it was.
pub(crate) const ROUNDS_MAX: usize = 10;

/// Why an order is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A record of it is deleted.
    #[error("Kafka no longer has {0}, and an order is not folded from a part of its events")]
    Gone(Position),
    /// A record is not the one that was audited.
    #[error("{0} has another body than the one that was audited")]
    OtherBody(Position),
    /// A record that took effect would not with today's code and configuration.
    #[error("{0} took effect, and would not today: {1}")]
    NotApplied(Position, String),
    /// There is an order and no event.
    #[error("no event of it is audited, so nothing is known that it could be folded from")]
    NoEvents,
    /// Events come faster than they are read.
    #[error("its events changed {ROUNDS_MAX} times while they were read")]
    Moving,
    /// Some of its records lie in a partition that cannot be read now.
    #[error("{0}: run it again when that is mended")]
    Unavailable(String),
    /// What its events say is not allowed in the tables.
    #[error("the database refuses what its events say: {0}")]
    Database(String),
}
