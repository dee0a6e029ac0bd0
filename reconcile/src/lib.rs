#![doc = include_str!("../README.md")]

pub mod config;
pub mod error;
pub mod events;
pub mod job;
pub mod listing;
pub mod metrics;
pub mod objects;
pub mod reconciler;
pub mod report;
mod store;
mod topics;

pub use config::ReconcileConfig;
pub use error::ReconcileError;
pub use events::{Options, Progress};
pub use reconciler::{Consumers, Reconciler};
pub use report::Report;
