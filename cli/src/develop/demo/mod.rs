//! `riverlock demo`: plays orders through the webhook endpoint of a local stack, then verifies everything.

mod account;
pub mod drain;
mod report;
mod restart;
pub mod verify;
mod warehouse;

use std::{num::NonZeroU64, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use riverlock_recovery::audit;
use riverlock_runtime::Shutdown;
use riverlock_sandbox::{
    Api, Clock, PlayConfig, PlayReport, Progress, play, serve,
    stack::{self, PARTITION_CAPACITY_BYTES},
};
use tokio::net::TcpListener;

use self::report::AccountReport;
use super::{
    args::{BrokerKind, DemoOptions},
    local::{Local, Ports},
};
use crate::{
    exit,
    terminal::{out, progress as bars},
};

/// Of every so many orders, one has an event that is never delivered.
const WITHHOLD_EVERY: u64 = 50;

/// Most orders of a demo with events that are never delivered: the sandbox lists its latest 10 000 events.
const WITHHOLD_ORDERS_MAX: u64 = 2_000;

/// Bytes of one order in one topic: a body, repetitions, and the uneven distribution over partitions.
const EMBEDDED_BYTES_PER_ORDER: u64 = 12 * 1024;

pub(crate) async fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    if options.broker == BrokerKind::Embedded {
        ensure_capacity(options.orders)?;
        out::line(
            "THE EMBEDDED BROKER KEEPS NOTHING: it holds 5 MB per partition, in memory. It is for trying things out, not for testing.",
        );
    }
    let folder = stack::temporary_dir()?;
    let ports = Ports::free()?;
    let binary = std::env::current_exe().context("finding this program's file")?;
    let starting = Local::start(&binary, folder.path(), &ports, options.broker, out::line);
    let mut local = tokio::select! {
        local = starting => local?,
        () = shutdown.soft().cancelled() => bail!("stopped while starting; all processes have ended"),
    };
    let result = tokio::select! {
        result = demonstrate(&options, &mut local, folder.path(), &shutdown) => result,
        () = shutdown.soft().cancelled() => Err(anyhow::anyhow!("stopped; all processes have ended")),
    };
    if !matches!(result, Ok(true)) && !shutdown.soft().is_cancelled() {
        keep_logs(&local);
    }
    shutdown.stop();
    local.stop().await?;
    Ok(exit::success_if(result?))
}

/// The embedded broker drops the oldest records of a partition that is full.
fn ensure_capacity(orders: u64) -> anyhow::Result<()> {
    let partitions = u64::try_from(crate::config::Config::default().kafka.partitions)?;
    let most = PARTITION_CAPACITY_BYTES * partitions / EMBEDDED_BYTES_PER_ORDER;
    anyhow::ensure!(
        orders <= most,
        "the embedded broker keeps 5 MB per partition in memory, enough for {most} orders and not for {orders}; use \
         BROKER=kafka, or fewer orders"
    );
    Ok(())
}

/// Plays the orders, waits until they are processed, verifies them and prints the result. Returns whether all is right.
async fn demonstrate(
    options: &DemoOptions,
    local: &mut Local,
    folder: &Path,
    shutdown: &Shutdown,
) -> anyhow::Result<bool> {
    let sandbox = local.config.sandbox.clone();
    let api = Api::new(&sandbox, Clock::system());
    let listener = TcpListener::bind(sandbox.listen).await.context("listening on the sandbox's address")?;
    let soft = shutdown.soft().clone();
    shutdown.spawn("sandbox", serve(listener, Arc::clone(&api), soft.cancelled_owned()));
    account::register(local, folder).await?;

    let config = PlayConfig {
        seed: options.seed,
        orders: options.orders,
        mode: sandbox.mode,
        target: sandbox.target,
        withhold_every: NonZeroU64::new(WITHHOLD_EVERY).filter(|_| options.orders <= WITHHOLD_ORDERS_MAX),
        events: Some(api.events()),
        ..PlayConfig::default()
    };
    let played = play_with_progress(&config, local, shutdown).await?;
    let compared = account::reconcile(&local.config, &config, shutdown).await?;
    drain::wait(local).await?;
    let shipped = warehouse::ship(local, &config, &api).await?;
    drain::wait(local).await?;

    let mut connection = local.config.postgres.connect().await?;
    out::line("reading every record and every invoice again");
    let audit = audit::run(&local.config.kafka, &mut connection, &local.config.consumers()).await?;
    let verified = verify::after_shipping(&config, &local.config, &mut connection, &shipped).await?;
    report::print(local, &mut connection, &played, &verified, &AccountReport { compared, shipped: shipped.len() })
        .await?;
    out::line(&audit.to_string());
    for problem in audit.findings.iter().chain(&verified.problems) {
        out::line(&format!("  {problem}"));
    }
    // Every acknowledged event is in Kafka, so Kafka must have at least as many records as there were acknowledgements.
    let enough = audit.acknowledged >= played.counts.acknowledged;
    if !enough {
        out::line(&format!(
            "  {} requests were acknowledged, but Kafka has {} records",
            played.counts.acknowledged, audit.acknowledged
        ));
    }
    Ok(audit.balances() && audit.pending == 0 && enough && verified.problems_total == 0 && played.complete)
}

async fn play_with_progress(config: &PlayConfig, local: &mut Local, shutdown: &Shutdown) -> anyhow::Result<PlayReport> {
    out::line(&format!("playing {} orders with seed {}", config.orders, config.seed));
    let bar = bars::counting("orders")?;
    bar.set_length(config.orders);
    let progress = Arc::new(Progress::new());
    let playing = play(config.clone(), Arc::clone(&progress), shutdown.soft().clone());
    tokio::pin!(playing);
    let mut checks = tokio::time::interval(restart::CHECK_INTERVAL);
    let mut shown = 0;
    loop {
        tokio::select! {
            report = &mut playing => {
                bar.finish_and_clear();
                return report;
            }
            _ = checks.tick() => {
                let counts = progress.counts();
                let message = format!("{} events acknowledged", counts.acknowledged);
                // Without a terminal, a line per tenth.
                if bar.is_hidden() && counts.lives_done * 10 / config.orders.max(1) > shown {
                    shown = counts.lives_done * 10 / config.orders.max(1);
                    out::line(&format!("  {}/{} orders, {message}", counts.lives_done, config.orders));
                }
                bar.set_position(counts.lives_done);
                bar.set_message(message);
                restart::restart_ended(local).await?;
            }
        }
    }
}

/// Keeps the logs of a failed demo, whose folder is deleted.
fn keep_logs(local: &Local) {
    for service in &local.services {
        let kept = std::env::temp_dir().join(format!("riverlock-demo-{}.log", service.service.name()));
        if std::fs::copy(service.log(), &kept).is_ok() {
            out::note(&format!("kept the log of {} in {}", service.service.name(), kept.display()));
        }
    }
}
