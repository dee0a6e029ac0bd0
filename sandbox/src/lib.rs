//! A pretend Digital River: it signs and sends webhooks, serves the interfaces that a receiver asks, misbehaves on
//! request, and makes load.
//!
//! It is an independent implementation of the other side: it shares no code with the services that it exercises, so
//! that a rule that both follow is a rule that two people read. Everything is decided by seeds, and time is a
//! parameter: the same seed gives the same bytes on every machine.
//!
//! # Deliberately different from Digital River
//!
//! - Retries come after milliseconds, not minutes, and end after minutes, not 72 hours. A registered webhook is disabled after
//!   a number of failures in a row, not after several days of them.
//! - The player delivers to one configured address, whatever is registered under `/webhooks`; events that happen through
//!   `POST /sandbox/events` are delivered to what is registered. All are signed with the secrets of the configuration.
//! - A second webhook that sends the same type to the same address is a conflict, which is not documented.
//! - Every UUID is the id of a file, and the id's last bit tells an invoice from a credit memo: files are computed, not stored.
//! - `GET /events` goes as far back as [`events::EVENTS_KEPT_MAX`] events, not 30 days, and lists the newest first
//!   (Digital River does not say). An unknown cursor is a bad request.
//! - `POST /fulfillments` checks orders whose events happened through `POST /sandbox/events` and takes any other; it does not
//!   make an `order.fulfilled` come.
//! - Parameters and fields that do not exist are refused rather than overlooked.
//! - There is one confidential key.

pub mod api;
pub mod clock;
pub mod config;
pub mod data;
pub mod events;
mod faults;
pub mod sender;
pub mod stack;

pub use crate::data::life::{Expected, Life, PlannedEvent};
pub use crate::sender::play::{PlayConfig, PlayReport, play};
pub use crate::sender::progress::Progress;
pub use api::{Api, ApiFault, ApiFaultRule, serve};
pub use clock::Clock;
pub use config::{Mode, SandboxConfig, TargetConfig};
pub use faults::{Fault, FaultRule, Faults};
