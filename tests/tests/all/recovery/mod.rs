//! The operators' tools: audit, dead letters, rebuild, refold, replay and trace.

pub(crate) mod audit;
pub(crate) mod dead_letters;
pub(crate) mod rebuild;
pub(crate) mod refold;
pub(crate) mod replay;
mod trace;
