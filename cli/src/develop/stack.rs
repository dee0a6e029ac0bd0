//! `riverlock stack` (`make up`): a local stack that stays.

use std::{fmt::Write as _, io::IsTerminal as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_runtime::Shutdown;
use riverlock_sandbox::{Api, Clock, serve, stack};
use tokio::net::TcpListener;

use crate::{
    develop::args::{BrokerKind, StackOptions},
    develop::local::{Local, Ports},
    terminal::out,
};

/// How often the stack looks whether something has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn run(options: StackOptions) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let ports = Ports::FIXED;
    ports.ensure_free()?;
    // What the embedded broker forgets, PostgreSQL must not remember.
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
    let listener = TcpListener::bind(sandbox.listen).await.context("the sandbox's address cannot be listened on")?;
    let soft = shutdown.soft().clone();
    shutdown.spawn("sandbox", serve(listener, Api::new(&sandbox, Clock::system()), soft.cancelled_owned()));

    print(&local, &binary, &home, options.broker)?;
    while !shutdown.soft().is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = shutdown.soft().cancelled() => break,
        }
        match local.mend().await {
            Ok(mended) if mended.is_empty() => {}
            Ok(mended) => out::line(&format!("had ended and was started again: {}", mended.join(", "))),
            Err(error) => out::note(&format!("could not be started again, the next try follows: {error:#}")),
        }
    }
    out::line(&match options.broker {
        BrokerKind::Kafka => format!("\nending; the data stays in {}", home.display()),
        BrokerKind::Embedded => "\nending; the data goes too".to_owned(),
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
    writeln!(text, "\nRiverlock runs. Its data is in {}", home.display())?;
    if broker == BrokerKind::Embedded {
        writeln!(text, "THE EMBEDDED BROKER KEEPS NOTHING: this stack's data is gone when it ends.")?;
    }
    writeln!(text, "\n  webhooks     http://{ingest}/webhooks/digital-river")?;
    for service in &local.services {
        let (name, url, log) = (service.service.name(), service.admin_url(), service.log().display());
        writeln!(text, "  {name:<12} {url}/metrics  /readyz  /livez   log: {log}")?;
    }
    writeln!(text, "  sandbox      http://{sandbox} (Digital River's API)")?;
    writeln!(text, "  Kafka        {}", local.config.kafka.brokers)?;
    writeln!(text, "  PostgreSQL   psql {}", local.postgres.url())?;
    let processes: Vec<_> = local.processes().into_iter().map(|(name, pid)| format!("{name} {pid}")).collect();
    writeln!(text, "  processes    {}", processes.join(", "))?;
    let edits = if broker == BrokerKind::Kafka { "; changes to it stay, and count from the next start" } else { "" };
    writeln!(text, "  settings     {config}{edits}")?;
    writeln!(text, "\nSend a signed event (any file will do):\n")?;
    writeln!(
        text,
        "  file={}; curl -sS -i http://{ingest}/webhooks/digital-river -H 'Content-Type: application/json' \
         -H \"$({binary} --config {config} sandbox sign \"$file\")\" --data-binary @\"$file\"; echo",
        example.display()
    )?;
    writeln!(text, "\nLook at what it did, play more orders, prove that nothing was lost:\n")?;
    writeln!(text, "  {binary} --config {config} orders list")?;
    writeln!(text, "  {binary} --config {config} orders show 310000000001")?;
    writeln!(text, "  {binary} --config {config} sandbox play --orders 100")?;
    writeln!(text, "  {binary} --config {config} audit")?;
    let term = if std::io::stdout().is_terminal() { "" } else { "; so does SIGTERM" };
    writeln!(text, "\nCtrl-C ends everything{term}.")?;
    Ok(text)
}
