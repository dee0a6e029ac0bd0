//! The tests of the whole: one binary, so that its parts share their servers.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

mod consumer;
mod crash;
mod demo;
mod invoices;
mod ledger;
mod order_api;
mod outage;
mod soak;
mod tidy;
mod trace;
