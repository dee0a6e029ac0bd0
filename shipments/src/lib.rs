#![doc = include_str!("../README.md")]

pub mod add;
pub mod check;
pub mod decide;
pub mod intake;
mod messages;
pub mod metrics;
mod report;
pub mod settle;
mod store;
pub mod view;
pub mod worker;

pub use add::{AddError, NewReport, Source, StoredReport};
pub use check::RuleViolation;
pub use riverlock_digital_river::fulfillments::Line;
