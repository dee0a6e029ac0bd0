//! `riverlock replay`: records that were read before, into the live state again.

pub mod args;
mod progress;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::postgres::bounded;
use riverlock_recovery::replay::{self, Consumer, PlanSummary, Replay, ReplayResult, RunView, Selection};
use riverlock_runtime::{Clock as _, Shutdown, SystemClock};
use riverlock_schemas::time::to_micros;

use self::progress::Progress;
use crate::{
    config::Config,
    consumers as parts,
    exit::{self, Usage, Wrong},
    repair::replay::args::{Offsets, ReplayCommand, ReplayOptions, SelectionOptions},
    terminal::out::{Output, Page},
};

/// Most plans that are looked through.
const PLANS_MAX: i64 = 100_000;

pub(crate) async fn run(file: Option<&Path>, options: ReplayOptions) -> anyhow::Result<ExitCode> {
    if let Some(ReplayCommand::List { limit, after, output }) = options.command {
        return list(&Config::load(file)?, limit, after.as_deref(), output).await;
    }
    if let Some(hash) = options.plan.as_deref().filter(|_| !options.apply) {
        return show(&Config::load(file)?, hash, options.output).await;
    }
    let config = Config::load_with_kafka(file)?;
    parts::check(&config)?;
    let by = options.by.name()?;
    let why = if options.apply { options.reason.needed()? } else { options.reason.of_dry_run() };
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
        by: &by,
        why: &why,
    };
    let mut progress = Progress::new()?;
    match &options.plan {
        Some(hash) => {
            let applied = replay::apply(&replay, hash, &mut progress).await;
            progress.end();
            tell_applied(&applied?, options.output)
        }
        None => {
            let selection = selection(&options.selection)?;
            let planned = replay::plan(&replay, &selection, options.list, &mut progress).await;
            progress.end();
            let planned = planned?;
            options.output.whole(&planned, |text| write_planned(text, &selection, &planned))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The consumers as the services have them.
pub fn consumers(config: &Config) -> [Consumer; 2] {
    let topics = config.kafka.topics();
    [Consumer::new(parts::orders(config), topics.orders()), Consumer::new(parts::invoices(config), topics.files())]
}

fn selection(options: &SelectionOptions) -> anyhow::Result<Selection> {
    let now = SystemClock.now();
    let moment = |moment: Option<crate::options::moment::Moment>| {
        let too_long = || Usage("--since and --until: that is too long ago".to_owned());
        moment.map(|moment| moment.checked_at(now).map(to_micros).ok_or_else(too_long)).transpose()
    };
    let selection = Selection {
        topics: options.topic.clone(),
        partitions: options.partition.clone(),
        offsets: options.offsets.map(|Offsets(first, end)| (first, end)),
        from: moment(options.since)?,
        until: moment(options.until)?,
        orders: options.order.clone(),
        events: options.event.clone(),
    };
    if !options.all && selection == Selection::default() {
        let what = "--order, --event, --topic (with --partition and --offsets), --since and --until, or --all";
        return Err(Usage(format!("say what is replayed: {what}")).into());
    }
    Ok(selection)
}

fn write_planned(text: &mut String, selection: &Selection, planned: &PlanSummary) -> std::fmt::Result {
    let report = &planned.report;
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
    more(text, report.orders, planned.orders.len())?;
    writeln!(text, "messages   {} would be sent", report.effects)?;
    planned.effects.iter().try_for_each(|effect| writeln!(text, "  {effect}"))?;
    more(text, report.effects, planned.effects.len())?;
    writeln!(text, "documents  {} would be queued", report.documents)?;
    match planned.plan {
        Some(plan) => {
            writeln!(text, "plan       {plan}\ndo it with: {}", do_it(&plan.to_string()))
        }
        None => writeln!(text, "there is nothing to do, so there is no plan"),
    }
}

/// The command that does a plan.
fn do_it(plan: &str) -> String {
    format!("riverlock replay --plan {} --apply --reason <why>", short(plan))
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

fn tell_applied(applied: &ReplayResult, output: Output) -> anyhow::Result<ExitCode> {
    let ReplayResult { plan, done, records, fresh, effects, chunks, .. } = applied;
    output.whole(applied, |text| {
        writeln!(text, "{records} records read in {chunks} chunks: {fresh} new, {effects} messages written")?;
        match done {
            true => writeln!(text, "plan {} is done", short(plan)),
            false => writeln!(text, "stopped; go on with: {}", do_it(plan)),
        }
    })?;
    Ok(ExitCode::from(if *done { exit::WELL } else { exit::STOPPED }))
}

async fn runs(config: &Config) -> anyhow::Result<Vec<RunView>> {
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    Ok(bounded(config.postgres.answer_limit(), replay::runs(&mut connection, PLANS_MAX)).await?)
}

async fn list(config: &Config, limit: i64, after: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    let mut runs = runs(config).await?;
    if let Some(after) = after {
        let found = runs.iter().position(|run| run.plan.starts_with(after));
        let last = found.ok_or_else(|| Usage(format!("--after: there is no plan {after}")))?;
        runs.drain(..=last);
    }
    let page = Page::cut(runs, limit, |run| short(&run.plan).to_owned());
    output.page(&page, "plans", write_run)?;
    Ok(ExitCode::SUCCESS)
}

/// What became of a plan.
async fn show(config: &Config, hash: &str, output: Output) -> anyhow::Result<ExitCode> {
    let is_meant = |run: &RunView| run.plan.starts_with(hash);
    let run = runs(config).await?.into_iter().find(is_meant);
    let run = run.ok_or_else(|| Wrong(format!("there is no plan {hash}; a dry run makes one and prints its hash")))?;
    output.whole(&run, |text| {
        write_run(text, &run)?;
        writeln!(text, "nothing was done; do it with: {}", do_it(&run.plan))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write_run(text: &mut String, run: &RunView) -> std::fmt::Result {
    let RunView { planned_at, planned_by, selection, planned, state, records, fresh, updated_at, .. } = run;
    let why = run.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    let by = run.started_by.as_deref().map(|by| format!(" by {by}{why}")).unwrap_or_default();
    writeln!(text, "{}  planned {planned_at} by {planned_by}: {selection}", short(&run.plan))?;
    let (all_records, all_fresh) = (planned.records, planned.fresh());
    writeln!(text, "  {state}{by} {updated_at}: {records} of {all_records} records, {fresh} of {all_fresh} new")?;
    if let (Some(by), Some(why)) = (&run.resumed_by, &run.resumed_why) {
        writeln!(text, "  continued after an interruption by {by} ({why})")?;
    }
    run.detail.as_deref().map_or(Ok(()), |detail| writeln!(text, "  {detail}"))
}
