//! `riverlock sandbox`: a pretend Digital River.

use std::{io::Read as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use riverlock_runtime::{Clock as _, Shutdown, SystemClock, shutdown::GRACE};
use riverlock_sandbox::{Api, Clock, PlayConfig, Progress, SandboxConfig, play, serve, sign};
use secrecy::ExposeSecret;
use tokio::net::TcpListener;

use crate::{args::SandboxCommand, config::Config};

pub(crate) async fn run(file: Option<&Path>, command: SandboxCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    riverlock_runtime::telemetry::init_logs(&config.telemetry)?;
    let sandbox = config.sandbox;
    match command {
        SandboxCommand::Serve => serve_api(&sandbox).await,
        SandboxCommand::Play { orders, seed, rate } => {
            let config = PlayConfig {
                seed,
                orders,
                mode: sandbox.mode,
                rate_per_second: rate,
                target: sandbox.target,
                ..PlayConfig::default()
            };
            let shutdown = Shutdown::new();
            shutdown.on_signals()?;
            let report = play(config, Arc::new(Progress::new()), shutdown.soft().clone()).await?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        SandboxCommand::Sign { file } => {
            println!("{}: {}", sign::SIGNATURE_HEADER, sign_file(&sandbox, &file)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn serve_api(config: &SandboxConfig) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("the sandbox's address {} cannot be listened on", config.listen))?;
    tracing::info!("the sandbox plays Digital River at http://{}", listener.local_addr()?);
    let soft = shutdown.soft().clone();
    shutdown.spawn("sandbox", serve(listener, Api::new(config, Clock::system()), soft.cancelled_owned()));
    Ok(if shutdown.wait(GRACE).await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The signature header's value for a body, as Digital River would write it now.
fn sign_file(config: &SandboxConfig, file: &Path) -> anyhow::Result<String> {
    let mut body = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut body).context("reading standard input")?;
    } else {
        body = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    }
    let secrets: Vec<&str> = config.target.secrets.iter().map(ExposeSecret::expose_secret).collect();
    Ok(sign::header_in_style(config.target.signature_style, &secrets, SystemClock.now().timestamp(), &body))
}
