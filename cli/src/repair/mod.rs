//! Commands that find and repair what is lost or wrong.

pub mod dead_letters;
pub mod outbox;
pub mod quarantine;
pub mod rebuild;
pub mod reconcile;
pub mod refold;
pub mod replay;
