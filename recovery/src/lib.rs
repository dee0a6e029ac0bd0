//! What operators do about records that were read before: audit, dead letters, replay and rebuild.
//!
//! No service reads records through this crate; the commands use it, and two background tasks: the running audit and the
//! counts of dead letters. Its parts do not use each other.
//!
//! Invariants:
//! - whatever is judged again is judged by the ledger's own code, so that it ends as it would have ended live;
//! - a command that changes data shows first what it would do;
//! - a run that was interrupted goes on where it stopped, and does nothing twice.

pub mod audit;
pub mod dead_letters;
pub mod metrics;
#[doc(hidden)]
pub mod periodic;
pub mod rebuild;
pub mod replay;
