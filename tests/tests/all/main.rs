//! The tests of the whole: one binary, so that its parts share their servers.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

mod account;
mod audit;
mod charges;
mod consumer;
mod crash;
mod dead_letter_commands;
mod dead_letter_signals;
mod dead_letters;
mod demo;
mod invoices;
mod ledger;
mod migrations;
mod order_api;
mod outage;
mod proof;
mod raw;
mod rebuild;
mod refold;
mod replay;
mod restore;
mod shipments;
mod soak;
mod tidy;
mod trace;
mod trouble;
