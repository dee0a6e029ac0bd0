//! `riverlock rebuild`: all tables are rebuilt from the topics, compared, and swapped.

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
    terminal::{
        out, progress,
        table::{Column, Layout, Table},
        text::count,
    },
};

use self::args::RebuildOptions;

/// Attempts to swap before the command fails because live consumers still write.
const SWAPS_MAX: usize = 5;
/// The distance to the live tables, in records, at which the live tables are read in a snapshot.
const NEAR_RECORDS: u64 = 10_000;

/// The projections of both consumers.
struct Projections {
    orders: Orders,
    invoices: InvoiceQueue,
}

pub(crate) async fn run(file: Option<&Path>, options: RebuildOptions) -> anyhow::Result<ExitCode> {
    let mut config = Config::load_with_kafka(file)?;
    consumers::check(&config)?;
    let reason = match options.apply {
        true => Some(Reason { by: options.operator.clone().name()?, why: options.reason.clone().required()? }),
        false => None,
    };
    config.find_topics().await?;
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
        options.output.text("nothing was changed; replace the live tables with --apply --reason TEXT");
        return Ok(exit::success_if(is_same));
    };
    // The comparison is printed before the swap, which may be refused.
    let mut text = String::new();
    write(&mut text, &report, &options.schema)?;
    out::note(text.trim_end());
    let kept = swap(&mut rebuild, &projections, &reason).await?;
    let swapped = json!({ "comparison": report, "keptSchema": kept.schema, "messages": kept.messages });
    options.output.whole(&swapped, |text| write_swap(text, &kept, rebuild.live_schema()))?;
    Ok(ExitCode::SUCCESS)
}

/// Identifies what determines the result: this program, and the modes that the processor acts on. Accounts do not: documents of a
/// mode without an account wait for one.
fn fingerprint(config: &Config) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let program = std::fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let orders: Vec<String> = config.processor.modes.iter().map(ToString::to_string).collect();
    Ok(format!("program {}, orders {}", Sha256Hash::of(&program), orders.join("+")))
}

/// Reads up to the offsets of the live consumers.
async fn catch_up(rebuild: &Rebuild, projections: &Projections, target: &Offsets) -> anyhow::Result<()> {
    let bar = progress::counting("records")?;
    bar.set_length(rebuild.left(target).await?);
    let observe = |records| bar.inc(records);
    let built = async {
        rebuild.catch_up(&projections.orders, target, &SystemClock, &observe).await?;
        rebuild.catch_up(&projections.invoices, target, &SystemClock, &observe).await
    };
    let built = built.await;
    bar.finish_and_clear();
    built.with_context(|| {
        let (orders, invoices) = (projections.orders.name(), projections.invoices.name());
        format!("building the tables of {orders} and {invoices}; run the command again to continue")
    })
}

async fn build_and_compare(rebuild: &Rebuild, projections: &Projections) -> anyhow::Result<Report> {
    // The live tables change during the rebuild; the snapshot is taken once few records are left.
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

/// The columns of the comparison.
const COLUMNS: [Column; 4] =
    [Column::text("TABLE"), Column::number("LIVE"), Column::number("REBUILT"), Column::number("DIFFERENCES")];

fn write(text: &mut String, report: &Report, schema: &str) -> std::fmt::Result {
    writeln!(
        text,
        "{} read into schema {schema}, up to the offsets of the live tables",
        count(report.records, "record")
    )?;
    let mut tables = Table::new(&COLUMNS);
    for table in &report.tables {
        tables.row([
            table.table.to_string(),
            table.live.to_string(),
            table.rebuilt.to_string(),
            table.differences.to_string(),
        ]);
    }
    text.push_str(&tables.render(Layout::of_sections(), "  "));
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

fn write_swap(text: &mut String, kept: &FormerTables, live: &str) -> std::fmt::Result {
    let schema = &kept.schema;
    writeln!(
        text,
        "swapped: the rebuilt tables are live in schema {live}; {} will be published",
        count(kept.messages, "message")
    )?;
    writeln!(text, "start the services again. The former tables are in schema {schema}:")?;
    writeln!(text, "  to go back   riverlock rebuild --schema {schema} --apply --reason TEXT")?;
    writeln!(text, "  to drop them psql -c 'DROP SCHEMA {schema} CASCADE'")
}
