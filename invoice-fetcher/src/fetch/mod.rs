//! Workers that download documents.

pub(crate) mod attempt;
pub(crate) mod check;
pub mod keys;
pub(crate) mod plan;
pub(crate) mod watch;
pub(crate) mod worker;
