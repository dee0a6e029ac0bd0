//! `riverlock stack` (`make up`): a local stack that keeps running and keeps its data.

use std::{fmt::Write as _, io::IsTerminal as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_runtime::{Shutdown, with_causes};
use riverlock_sandbox::{Api, Clock, serve, stack};
use tokio::net::TcpListener;

use super::{
    args::{BrokerKind, StackOptions},
    local::{Local, Ports},
};
use crate::terminal::out;

/// How often processes are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn run(options: StackOptions) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let ports = Ports::FIXED;
    ports.ensure_free()?;
    // The database must not outlive the embedded broker's records.
    let (home, _temporary) = match options.broker {
        BrokerKind::Kafka => (stack::state_dir("stack")?, None),
        BrokerKind::Embedded => {
            let folder = stack::temporary_dir()?;
            (folder.path().to_path_buf(), Some(folder))
        }
    };
    let binary = std::env::current_exe().context("finding this program's file")?;
    let starting = Local::start(&binary, &home, &ports, options.broker, out::line);
    let mut local = tokio::select! {
        local = starting => local?,
        () = shutdown.soft().cancelled() => return Ok(ExitCode::FAILURE),
    };
    let sandbox = local.config.sandbox.clone();
    let listener = TcpListener::bind(sandbox.listen).await.context("listening on the sandbox's address")?;
    let soft = shutdown.soft().clone();
    shutdown.spawn("sandbox", serve(listener, Api::new(&sandbox, Clock::system()), soft.cancelled_owned()));

    print(&local, &binary, &home, options.broker)?;
    while !shutdown.soft().is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
            () = shutdown.soft().cancelled() => break,
        }
        match local.restart_ended().await {
            Ok(restarted) if restarted.is_empty() => {}
            Ok(restarted) => out::line(&format!("had ended and was restarted: {}", restarted.join(", "))),
            Err(error) => out::note(&format!("restarting failed and will be retried: {}", with_causes(error.as_ref()))),
        }
    }
    out::line(&match options.broker {
        BrokerKind::Kafka => format!("\nstopping; the data stays in {}", home.display()),
        BrokerKind::Embedded => "\nstopping; the data is deleted".to_owned(),
    });
    local.stop().await?;
    Ok(ExitCode::SUCCESS)
}

fn print(local: &Local, binary: &Path, home: &Path, broker: BrokerKind) -> anyhow::Result<()> {
    let root = stack::repo_root()?;
    out::print(&text(local, binary, home, broker, &root)?);
    Ok(())
}

fn text(local: &Local, binary: &Path, home: &Path, broker: BrokerKind, root: &Path) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let (binary, config) = (binary.display(), local.config_file.display());
    let (ingest, sandbox) = (local.config.ingest.listen, local.config.sandbox.listen);
    let example = root.join("schemas/golden/order.accepted.json");
    writeln!(text, "\nRiverlock is running. Its data is in {}", home.display())?;
    if broker == BrokerKind::Embedded {
        writeln!(text, "THE EMBEDDED BROKER KEEPS NOTHING: the data of this stack is deleted when it stops.")?;
    }
    writeln!(text, "\n  webhooks        http://{ingest}/webhooks/digital-river")?;
    for service in &local.services {
        let (name, url, log) = (service.service.name(), service.admin_url(), service.log().display());
        writeln!(text, "  {name:<15} {url}/metrics  /readyz  /livez   log: {log}")?;
    }
    writeln!(text, "  sandbox         http://{sandbox} (Digital River's API)")?;
    writeln!(text, "  Kafka           {}", local.config.kafka.brokers)?;
    writeln!(text, "  PostgreSQL      psql {}", local.postgres.url())?;
    let processes: Vec<_> = local.processes().into_iter().map(|(name, pid)| format!("{name} {pid}")).collect();
    writeln!(text, "  processes       {}", processes.join(", "))?;
    let edits = if broker == BrokerKind::Kafka { "; changes are kept, and used from the next start" } else { "" };
    writeln!(text, "  settings        {config}{edits}")?;
    writeln!(text, "\nSend a signed event (from any file):\n")?;
    writeln!(
        text,
        "  file={}; curl -sS -i http://{ingest}/webhooks/digital-river -H 'Content-Type: application/json' \
         -H \"$({binary} --config {config} sandbox sign \"$file\")\" --data-binary @\"$file\"; echo",
        example.display()
    )?;
    writeln!(text, "\nShow its effects, play more orders, prove that nothing was lost:\n")?;
    writeln!(text, "  {binary} --config {config} orders list")?;
    writeln!(text, "  {binary} --config {config} orders show 310000000001")?;
    writeln!(text, "  {binary} --config {config} sandbox play --orders 100")?;
    writeln!(text, "  {binary} --config {config} audit")?;
    let term = if std::io::stdout().is_terminal() { "" } else { "; so does SIGTERM" };
    writeln!(text, "\nCtrl-C stops everything{term}.")?;
    Ok(text)
}
