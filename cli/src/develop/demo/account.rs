//! The account at Digital River in the demo: webhooks are registered, and events that were never delivered are brought in.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use riverlock_digital_river::{Client, Priority};
use riverlock_reconcile::{events::Options, listing::windows::Range, reconciler::Reconciler, report::Report};
use riverlock_runtime::{Shutdown, SystemClock};
use riverlock_sandbox::PlayConfig;
use riverlock_schemas::Mode;
use tokio::process::Command;

use crate::{config::Config, develop::local::Local, terminal::out};

/// The types of the registered webhook: all that the sandbox sends.
const TYPES: [&str; 5] = ["order.*", "fulfillment.*", "customer.*", "subscription.*", "payout.*"];

/// Longest time until the consumers have read what is in Kafka.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Registers a webhook at the sandbox with `riverlock webhooks apply`. The services' configuration stays as it is.
///
/// # Errors
/// When the command fails.
pub(super) async fn register(local: &Local, folder: &std::path::Path) -> anyhow::Result<()> {
    out::line("registering the webhook with `riverlock webhooks apply --apply`");
    let config = with_webhook(local, folder)?;
    let binary = std::env::current_exe().context("finding this program's file")?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&config).args(["webhooks", "apply", "--apply"]).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.context("running `riverlock webhooks apply`")?;
    ensure!(
        output.status.success(),
        "`riverlock webhooks apply --apply` failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Writes the services' configuration with a webhook.
fn with_webhook(local: &Local, folder: &std::path::Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(&local.config_file)
        .with_context(|| format!("reading {}", local.config_file.display()))?;
    let target = &local.config.sandbox.target;
    let types: Vec<String> = TYPES.iter().map(|name| format!("\"{name}\"")).collect();
    let webhook = format!(
        "\n[[webhooks]]\nname = \"sandbox\"\nendpoint = \"sandbox\"\nmode = \"test\"\naddress = \"{}\"\ntypes = [{}]\n",
        target.address,
        types.join(", ")
    );
    let file = folder.join("account.toml");
    std::fs::write(&file, text + &webhook).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// A client of the sandbox's API, with the key of the invoice-fetcher.
pub(super) fn client(config: &Config) -> anyhow::Result<Client> {
    let digital_river = config.digital_river();
    digital_river.validate()?;
    Ok(Client::new(&digital_river, Arc::new(SystemClock))?)
}

/// Fetches the events that were played and never delivered, as `riverlock reconcile --apply` does. The command itself
/// looks back 30 days, and the played events are older.
///
/// # Errors
/// When the comparison is not completed.
pub(super) async fn reconcile(config: &Config, played: &PlayConfig, shutdown: &Shutdown) -> anyhow::Result<Report> {
    out::line("comparing with the sandbox's list of events, and fetching those that were never delivered");
    let times = played.lives().flat_map(|life| life.events.into_iter().map(|event| event.created_time));
    let range = times.fold(None, |range: Option<Range>, time| {
        let range = range.unwrap_or(Range { from: time, to: time });
        Some(Range { from: range.from.min(time), to: range.to.max(time + TimeDelta::seconds(1)) })
    });
    let client = client(config)?;
    let consumers = config.consumers();
    let reconciler = Reconciler {
        client: &client,
        kafka: &config.kafka,
        consumers: &consumers,
        answer_limit: config.postgres.answer_limit(),
        clock: &SystemClock,
        stop: shutdown.soft(),
    };
    let options = Options {
        mode: Mode::from_live(played.mode.is_live()),
        types: TYPES.map(str::to_owned).to_vec(),
        range: range.context("no events were played")?,
        window: TimeDelta::hours(6),
        overlap: TimeDelta::minutes(5),
        catch_up: CATCH_UP,
        apply: true,
        resume: false,
        priority: Priority::Foreground,
    };
    let mut connection = config.postgres.connect_as("reconcile").await?;
    Ok(reconciler.run(&mut connection, &options, &mut |_| {}).await?)
}
