//! The workers: one attempt at a document after the other.

pub(crate) mod attempt;
pub(crate) mod plan;
pub(crate) mod worker;
