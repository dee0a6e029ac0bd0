//! `riverlock replay`: records that were read before, into the live state again.

mod progress;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_ledger::replay::{self, Applied, Consumer, Planned, Replay, ReplayError, RunView, Selection};
use riverlock_processor::Orders;
use riverlock_runtime::{Clock as _, Shutdown, SystemClock};
use riverlock_schemas::time::to_micros;

use self::progress::Progress;
use crate::{
    args::replay::{Offsets, ReplayCommand, ReplayOptions, SelectionOptions},
    config::Config,
    out,
};

/// The plan would do something else now than it said: nothing of that was committed.
const EXIT_REFUSED: u8 = 3;
/// It was asked to end before it was done; the same command goes on.
const EXIT_STOPPED: u8 = 4;

pub(crate) async fn run(file: Option<&Path>, options: ReplayOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    if let Some(ReplayCommand::List { limit, json }) = options.command {
        return list(&config, limit, json).await;
    }
    config.processor.validate()?;
    config.invoice_fetcher.validate()?;
    anyhow::ensure!(!options.by.trim().is_empty(), "--by must say something");
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let consumers = consumers(&config);
    let replay = Replay {
        kafka: &config.kafka,
        postgres: &config.postgres,
        consumers: &consumers,
        clock: &SystemClock,
        stop: shutdown.soft().clone(),
        rate: options.rate,
        by: &options.by,
    };
    let mut progress = Progress::new()?;
    let result = match &options.apply {
        Some(hash) => {
            let applied = replay::apply(&replay, hash, &mut progress).await;
            progress.end();
            applied.map(|applied| tell_applied(&applied, options.json))
        }
        None => {
            let selection = selection(&options.selection)?;
            let planned = replay::plan(&replay, &selection, options.list, &mut progress).await;
            progress.end();
            planned.map(|planned| tell_planned(&selection, &planned, options.json))
        }
    };
    match result {
        Ok(result) => result,
        Err(error) => {
            let code = match &error {
                ReplayError::Deviates { .. } | ReplayError::ConsumerWentBack { .. } | ReplayError::Superseded(_) => {
                    EXIT_REFUSED
                }
                ReplayError::Stopped => EXIT_STOPPED,
                _ => return Err(error.into()),
            };
            eprintln!("riverlock: {error}");
            Ok(ExitCode::from(code))
        }
    }
}

/// The consumers as the services have them.
pub fn consumers(config: &Config) -> [Consumer; 2] {
    let topics = config.kafka.topics();
    [
        Consumer::new(Orders::new(config.processor.modes.clone()), topics.orders()),
        Consumer::new(InvoiceQueue::new(&config.invoice_fetcher), topics.files()),
    ]
}

fn selection(options: &SelectionOptions) -> anyhow::Result<Selection> {
    let now = SystemClock.now();
    let moment = |moment: Option<crate::args::moment::Moment>| {
        let time = moment.map(|moment| moment.checked_at(now).map(to_micros).context("that is too long ago"));
        time.transpose()
    };
    let selection = Selection {
        topics: options.topic.clone(),
        partitions: options.partition.clone(),
        offsets: options.offsets.map(|Offsets(first, end)| (first, end)),
        from: moment(options.from)?,
        until: moment(options.until)?,
        orders: options.order.clone(),
        events: options.event.clone(),
    };
    anyhow::ensure!(
        options.all || selection != Selection::default(),
        "say what: --order, --event, --topic (with --partition and --offsets), --from and --until, or --all"
    );
    Ok(selection)
}

fn tell_planned(selection: &Selection, planned: &Planned, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(planned)?);
    } else {
        out::print(&planned_text(selection, planned)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn planned_text(selection: &Selection, planned: &Planned) -> Result<String, std::fmt::Error> {
    let (mut text, report) = (String::new(), &planned.report);
    writeln!(text, "dry run of {selection}: nothing was changed")?;
    writeln!(
        text,
        "records    {} selected of {} read, {} of them known: nothing happens",
        report.records, planned.read, report.known
    )?;
    write!(text, "new       ")?;
    for outcome in riverlock_ledger::metrics::OUTCOMES {
        write!(text, " {outcome}={}", report.outcomes.get(outcome).copied().unwrap_or_default())?;
    }
    writeln!(text, "\norders     {} would change", report.orders)?;
    planned.orders.iter().try_for_each(|order| writeln!(text, "  {order}"))?;
    more(&mut text, report.orders, planned.orders.len())?;
    writeln!(text, "messages   {} would be sent", report.effects)?;
    planned.effects.iter().try_for_each(|effect| writeln!(text, "  {effect}"))?;
    more(&mut text, report.effects, planned.effects.len())?;
    writeln!(text, "documents  {} would be queued", report.documents)?;
    match planned.plan {
        Some(plan) => {
            writeln!(text, "plan       {plan}\ndo it with: riverlock replay --apply {}", short(&plan.to_string()))?;
        }
        None => writeln!(text, "there is nothing to do, so there is no plan")?,
    }
    Ok(text)
}

/// As much of a plan's hash as people need.
fn short(plan: &str) -> &str {
    plan.get(..16).unwrap_or(plan)
}

fn more(text: &mut String, all: u64, listed: usize) -> std::fmt::Result {
    match all.saturating_sub(listed as u64) {
        0 => Ok(()),
        unlisted => writeln!(text, "  and {unlisted} more; --list shows more"),
    }
}

fn tell_applied(applied: &Applied, json: bool) -> anyhow::Result<ExitCode> {
    let Applied { plan, done, records, fresh, effects, chunks, .. } = applied;
    if json {
        println!("{}", serde_json::to_string_pretty(applied)?);
    } else {
        println!("{records} records read in {chunks} chunks: {fresh} new, {effects} messages written");
        let short = short(plan);
        if *done {
            println!("plan {short} is done");
        } else {
            println!("stopped; go on with: riverlock replay --apply {short}");
        }
    }
    Ok(if *done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_STOPPED) })
}

async fn list(config: &Config, limit: i64, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let runs = replay::runs(&mut connection, limit).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
        return Ok(ExitCode::SUCCESS);
    }
    for RunView {
        plan,
        planned_at,
        planned_by,
        selection,
        planned,
        state,
        records,
        fresh,
        detail,
        started_by,
        updated_at,
        ..
    } in &runs
    {
        let by = started_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
        println!(
            "{}  planned {planned_at} by {planned_by}: {selection}\n  {state}{by} {updated_at}: {records} of {} records, {fresh} of {} new",
            short(plan),
            planned.records,
            planned.fresh(),
        );
        if let Some(detail) = detail {
            println!("  {detail}");
        }
    }
    println!("{} plans", runs.len());
    Ok(ExitCode::SUCCESS)
}
