//! `riverlock invoices`: look at documents, get them, have them tried again, link them.

mod copy;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_invoice_fetcher::{
    links, missing,
    retry::{self, Request, Run},
    view::{self, Filter, InvoiceView, RetryView},
};
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_schemas::FileId;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    args::invoices::{FilterOptions, InvoicesCommand, ListOptions, RetryOptions},
    config::Config,
};

/// How long a link may work.
const LINK_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A document, and who had it tried again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    invoice: InvoiceView,
    retries: Vec<RetryView>,
}

pub(crate) async fn run(file: Option<&Path>, command: InvoicesCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    match command {
        InvoicesCommand::List(options) if options.missing => list_missing(&config, &mut connection, &options).await,
        InvoicesCommand::List(options) => list(&mut connection, &options).await,
        InvoicesCommand::Show { file_id, json } => show(&mut connection, file_id, json).await,
        InvoicesCommand::Fetch { file_id, output, force } => {
            let invoice = known(&mut connection, file_id).await?;
            copy::fetch(&config, &invoice, output, force).await
        }
        InvoicesCommand::Open { file_id } => {
            let invoice = known(&mut connection, file_id).await?;
            copy::open(&config, &invoice).await
        }
        InvoicesCommand::Retry(options) => try_again(&mut connection, options).await,
        InvoicesCommand::Link { file_id, expires, json } => {
            let invoice = known(&mut connection, file_id).await?;
            link(&config, &invoice, expires, json).await
        }
    }
}

async fn known(connection: &mut PgConnection, file_id: FileId) -> anyhow::Result<InvoiceView> {
    view::find(connection, file_id).await?.with_context(|| format!("no document {file_id} was ever announced"))
}

fn filter(file_id: Option<FileId>, options: FilterOptions) -> anyhow::Result<Filter> {
    let queued_before = options.older.map(|older| {
        SystemClock.now().checked_sub_signed(chrono::TimeDelta::from_std(older)?).context("--older is too long ago")
    });
    Ok(Filter {
        file_id,
        order_id: options.order,
        state: options.state.map(|state| state.as_str().to_owned()),
        reason: options.reason,
        queued_before: queued_before.transpose()?,
    })
}

async fn list(connection: &mut PgConnection, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let filter = filter(None, options.filter.clone())?;
    let invoices = view::list(connection, &filter, options.limit).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&invoices)?);
        return Ok(ExitCode::SUCCESS);
    }
    for invoice in &invoices {
        println!("{}  order {} ({})  {invoice}", invoice.queued_at, invoice.order_id, invoice.mode());
    }
    tell_limit(invoices.len(), options.limit, "documents");
    Ok(ExitCode::SUCCESS)
}

async fn list_missing(
    config: &Config,
    connection: &mut PgConnection,
    options: &ListOptions,
) -> anyhow::Result<ExitCode> {
    let missing = &config.invoice_fetcher.missing;
    missing.validate()?;
    let orders = missing::list(connection, missing, SystemClock.now(), options.limit).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&orders)?);
        return Ok(ExitCode::SUCCESS);
    }
    for order in &orders {
        println!(
            "{}  order {} ({})  {} {}, selling entity {}: {}",
            order.complete_at,
            order.order_id,
            riverlock_schemas::Mode::from_live(order.live_mode),
            order.total_amount.as_deref().unwrap_or("unknown total"),
            order.currency.as_deref().unwrap_or_default(),
            order.selling_entity_id.as_deref().unwrap_or("unknown"),
            match order.announced {
                0 => "no invoice was announced".to_owned(),
                count => format!("{count} announced, none stored"),
            },
        );
    }
    tell_limit(orders.len(), options.limit, "complete orders without an invoice");
    Ok(ExitCode::SUCCESS)
}

fn tell_limit(found: usize, limit: i64, what: &str) {
    match usize::try_from(limit) {
        Ok(limit) if found >= limit => println!("the first {found} {what}; --limit shows more"),
        _ => println!("{found} {what}"),
    }
}

async fn show(connection: &mut PgConnection, file_id: FileId, json: bool) -> anyhow::Result<ExitCode> {
    let invoice = known(connection, file_id).await?;
    let shown = Shown { invoice, retries: view::retries(connection, file_id).await? };
    if json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", shown.invoice);
    println!("  order {} ({})", shown.invoice.order_id, shown.invoice.mode());
    println!("  queued {}", shown.invoice.queued_at);
    if let Some(ended) = shown.invoice.ended_at {
        println!("  ended {ended}");
    }
    for retry in &shown.retries {
        let error = retry.last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
        println!(
            "  {} had it tried again {}: {}; it was {} after {} attempts{error}",
            retry.retried_by, retry.retried_at, retry.reason, retry.state, retry.attempts
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn try_again(connection: &mut PgConnection, options: RetryOptions) -> anyhow::Result<ExitCode> {
    let RetryOptions { file_id, filter: which, why, by, limit, apply } = options;
    anyhow::ensure!(!why.trim().is_empty() && !by.trim().is_empty(), "--why and --by must say something");
    let filter = filter(file_id, which)?;
    let run = if apply { Run::Apply } else { Run::Dry };
    let request = Request { by, reason: why };
    let retried = retry::run(connection, &filter, limit, &request, run).await?;
    for row in &retried {
        let error = row.last_error.as_deref().unwrap_or("never attempted");
        println!("{}  order {}  {} after {} attempts: {error}", row.file_id, row.order_id, row.state, row.attempts);
    }
    match run {
        Run::Apply => println!("{} documents are tried again now", retried.len()),
        Run::Dry => println!("{} documents would be tried again; --apply does it", retried.len()),
    }
    tell_untouched(connection, file_id, retried.is_empty()).await
}

/// A document that was asked for by its id and is not tried again gets a reason.
async fn tell_untouched(
    connection: &mut PgConnection,
    file_id: Option<FileId>,
    is_untouched: bool,
) -> anyhow::Result<ExitCode> {
    let Some(file_id) = file_id.filter(|_| is_untouched) else { return Ok(ExitCode::SUCCESS) };
    let invoice = known(connection, file_id).await?;
    println!("it is passed over: it is stored, being fetched at the moment, or not what the filters mean ({invoice})");
    Ok(ExitCode::FAILURE)
}

async fn link(config: &Config, invoice: &InvoiceView, expires: Duration, json: bool) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(!expires.is_zero() && expires <= LINK_MAX, "--expires must be above 0 and at most a year");
    let context = Context::new();
    let expires_at = context.clock.now() + expires;
    let link = links::create(&config.invoice_fetcher, &context, invoice.mode(), invoice.file_id, expires_at).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&link)?);
    } else {
        println!("{}", link.url);
        eprintln!("works until {}; whoever has it can read the document", link.expires_time);
    }
    Ok(ExitCode::SUCCESS)
}
