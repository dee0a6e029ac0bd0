//! Reading ranges of a topic outside the consumers.

pub mod positions;
pub mod ranges;
