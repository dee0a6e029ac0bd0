//! `riverlock sandbox`: an imitation of Digital River.

use std::{fmt::Write as _, io::Read as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use riverlock_runtime::{Clock as _, Shutdown, SystemClock, shutdown::GRACE};
use riverlock_sandbox::{Api, Clock, PlayConfig, PlayReport, Progress, SandboxConfig, play, sender::sign, serve};
use secrecy::ExposeSecret;
use tokio::net::TcpListener;

use super::args::SandboxCommand;
use crate::{config::Config, exit, terminal::out};

pub(crate) async fn run(file: Option<&Path>, command: SandboxCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut sandbox = config.sandbox;
    sandbox.read_secrets()?;
    match command {
        SandboxCommand::Serve => {
            riverlock_runtime::telemetry::init_logs(&config.telemetry)?;
            serve_api(&sandbox).await
        }
        SandboxCommand::Play { orders, seed, rate, output } => {
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
            output.whole(&report, |text| write(text, &report))?;
            Ok(exit::success_if(report.complete))
        }
        SandboxCommand::Sign { file } => {
            out::line(&format!("{}: {}", sign::SIGNATURE_HEADER, sign_file(&sandbox, &file)?));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn write(text: &mut String, report: &PlayReport) -> std::fmt::Result {
    let PlayReport { counts, elapsed, latency_p50, latency_p99, latency_max, complete, .. } = report;
    let (events, planned) = (counts.events_acknowledged, counts.events_planned);
    writeln!(text, "{events} of {planned} events of {} orders acknowledged", counts.lives_done)?;
    let (refused, lost) = (counts.refused_total(), counts.timeouts + counts.unreachable);
    let (sent, acknowledged) = (counts.requests_sent, counts.acknowledged);
    writeln!(text, "{sent} requests: {acknowledged} acknowledged, {refused} rejected, {lost} without an answer")?;
    writeln!(text, "acknowledged in {latency_p50:.1?} (median), {latency_p99:.1?} (p99), {latency_max:.1?} (longest)")?;
    let end = if *complete { "every event was acknowledged" } else { "NOT EVERY EVENT WAS ACKNOWLEDGED" };
    writeln!(text, "{end} in {elapsed:.1?}")
}

async fn serve_api(config: &SandboxConfig) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on the sandbox's address {}", config.listen))?;
    tracing::info!("the sandbox imitates Digital River at http://{}", listener.local_addr()?);
    let soft = shutdown.soft().clone();
    shutdown.spawn("sandbox", serve(listener, Api::new(config, Clock::system()), soft.cancelled_owned()));
    Ok(exit::success_if(shutdown.wait(GRACE).await))
}

/// The value of the signature header for a body, as of now.
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
