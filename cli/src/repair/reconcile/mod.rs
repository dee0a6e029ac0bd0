//! `riverlock reconcile`: what Digital River has and Riverlock never got.

pub mod args;

use std::{
    fmt::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use chrono::{TimeDelta, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use riverlock_digital_river::{Client, Priority, webhooks::plan::WebhookPlan};
use riverlock_reconcile::{
    Options, Progress, Reconciler, Report,
    error::ReconcileError,
    job::Job,
    listing::windows::Range,
    objects::{self, Objects, ObjectsReport},
};
use riverlock_runtime::{Clock as _, ConfigError, Context, Shutdown, SystemClock};
use riverlock_schemas::Mode;

use crate::{
    config::Config,
    exit::{self, Usage},
    repair::reconcile::args::ReconcileOptions,
};

/// Orders and events that are printed one by one; JSON has more of them.
const PRINTED_MAX: usize = 20;

/// How much time one list of orders or documents covers.
const OBJECTS_WINDOW: Duration = Duration::from_secs(24 * 3_600);

/// How far back Digital River lists events.
const DAYS_BACK: TimeDelta = TimeDelta::days(riverlock_digital_river::events::DAYS_BACK);

pub(crate) async fn run(file: Option<&Path>, options: ReconcileOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    let client = client(&config)?;
    let wanted = options.mode.map(Mode::from);
    let modes: Vec<Mode> = client.modes().filter(|mode| wanted.is_none_or(|wanted| wanted == *mode)).collect();
    if modes.is_empty() {
        let reason = "no API key is configured for what is to be compared; set test.api_key or live.api_key";
        bail!(ConfigError::refused("digital_river", reason));
    }
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    if options.orders || options.documents {
        return compare_objects(&config, &client, &options, &modes, &shutdown).await;
    }
    let mut reports = Vec::new();
    for mode in modes {
        let wanted = wanted_of(&config, &options, mode)?;
        if wanted.types.is_empty() && options.mode.is_none() && client.modes().count() > 1 {
            continue;
        }
        let report = compare(&config, &client, &wanted, &shutdown).await.with_context(|| format!("{mode} data"))?;
        reports.push(report);
    }
    if reports.is_empty() {
        return Err(ReconcileError::NoTypes.into());
    }
    options.output.whole(&reports, |text| reports.iter().try_for_each(|report| write(text, report)))?;
    Ok(exit::well_if(reports.iter().all(|report| report.missing <= report.written)))
}

fn client(config: &Config) -> anyhow::Result<Client> {
    let digital_river = config.digital_river();
    digital_river.validate()?;
    config.reconcile.validate()?;
    Ok(Client::new(&digital_river, Arc::new(SystemClock))?)
}

/// The event types of a mode that are compared: those of the configuration, or those of the configured webhooks.
fn types(config: &Config, mode: Mode) -> Vec<String> {
    if !config.reconcile.types.is_empty() {
        return config.reconcile.types.clone();
    }
    WebhookPlan::types(mode, &config.webhooks).into_iter().map(str::to_owned).collect()
}

fn wanted_of(config: &Config, options: &ReconcileOptions, mode: Mode) -> anyhow::Result<Options> {
    let settings = &config.reconcile;
    let delta = |duration: Duration| TimeDelta::from_std(duration).context("a duration is too long");
    let now = SystemClock.now();
    let newest = now - delta(settings.settle)?;
    let to = options.until.map_or(newest, |until| until.at(now));
    // Younger events may still be on their way, and their window is not closed.
    let to = to.min(newest);
    let from = options.since.at(now).max(now - DAYS_BACK);
    if from >= to {
        bail!(Usage(format!("there is nothing to compare from {from} to {to}; see --since and --until")));
    }
    let window = options.window.unwrap_or(settings.window);
    if window < Duration::from_secs(60) {
        bail!(Usage("--window must be at least 1m".to_owned()));
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
    let style = "{bar:40} {percent}% of the time compared  {msg}  {elapsed} (left: {eta})";
    // It goes to standard error, and is not there where that is no terminal.
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template(style)?);
    let mut show = |progress: Progress| {
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
    let result = reconciler.run(&mut connection, options, &mut show).await;
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
        bail!(Usage(format!("there is nothing to compare from {from} to {to}; see --since and --until")));
    }
    let window = delta(options.window.unwrap_or(OBJECTS_WINDOW))?;
    let mut reports = Vec::new();
    for mode in modes {
        let span = (range, window);
        let database = (&mut connection, config.postgres.answer_limit());
        let report = objects::compare(client, database, (*mode, what), span, shutdown.soft()).await?;
        reports.push(report);
    }
    options.output.whole(&reports, |text| reports.iter().try_for_each(|report| write_objects(text, report)))?;
    Ok(exit::well_if(reports.iter().all(|report| report.missing == 0)))
}

fn write_objects(text: &mut String, report: &ObjectsReport) -> fmt::Result {
    let ObjectsReport { mode, what, listed, missing, objects, .. } = report;
    let time = |time: chrono::DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    writeln!(text, "{mode} data from {} to {}", time(report.from), time(report.to))?;
    writeln!(text, "{listed} {what} listed, {missing} not stored here")?;
    for object in objects.iter().take(PRINTED_MAX) {
        writeln!(text, "  {}  {}", object.kind, object.id)?;
    }
    if objects.len() > PRINTED_MAX {
        writeln!(text, "  and more; --json lists up to {}", riverlock_reconcile::report::NAMED_MAX)?;
    }
    Ok(())
}

/// Starts the background job, if it is configured.
pub(crate) fn start(config: &Config, context: &Context) -> anyhow::Result<()> {
    config.reconcile.validate()?;
    if config.reconcile.interval.is_none() {
        return Ok(());
    }
    let client = client(config)?;
    let types: Vec<_> = client.modes().map(|mode| (mode, types(config, mode))).collect();
    let types: Vec<_> = types.into_iter().filter(|(_, types)| !types.is_empty()).collect();
    if types.is_empty() {
        let reason = "needs an API key, and event types: set reconcile.types, or configure [[webhooks]]";
        bail!(ConfigError::refused("reconcile.interval", reason));
    }
    let job = Job {
        config: config.reconcile.clone(),
        client,
        kafka: Arc::new(config.kafka.clone()),
        postgres: config.postgres.clone(),
        consumers: config.consumers().to_vec(),
        types,
    };
    context.shutdown.spawn("reconcile", job.run(context.clone()));
    Ok(())
}

fn write(text: &mut String, report: &Report) -> fmt::Result {
    let time = |time: chrono::DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    writeln!(
        text,
        "{} data from {} to {}: {}",
        report.mode,
        time(report.from),
        time(report.to),
        report.types.join(", ")
    )?;
    if let Some(run) = report.resumed {
        writeln!(text, "went on with interrupted run {run}")?;
    }
    let Report { listed, missing, written, unusable, .. } = report;
    writeln!(text, "{listed} events listed, {missing} never came, {written} written")?;
    if *unusable > 0 {
        writeln!(text, "{unusable} listed elements are no events, or of the other mode; they were left out")?;
    }
    for (name, count) in &report.by_type {
        writeln!(text, "  {count:>8}  {name}")?;
    }
    for (hour, count) in &report.by_hour {
        writeln!(text, "  {count:>8}  {}", hour.format("%Y-%m-%d %H:00 UTC"))?;
    }
    for (order, count) in report.by_order.iter().take(PRINTED_MAX) {
        writeln!(text, "  {count:>8}  order {order}")?;
    }
    if report.by_order.len() > PRINTED_MAX {
        writeln!(text, "            and more orders; --json lists up to {}", riverlock_reconcile::report::NAMED_MAX)?;
    }
    if missing > written {
        writeln!(
            text,
            "Nothing was written. `riverlock reconcile --apply` writes the missing events to the raw topics."
        )?;
    }
    Ok(())
}
