//! What operators and API clients use: commands, HTTP APIs, and the account at Digital River.

pub(crate) mod account;
mod commands;
mod invoices;
mod orders;
mod outbox;
mod shipment_topic;
mod shipments;
