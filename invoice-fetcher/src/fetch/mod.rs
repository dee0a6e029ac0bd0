//! Workers that download documents.

pub(crate) mod attempt;
pub(crate) mod plan;
pub(crate) mod worker;
