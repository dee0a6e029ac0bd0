#![doc = include_str!("../README.md")]

pub mod args;
pub mod config;
mod consumers;
pub mod develop;
pub mod exit;
pub mod help;
pub mod look;
pub mod options;
pub mod repair;
pub mod run;
pub mod terminal;

use std::{path::Path, process::ExitCode};

use riverlock_runtime::{telemetry, with_causes};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Args, Command, ConfigCommand},
    develop::{demo, openapi, sandbox, stack},
    look::{audit, invoices, orders, trace},
    repair::{dead_letters, outbox, quarantine, rebuild, reconcile, refold, replay},
    run::{config_check, healthcheck, services, setup, shipments, webhooks},
    terminal::out,
};

/// The exit code of a process that a signal ended, by the convention of shells: this and the signal's number.
const SIGNAL_BASE: i32 = 128;

/// Runs a command. The exit code is one of `exit`.
pub async fn run(args: Args) -> ExitCode {
    if !args.command.is_service() {
        telemetry::init_command_logs(args.verbose);
    }
    if std::process::id() == 1 && !args.command.handles_signals() {
        end_on_signals();
    }
    // On the heap: the largest command determines the size of all.
    let result = Box::pin(dispatch(args)).await;
    telemetry::flush_logs();
    let code = result.unwrap_or_else(|error| {
        out::note(&format!("riverlock: {}", with_causes(error.as_ref())));
        ExitCode::from(exit::code(&error))
    });
    if out::has_failed() { ExitCode::from(exit::UNAVAILABLE) } else { code }
}

async fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref();
    if !args.command.is_service() && !args.command.needs_no_configuration() {
        note_defaults(file);
    }
    match args.command {
        Command::Ingest => services::run(file, &[services::Service::Ingest]).await,
        Command::Processor => services::run(file, &[services::Service::Processor]).await,
        Command::InvoiceFetcher => services::run(file, &[services::Service::InvoiceFetcher]).await,
        Command::Up => services::run(file, &services::Service::ALL).await,
        Command::Setup(options) => setup::run(file, &options).await,
        Command::Audit { output } => audit::run(file, output).await,
        Command::Orders { command } => orders::run(file, command).await,
        Command::Refold(options) => refold::run(file, options).await,
        Command::Rebuild(options) => rebuild::run(file, options).await,
        Command::Trace(options) => trace::run(file, &options).await,
        Command::Openapi => openapi::run(),
        Command::Config { command: ConfigCommand::Check { output } } => config_check::run(file, output),
        Command::Quarantine { command } => quarantine::run(file, command).await,
        Command::DeadLetters { command } => dead_letters::run(file, command).await,
        Command::Outbox { command } => outbox::run(file, command).await,
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

/// Says which servers a command uses if no configuration is given.
fn note_defaults(file: Option<&Path>) {
    if config::is_absent(file) {
        let servers = config::Config::default().servers();
        out::note(&format!("no configuration (--config or RIVERLOCK_CONFIG); using the defaults: {servers}"));
    }
}

/// Ends the process on SIGINT and SIGTERM, as the kernel does with every process but the first one of a container.
fn end_on_signals() {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let Ok(mut signals) = signal(kind) else { continue };
        #[expect(clippy::disallowed_methods, reason = "it ends the process")]
        tokio::spawn(async move {
            signals.recv().await;
            std::process::exit(SIGNAL_BASE + kind.as_raw_value());
        });
    }
}
