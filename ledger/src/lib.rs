#![doc = include_str!("../README.md")]

pub mod alive;
pub mod batch;
pub mod consumer;
pub mod detail;
pub mod error;
pub mod metrics;
pub mod outbox;
#[doc(hidden)]
pub mod periodic;
pub mod postgres;
pub mod projection;
pub mod reading;
pub mod relay;
pub mod spellings;
pub mod store;
pub mod view;

pub use detail::DeadReason;
pub use error::Error;
pub use postgres::PostgresConfig;
pub use projection::{Decision, NewEvent, ParsedRecord, Projection, Record};
