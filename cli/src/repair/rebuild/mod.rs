//! `riverlock rebuild`: all tables again, from the beginning of the topics.

pub mod args;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use riverlock_invoice_fetcher::InvoiceQueue;
use riverlock_ledger::Projection as _;
use riverlock_processor::Orders;
use riverlock_recovery::rebuild::{FormerTables, Offsets, Reason, Rebuild, RebuildPlan, Report};
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::hash::Sha256Hash;
use serde_json::json;

use crate::{
    config::Config,
    consumers, exit,
    repair::rebuild::args::RebuildOptions,
    terminal::{out, progress as bar},
};

/// How often the live consumers may move on between two attempts to swap.
const SWAPS_MAX: usize = 5;
/// How near the live tables the rebuilt ones come before the live ones are held in a snapshot.
const NEAR_RECORDS: u64 = 10_000;

/// The consumers' halves that decide and write.
struct Projections {
    orders: Orders,
    invoices: InvoiceQueue,
}

pub(crate) async fn run(file: Option<&Path>, options: RebuildOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    consumers::check(&config)?;
    let reason = match options.apply {
        true => Some(Reason { by: options.by.clone().name()?, why: options.reason.clone().needed()? }),
        false => None,
    };
    let projections = Projections { orders: consumers::orders(&config), invoices: consumers::invoices(&config) };
    let plan = RebuildPlan {
        schema: options.schema.clone(),
        fingerprint: fingerprint(&config)?,
        fresh: options.fresh,
        consumers: config.consumers().to_vec(),
    };
    let mut rebuild = Rebuild::open(&config.kafka, &config.postgres, plan).await?;
    let report = build_and_compare(&rebuild, &projections).await?;
    let is_same = report.total == 0;
    let Some(reason) = reason else {
        options.output.whole(&json!({ "comparison": report }), |text| write(text, &report, &options.schema))?;
        options
            .output
            .people("nothing was changed; --apply --reason <why> puts the rebuilt tables in the live ones' place");
        return Ok(exit::well_if(is_same));
    };
    // What is different is told before anything is changed, because the change may be refused.
    let mut text = String::new();
    write(&mut text, &report, &options.schema)?;
    out::note(text.trim_end());
    let kept = swap(&mut rebuild, &projections, &reason).await?;
    let swapped = json!({ "comparison": report, "keptSchema": kept.schema, "messages": kept.messages });
    options.output.whole(&swapped, |text| tell(text, &kept, rebuild.live_schema()))?;
    Ok(ExitCode::SUCCESS)
}

/// What decides about records: this program, and the modes that it acts on. Accounts decide nothing: documents wait for one.
fn fingerprint(config: &Config) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let program = std::fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let orders: Vec<String> = config.processor.modes.iter().map(ToString::to_string).collect();
    Ok(format!("program {}, orders {}", Sha256Hash::of(&program), orders.join("+")))
}

/// Reads up to where the live consumers stand.
async fn catch_up(rebuild: &Rebuild, projections: &Projections, target: &Offsets) -> anyhow::Result<()> {
    let bar = bar::new("records")?;
    bar.set_length(rebuild.left(target).await?);
    let progress = |records| bar.inc(records);
    let built = async {
        rebuild.catch_up(&projections.orders, target, &SystemClock, &progress).await?;
        rebuild.catch_up(&projections.invoices, target, &SystemClock, &progress).await
    };
    let built = built.await;
    bar.finish_and_clear();
    built.with_context(|| {
        let (orders, invoices) = (projections.orders.name(), projections.invoices.name());
        format!("the tables of {orders} and {invoices} could not be built; run it again to go on")
    })
}

async fn build_and_compare(rebuild: &Rebuild, projections: &Projections) -> anyhow::Result<Report> {
    // The live tables move on while they are rebuilt, and are held only once the rest is short.
    loop {
        let target = rebuild.target().await?;
        let is_near = rebuild.left(&target).await? < NEAR_RECORDS;
        catch_up(rebuild, projections, &target).await?;
        if is_near {
            break;
        }
    }
    let snapshot = rebuild.snapshot().await?;
    catch_up(rebuild, projections, snapshot.target()).await?;
    Ok(rebuild.compare(snapshot).await?)
}

async fn swap(rebuild: &mut Rebuild, projections: &Projections, reason: &Reason) -> anyhow::Result<FormerTables> {
    rebuild.ensure_stopped().await?;
    let mut attempt = 0;
    loop {
        let target = rebuild.target().await?;
        catch_up(rebuild, projections, &target).await?;
        rebuild.finish().await?;
        if let Some(kept) = rebuild.swap(reason, SystemClock.now()).await? {
            return Ok(kept);
        }
        attempt += 1;
        anyhow::ensure!(attempt < SWAPS_MAX, riverlock_recovery::rebuild::RebuildError::Moved);
    }
}

fn write(text: &mut String, report: &Report, schema: &str) -> std::fmt::Result {
    writeln!(text, "{} records were read into schema {schema}, up to where the live tables stand", report.records)?;
    for table in &report.tables {
        let (live, rebuilt, differences) = (table.live, table.rebuilt, table.differences);
        writeln!(text, "  {:<18} {live:>10} live {rebuilt:>10} rebuilt {differences:>8} differ", table.table)?;
    }
    for difference in &report.differences {
        writeln!(text, "  {difference}")?;
    }
    let listed = report.differences.len() as u64;
    if report.total > listed {
        writeln!(text, "  and {} more", report.total - listed)?;
    }
    let result = if report.total == 0 { "OK".to_owned() } else { format!("{} DIFFERENCES", report.total) };
    writeln!(text, "rebuild: {result}")
}

fn tell(text: &mut String, kept: &FormerTables, live: &str) -> std::fmt::Result {
    let schema = &kept.schema;
    writeln!(
        text,
        "swapped: the rebuilt tables are live in schema {live}; {} messages will be published",
        kept.messages
    )?;
    writeln!(text, "start the services again. The former tables are in schema {schema}:")?;
    writeln!(text, "  to go back   riverlock rebuild --schema {schema} --apply --reason <why>")?;
    writeln!(text, "  to drop them psql -c 'DROP SCHEMA {schema} CASCADE'")
}
