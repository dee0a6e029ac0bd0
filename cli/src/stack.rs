//! `riverlock stack` (`make up`): a local stack that stays.

use std::{io::IsTerminal as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_runtime::Shutdown;
use riverlock_sandbox::{Api, Clock, serve, stack};
use tokio::net::TcpListener;

use crate::{
    args::{BrokerKind, StackOptions},
    local::{Local, Ports},
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
    let starting = Local::start(&binary, &home, &ports, options.broker, |step| println!("{step}"));
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
            Ok(mended) => println!("had ended and was started again: {}", mended.join(", ")),
            Err(error) => eprintln!("could not be started again, the next try follows: {error:#}"),
        }
    }
    println!("\nending; the data stays in {}", home.display());
    local.stop().await?;
    Ok(ExitCode::SUCCESS)
}

fn print(local: &Local, binary: &Path, home: &Path, broker: BrokerKind) -> anyhow::Result<()> {
    let root = stack::repo_root()?;
    let (binary, config) = (binary.display(), local.config_file.display());
    let Ports { ingest, sandbox, postgres, .. } = Ports::FIXED;
    let example = root.join("schemas/golden/order.accepted.json");
    println!("\nRiverlock runs. Its data is in {}", home.display());
    if broker == BrokerKind::Embedded {
        println!("THE EMBEDDED BROKER KEEPS NOTHING: this stack's data is gone when it ends.");
    }
    println!("\n  webhooks     http://127.0.0.1:{ingest}/webhooks/digital-river");
    for service in &local.services {
        println!(
            "  {:<12} {}/metrics  /readyz  /livez   log: {}",
            service.service.name(),
            service.admin_url(),
            service.log().display()
        );
    }
    println!("  sandbox      http://127.0.0.1:{sandbox} (Digital River's API)");
    println!("  Kafka        {}", local.config.kafka.brokers);
    println!("  PostgreSQL   psql postgres://riverlock:riverlock@127.0.0.1:{postgres}/riverlock");
    let processes: Vec<_> = local.processes().into_iter().map(|(name, pid)| format!("{name} {pid}")).collect();
    println!("  processes    {}", processes.join(", "));
    println!("\nSend a signed event (any file will do):\n");
    println!(
        "  file={}; curl -sS -i http://127.0.0.1:{ingest}/webhooks/digital-river -H 'Content-Type: application/json' \
         -H \"$({binary} --config {config} sandbox sign \"$file\")\" --data-binary @\"$file\"; echo",
        example.display()
    );
    println!("\nLook at what it did, play more orders, prove that nothing was lost:\n");
    println!("  {binary} --config {config} orders show 310000000001");
    println!("  {binary} --config {config} sandbox play --orders 100");
    println!("  {binary} --config {config} audit");
    println!("\nCtrl-C ends everything{}.", if std::io::stdout().is_terminal() { "" } else { "; so does SIGTERM" });
    Ok(())
}
