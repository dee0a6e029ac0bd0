//! The tests of the whole: one binary, so that its parts share their servers.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

mod account;
mod account_pages;
mod audit;
mod charges;
mod cluster;
mod commands;
mod consumer;
mod crash;
mod cut;
mod dead_letter_commands;
mod dead_letter_signals;
mod dead_letters;
mod demo;
mod endurance;
mod gaps;
mod indexes;
mod installs;
mod invoices;
mod ledger;
mod migrations;
mod order_api;
mod outage;
mod outbox_commands;
mod proof;
mod raw;
mod rebuild;
mod recipes;
mod recorded;
mod references;
mod refold;
mod relay;
mod replay;
mod restore;
mod setup;
mod shipments;
mod signals;
mod soak;
mod spellings;
mod storm;
mod stuck;
mod tidy;
mod tidy_docs;
mod trace;
mod trouble;
