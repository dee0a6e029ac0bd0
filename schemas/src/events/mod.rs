//! Events of Digital River: one type per payload, and what they have in common.

pub mod charge_event;
pub mod content;
pub mod event_type;
pub mod file_event;
pub mod fulfillment_event;
pub mod order_event;
pub mod order_object;
pub(crate) mod order_snapshot;
pub mod order_state;
pub mod payload;
