#![doc = include_str!("../README.md")]

pub mod cloud_event;
mod decimal;
pub mod envelope;
pub mod events;
pub mod hash;
pub mod ids;
pub mod json_schema;
pub mod kafka;
pub mod members;
pub mod oddity;
pub mod shipment;
pub mod text;
pub mod time;
mod wire;

pub use envelope::{Envelope, EnvelopeError};
pub use ids::{EventId, FileId, FulfillmentId, LineId, Mode, OrderId};
