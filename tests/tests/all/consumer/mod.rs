//! How the consumers turn records into outcomes and orders, and how the relay publishes the messages.

mod batches;
mod charges;
mod gaps;
mod polling;
mod relay;
mod sharing;
mod spellings;
