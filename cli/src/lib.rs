//! What the binary `riverlock` is made of: the services composed, the operator's and the engineer's commands, and a local
//! stack. A library so that the tests run the same stack.

pub mod args;
mod audit;
mod bar;
pub mod config;
mod dead_letters;
pub mod demo;
mod healthcheck;
mod invoices;
pub mod local;
mod openapi;
mod orders;
mod out;
mod quarantine;
mod rebuild;
mod reconcile;
mod refold;
pub mod replay;
mod sandbox;
pub mod services;
mod setup;
mod shipments;
mod stack;
mod trace;
mod webhooks;

use std::process::ExitCode;

use crate::args::{Args, Command};

/// Runs a command; the exit code says whether what it was asked for is so.
///
/// # Errors
/// When the command could not do its work at all.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref();
    match args.command {
        Command::Ingest => services::run(file, &[services::Service::Ingest]).await,
        Command::Processor => services::run(file, &[services::Service::Processor]).await,
        Command::InvoiceFetcher => services::run(file, &[services::Service::InvoiceFetcher]).await,
        Command::Up => services::run(file, &services::Service::ALL).await,
        Command::Setup => setup::run(file).await,
        Command::Audit { json } => audit::run(file, json).await,
        Command::Orders { command } => orders::run(file, command).await,
        Command::Refold(options) => refold::run(file, options).await,
        Command::Rebuild(options) => rebuild::run(file, options).await,
        Command::Trace(options) => trace::run(file, &options).await,
        Command::Openapi => openapi::run(),
        Command::Quarantine { command } => quarantine::run(file, command).await,
        Command::DeadLetters { command } => dead_letters::run(file, command).await,
        Command::Invoices { command } => invoices::run(file, command).await,
        Command::Webhooks { command } => webhooks::run(file, command).await,
        Command::Reconcile(options) => reconcile::run(file, *options).await,
        Command::Replay(options) => replay::run(file, *options).await,
        Command::Shipments { command } => shipments::run(file, command).await,
        Command::Sandbox { command } => sandbox::run(file, command).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Stack(options) => stack::run(options).await,
        Command::Healthcheck { url } => healthcheck::run(&url).await,
    }
}
