//! Contracts: what the services say to each other and what Digital River says to them.
//!
//! Typed ids, the event envelope, the payloads that have consumers, topic and header names, outgoing messages. Everything
//! here is pure: no I/O, no clock, no async. A service may depend on this crate; this crate depends on no service.
//!
//! Digital River asks for a *tolerant reader* (fields come and go, order means nothing), so every payload type ignores
//! what it does not know and treats nearly everything as optional. How values of unexpected kinds are read says `wire`.

pub mod cloud_event;
pub mod envelope;
pub mod events;
pub mod hash;
pub mod ids;
pub mod json_schema;
pub mod partitioner;
pub mod record;
pub mod text;
pub mod time;
pub mod topics;
mod wire;

pub use envelope::{Envelope, EnvelopeError};
pub use ids::{EventId, FileId, FulfillmentId, LineId, Mode, OrderId};
