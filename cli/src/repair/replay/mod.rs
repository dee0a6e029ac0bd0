//! `riverlock replay`: past records are read again, and missing ones are applied.

pub mod args;
mod progress;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_ledger::postgres::bounded;
use riverlock_recovery::replay::{self, Consumer, PlanSummary, Replay, ReplayResult, RunView, Selection};
use riverlock_runtime::{Clock as _, Shutdown, SystemClock};
use riverlock_schemas::time::{rfc3339, to_micros};

use crate::{
    config::Config,
    consumers as parts,
    exit::{self, Problem, UsageError},
    options::moment::Moment,
    terminal::{
        out::{Output, Page},
        table::Column,
        text::{MISSING, count, printable},
    },
};

use self::{
    args::{OffsetsOption, ReplayCommand, ReplayOptions, SelectionOptions},
    progress::Progress,
};

/// Most plans that are searched.
const PLANS_MAX: i64 = 100_000;

pub(crate) async fn run(file: Option<&Path>, options: ReplayOptions) -> anyhow::Result<ExitCode> {
    if let Some(ReplayCommand::List { limit, after, output }) = options.command {
        return list(&Config::load(file)?, limit, after.as_deref(), output).await;
    }
    if let Some(hash) = options.plan.as_deref().filter(|_| !options.apply) {
        return show(&Config::load(file)?, hash, options.output).await;
    }
    let mut config = Config::load_with_kafka(file)?;
    parts::check(&config)?;
    let by = options.operator.name()?;
    let why = options.reason.of_run(options.apply)?;
    config.find_topics().await?;
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
            print_applied(&applied?, options.output)
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

/// The consumers with the configuration of the services.
pub fn consumers(config: &Config) -> [Consumer; 2] {
    let topics = config.kafka.topics();
    [Consumer::new(parts::orders(config), topics.orders()), Consumer::new(parts::invoices(config), topics.documents())]
}

fn selection(options: &SelectionOptions) -> anyhow::Result<Selection> {
    let now = SystemClock.now();
    let moment = |moment: Option<Moment>| {
        let too_long = || UsageError("--since and --until: the duration is too long".to_owned());
        moment.map(|moment| moment.checked_at(now).map(to_micros).ok_or_else(too_long)).transpose()
    };
    let selection = Selection {
        topics: options.topic.clone(),
        types: options.event_type.clone(),
        partitions: options.partition.clone(),
        offsets: options.offsets.map(|OffsetsOption(first, end)| (first, end)),
        from: moment(options.since)?,
        until: moment(options.until)?,
        orders: options.order.clone(),
        events: options.event.clone(),
    };
    if !options.all && selection == Selection::default() {
        let what = "--order, --event, --type, --topic (with --partition and --offsets), --since and --until, or --all";
        return Err(UsageError(format!("select records with {what}")).into());
    }
    Ok(selection)
}

fn write_planned(text: &mut String, selection: &Selection, planned: &PlanSummary) -> std::fmt::Result {
    let report = &planned.report;
    writeln!(text, "dry run of {selection}: nothing was changed")?;
    writeln!(
        text,
        "records    {} selected of {} read, {} of them known and skipped",
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
            writeln!(text, "plan       {plan}\napply with: {}", apply_command(&plan.to_string()))
        }
        None => writeln!(text, "nothing to apply; no plan was stored"),
    }
}

/// The command that applies a plan.
fn apply_command(plan: &str) -> String {
    format!("riverlock replay --plan {} --apply --reason TEXT", short(plan))
}

/// The beginning of a plan's hash, enough to select it.
fn short(plan: &str) -> &str {
    plan.get(..16).unwrap_or(plan)
}

fn more(text: &mut String, all: u64, listed: usize) -> std::fmt::Result {
    match all.saturating_sub(listed as u64) {
        0 => Ok(()),
        unlisted => writeln!(text, "  and {unlisted} more; list more with --list"),
    }
}

fn print_applied(applied: &ReplayResult, output: Output) -> anyhow::Result<ExitCode> {
    let ReplayResult { plan, done, records, fresh, effects, chunks, .. } = applied;
    output.whole(applied, |text| {
        writeln!(
            text,
            "{} read in {}: {fresh} new, {} written",
            count(*records, "record"),
            count(*chunks, "chunk"),
            count(*effects, "message")
        )?;
        match done {
            true => writeln!(text, "plan {} applied", short(plan)),
            false => writeln!(text, "interrupted; continue with: {}", apply_command(plan)),
        }
    })?;
    Ok(ExitCode::from(if *done { exit::SUCCESS } else { exit::INTERRUPTED }))
}

async fn runs(config: &Config) -> anyhow::Result<Vec<RunView>> {
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    Ok(bounded(config.postgres.answer_limit(), replay::runs(&mut connection, PLANS_MAX)).await?)
}

async fn list(config: &Config, limit: i64, after: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    let mut runs = runs(config).await?;
    if let Some(after) = after {
        let found = runs.iter().position(|run| run.plan.starts_with(after));
        let last = found.ok_or_else(|| UsageError(format!("--after: no plan {after}")))?;
        runs.drain(..=last);
    }
    let page = Page::cut(runs, limit, |run| short(&run.plan).to_owned());
    output.page(&page, "plan", &COLUMNS, values)?;
    Ok(ExitCode::SUCCESS)
}

/// The state of a plan that was applied completely.
const DONE: &str = "done";

/// Shows the progress of a plan.
async fn show(config: &Config, hash: &str, output: Output) -> anyhow::Result<ExitCode> {
    let is_selected = |run: &RunView| run.plan.starts_with(hash);
    let run = runs(config).await?.into_iter().find(is_selected);
    let run = run.ok_or_else(|| Problem(format!("no plan {hash}; a dry run stores a plan and prints its hash")))?;
    output.whole(&run, |text| {
        write_run(text, &run)?;
        match run.state.as_str() {
            DONE => Ok(()),
            _ => writeln!(text, "nothing was changed; apply with: {}", apply_command(&run.plan)),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The columns of `replay list`.
const COLUMNS: [Column; 9] = [
    Column::text("PLANNED"),
    Column::text("PLAN"),
    Column::text("BY"),
    Column::text("SELECTION"),
    Column::text("STATE"),
    Column::text("APPLIED BY"),
    Column::text("UPDATED"),
    Column::number("RECORDS"),
    Column::number("NEW"),
];

fn values(run: &RunView) -> [String; 9] {
    [
        rfc3339(run.planned_at),
        short(&run.plan).to_owned(),
        run.planned_by.clone(),
        run.selection.to_string(),
        run.detail.as_deref().map_or_else(|| run.state.clone(), |detail| format!("{}: {detail}", run.state)),
        run.started_by.clone().unwrap_or_else(|| MISSING.to_owned()),
        rfc3339(run.updated_at),
        format!("{} of {}", run.records, run.planned.records),
        format!("{} of {}", run.fresh, run.planned.fresh()),
    ]
}

fn write_run(text: &mut String, run: &RunView) -> std::fmt::Result {
    let RunView { planned_by, selection, planned, state, records, fresh, .. } = run;
    let (planned_at, updated_at) = (rfc3339(run.planned_at), rfc3339(run.updated_at));
    let why = run.why.as_deref().map(|why| format!(" ({})", printable(why))).unwrap_or_default();
    let by = run.started_by.as_deref().map(|by| format!(" by {}{why}", printable(by))).unwrap_or_default();
    let plan = short(&run.plan);
    writeln!(text, "plan {plan}: {}", state.to_uppercase())?;
    writeln!(text, "  planned   {planned_at} by {}: {selection}", printable(planned_by))?;
    let (all_records, all_fresh) = (planned.records, planned.fresh());
    writeln!(text, "  progress  {records} of {all_records} records, {fresh} of {all_fresh} new{by}, {updated_at}")?;
    if let (Some(by), Some(why)) = (&run.resumed_by, &run.resumed_why) {
        writeln!(text, "  resumed   by {} ({})", printable(by), printable(why))?;
    }
    run.detail.as_deref().map_or(Ok(()), |detail| writeln!(text, "  detail    {}", printable(detail)))
}
