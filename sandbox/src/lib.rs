#![doc = include_str!("../README.md")]

pub mod api;
pub mod clock;
pub mod config;
pub mod data;
pub mod events;
mod faults;
pub mod sender;
pub mod stack;

pub use crate::data::life::{ExpectedOrder, Life, PlannedEvent};
pub use crate::sender::play::{PlayConfig, PlayReport, play};
pub use crate::sender::progress::Progress;
pub use api::{Api, ApiFault, ApiFaultRule, CaptureOutcome, CaptureRule, serve};
pub use clock::Clock;
pub use config::{Mode, SandboxConfig, TargetConfig};
pub use faults::{Fault, FaultRule, Faults};
