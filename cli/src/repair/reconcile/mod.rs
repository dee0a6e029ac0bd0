//! `riverlock reconcile`: Digital River's lists compared with what is stored.

pub mod args;
mod client;
pub(crate) mod job;
mod print;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use chrono::TimeDelta;
use riverlock_digital_river::{Client, Priority};
use riverlock_reconcile::{
    Options, Progress, Reconciler, Report,
    error::ReconcileError,
    listing::windows::Range,
    objects::{self, Objects},
};
use riverlock_runtime::{Clock as _, ConfigError, Shutdown, SystemClock};
use riverlock_schemas::{Mode, time::rfc3339};

use crate::{
    config::Config,
    exit::{self, UsageError},
    terminal::progress,
};

use self::{
    args::ReconcileOptions,
    client::{client, types},
};

/// The time span of one request for orders or documents.
const OBJECTS_WINDOW: Duration = Duration::from_secs(24 * 3_600);

/// How far back Digital River lists events.
const DAYS_BACK: TimeDelta = TimeDelta::days(riverlock_digital_river::events::DAYS_BACK);

pub(crate) async fn run(file: Option<&Path>, options: ReconcileOptions) -> anyhow::Result<ExitCode> {
    let mut config = Config::load_with_kafka(file)?;
    let client = client(&config)?;
    let wanted = options.mode.map(Mode::from);
    let modes: Vec<Mode> = client.modes().filter(|mode| wanted.is_none_or(|wanted| wanted == *mode)).collect();
    if modes.is_empty() {
        let reason = "no API key is configured; set test.api_key or live.api_key";
        bail!(ConfigError::refused("digital_river", reason));
    }
    config.find_topics().await?;
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    if options.orders || options.documents {
        return compare_objects(&config, &client, &options, &modes, &shutdown).await;
    }
    let mut reports = Vec::new();
    for mode in modes {
        let wanted = comparison_options(&config, &options, mode)?;
        if wanted.types.is_empty() && options.mode.is_none() && client.modes().count() > 1 {
            continue;
        }
        let report = compare(&config, &client, &wanted, &shutdown).await.with_context(|| format!("{mode} data"))?;
        reports.push(report);
    }
    if reports.is_empty() {
        return Err(ReconcileError::NoTypes.into());
    }
    options.output.whole(&reports, |text| reports.iter().try_for_each(|report| print::events(text, report)))?;
    Ok(exit::success_if(reports.iter().all(|report| report.missing <= report.written)))
}

fn comparison_options(config: &Config, options: &ReconcileOptions, mode: Mode) -> anyhow::Result<Options> {
    let settings = &config.reconcile;
    let delta = |duration: Duration| TimeDelta::from_std(duration).context("a duration is too long");
    let now = SystemClock.now();
    let newest = now - delta(settings.settle)?;
    let to = options.until.map_or(newest, |until| until.at(now));
    // Newer events may not be delivered yet.
    let to = to.min(newest);
    let from = options.since.at(now).max(now - DAYS_BACK);
    if from >= to {
        bail!(UsageError(format!(
            "nothing to compare between {} and {}; see --since and --until",
            rfc3339(from),
            rfc3339(to)
        )));
    }
    let window = options.window.unwrap_or(settings.window);
    if window < Duration::from_secs(60) {
        bail!(UsageError("--window must be at least 1m".to_owned()));
    }
    Ok(Options {
        mode,
        types: if options.types.is_empty() { types(config, mode) } else { options.types.clone() },
        range: Range { from, to },
        window: delta(window)?,
        overlap: delta(settings.overlap)?,
        catch_up: settings.catch_up,
        apply: options.apply,
        resume: !options.restart,
        priority: if options.background { Priority::Background } else { Priority::Foreground },
    })
}

async fn compare(config: &Config, client: &Client, options: &Options, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let mut connection =
        config.postgres.connect_as("reconcile").await.context("PostgreSQL does not take a connection")?;
    let bar = progress::percent()?;
    let mut observe = |progress: Progress| {
        let seconds = |delta: TimeDelta| u64::try_from(delta.num_seconds()).unwrap_or_default();
        bar.set_length(seconds(progress.total).max(1));
        bar.set_position(seconds(progress.covered));
        let per_second = progress.listed as f64 / bar.elapsed().as_secs_f64().max(0.001);
        bar.set_message(format!("{} events, {per_second:.0}/s, {} missing", progress.listed, progress.missing));
    };
    let consumers = config.consumers();
    let reconciler = Reconciler {
        client,
        kafka: &config.kafka,
        consumers: &consumers,
        answer_limit: config.postgres.answer_limit(),
        clock: &SystemClock,
        stop: shutdown.soft(),
    };
    let result = reconciler.run(&mut connection, options, &mut observe).await;
    bar.finish_and_clear();
    Ok(result?)
}

/// Compares orders or documents.
async fn compare_objects(
    config: &Config,
    client: &Client,
    options: &ReconcileOptions,
    modes: &[Mode],
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let mut connection =
        config.postgres.connect_as("reconcile").await.context("PostgreSQL does not take a connection")?;
    let what = if options.orders { Objects::Orders } else { Objects::Documents };
    let now = SystemClock.now();
    let delta = |duration: Duration| TimeDelta::from_std(duration).context("a duration is too long");
    let newest = now - delta(config.reconcile.settle)?;
    let to = options.until.map_or(newest, |until| until.at(now)).min(newest);
    let range = Range { from: options.since.at(now), to };
    if range.from >= range.to {
        let Range { from, to } = range;
        bail!(UsageError(format!(
            "nothing to compare between {} and {}; see --since and --until",
            rfc3339(from),
            rfc3339(to)
        )));
    }
    let window = delta(options.window.unwrap_or(OBJECTS_WINDOW))?;
    let mut reports = Vec::new();
    for mode in modes {
        let span = (range, window);
        let database = (&mut connection, config.postgres.answer_limit());
        let report = objects::compare(client, database, (*mode, what), span, shutdown.soft()).await?;
        reports.push(report);
    }
    options.output.whole(&reports, |text| reports.iter().try_for_each(|report| print::objects(text, report)))?;
    Ok(exit::success_if(reports.iter().all(|report| report.missing == 0)))
}
