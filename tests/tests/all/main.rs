//! End-to-end tests: one binary, so that its tests share their servers.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

mod consumer;
mod faults;
mod harness;
mod interfaces;
mod operations;
mod pages;
mod recovery;
mod tidy;
