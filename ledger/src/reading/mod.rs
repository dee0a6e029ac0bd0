//! Reads ranges of topics outside the consumers.

pub mod positions;
pub mod ranges;
