//! `riverlock invoices`: look at documents, get them, have them tried again, compare them with the archive, link them.

pub mod args;
mod copy;
mod verify;

use std::{fmt::Write as _, path::Path, process::ExitCode, str::FromStr, time::Duration};

use anyhow::Context as _;
use riverlock_invoice_fetcher::{
    InvoiceQueue,
    client::links::{self, LinkError},
    queue::{
        ignored, missing,
        retry::{self, Request, RetryResult, Run},
        view::{self, Filter, InvoiceView, RetryView},
    },
};
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_schemas::{FileId, Mode};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    config::Config,
    exit::{self, Usage, Wrong},
    look::invoices::args::{
        Cursor, FilterOptions, InvoicesCommand, ListOptions, MissingCursor, QueueIgnoredOptions, RetryOptions, State,
    },
    terminal::out::{self, Output, Page},
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

/// What is tried again, or would be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TriedAgain {
    applied: bool,
    documents: Vec<RetryResult>,
    /// Why a document that was named is not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_over: Option<String>,
}

/// The database, and how long each of its answers is waited for.
struct Desk {
    connection: PgConnection,
    limit: Duration,
}

pub(crate) async fn run(file: Option<&Path>, command: InvoicesCommand) -> anyhow::Result<ExitCode> {
    let config = match &command {
        InvoicesCommand::QueueIgnored(_) => Config::load_with_kafka(file)?,
        _ => Config::load(file)?,
    };
    let connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let mut desk = Desk { connection, limit: config.postgres.answer_limit() };
    match command {
        InvoicesCommand::List(options) if options.missing => list_missing(&config, &mut desk, &options).await,
        InvoicesCommand::List(options) => list(&config, &mut desk, options).await,
        InvoicesCommand::Show { file_id, output } => show(&mut desk, file_id, output).await,
        InvoicesCommand::Fetch(options) => {
            let invoice = desk.known(options.file_id).await?;
            copy::fetch(&config, &invoice, options).await
        }
        InvoicesCommand::Open { file_id, output } => {
            let invoice = desk.known(file_id).await?;
            copy::open(&config, &invoice, output).await
        }
        InvoicesCommand::Retry(options) => try_again(&mut desk, options).await,
        InvoicesCommand::Verify(options) => verify::run(&config, &mut desk, options).await,
        InvoicesCommand::QueueIgnored(options) => queue_ignored(&config, &mut desk, options).await,
        InvoicesCommand::Link { file_id, expires, output } => {
            let invoice = desk.known(file_id).await?;
            link(&config, &invoice, expires, output).await
        }
    }
}

impl Desk {
    async fn known(&mut self, file_id: FileId) -> anyhow::Result<InvoiceView> {
        let found = bounded(self.limit, view::find(&mut self.connection, file_id)).await?;
        Ok(found.ok_or_else(|| Wrong(format!("no document {file_id} was ever announced")))?)
    }
}

fn filter(file_id: Option<FileId>, state: Option<State>, options: FilterOptions) -> Filter {
    let now = SystemClock.now();
    Filter {
        file_id,
        order_id: options.order,
        state: state.map(|state| state.as_str().to_owned()),
        reason: options.error,
        mode: options.mode.map(Mode::from),
        queued_since: options.since.map(|since| since.at(now)),
        queued_before: options.until.map(|until| until.at(now)),
    }
}

/// What `--after` says.
fn cursor<T: FromStr<Err = &'static str>>(after: Option<&str>) -> Result<Option<T>, Usage> {
    after.map(str::parse).transpose().map_err(|error| Usage(format!("--after: {error}")))
}

async fn list(config: &Config, desk: &mut Desk, options: ListOptions) -> anyhow::Result<ExitCode> {
    let after = cursor::<Cursor>(options.after.as_deref())?.map(|Cursor(position)| position);
    let state = if options.waiting_account { Some(State::Due) } else { options.state };
    let mut filter = filter(None, state, options.filter);
    let mut is_any = true;
    if options.waiting_account {
        let fetcher = &config.invoice_fetcher;
        (filter.mode, is_any) = match (fetcher.live.is_some(), fetcher.test.is_some()) {
            (true, true) => (None, false),
            (false, false) => (None, true),
            (has_live, _) => (Some(Mode::from_live(!has_live)), true),
        };
    }
    let invoices = match is_any {
        true => bounded(desk.limit, view::list(&mut desk.connection, &filter, after, options.limit + 1)).await?,
        false => Vec::new(),
    };
    let page = Page::cut(invoices, options.limit, |invoice| Cursor(invoice.position()).to_string());
    options.output.page(&page, "documents", |text, invoice| {
        let order_id = invoice.order_id.escape_debug();
        writeln!(text, "{}  order {order_id} ({})  {invoice}", invoice.queued_at, invoice.mode())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list_missing(config: &Config, desk: &mut Desk, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let missing = &config.invoice_fetcher.missing;
    missing.validate()?;
    let after = cursor::<MissingCursor>(options.after.as_deref())?.map(|MissingCursor(position)| position);
    let now = SystemClock.now();
    let orders = missing::list(&mut desk.connection, missing, now, after.as_ref(), options.limit + 1);
    let orders = bounded(desk.limit, orders).await?;
    let page = Page::cut(orders, options.limit, |order| MissingCursor(order.position()).to_string());
    options.output.page(&page, "complete orders without an invoice", |text, order| {
        writeln!(
            text,
            "{}  order {} ({})  {} {}, selling entity {}: {}",
            order.complete_at,
            order.order_id.escape_debug(),
            Mode::from_live(order.live_mode),
            order.total_amount.as_deref().unwrap_or("unknown total"),
            order.currency.as_deref().unwrap_or_default(),
            order.selling_entity_id.as_deref().unwrap_or("unknown"),
            match order.announced {
                0 => "no invoice was announced".to_owned(),
                count => format!("{count} announced, none stored"),
            },
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(desk: &mut Desk, file_id: FileId, output: Output) -> anyhow::Result<ExitCode> {
    let invoice = desk.known(file_id).await?;
    let retries = bounded(desk.limit, view::retries(&mut desk.connection, file_id)).await?;
    let shown = Shown { invoice, retries };
    output.whole(&shown, |text| {
        let invoice = &shown.invoice;
        writeln!(text, "{invoice}")?;
        writeln!(text, "  order {} ({})", invoice.order_id.escape_debug(), invoice.mode())?;
        writeln!(text, "  queued {}", invoice.queued_at)?;
        if let Some(ended) = invoice.ended_at {
            writeln!(text, "  ended {ended}")?;
        }
        if let Some(earlier) = invoice.earlier_sha256 {
            writeln!(text, "  what was stored before had SHA-256 {earlier}")?;
        }
        shown.retries.iter().try_for_each(|retry| {
            let error = retry.last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            writeln!(
                text,
                "  {} had it tried again {}: {}; it was {} after {} attempts{error}",
                retry.retried_by, retry.retried_at, retry.reason, retry.state, retry.attempts
            )
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn try_again(desk: &mut Desk, options: RetryOptions) -> anyhow::Result<ExitCode> {
    let RetryOptions { file_id, state, filter: which, reason, by, limit, apply, output } = options;
    let filter = filter(file_id, state.map(State::from), which);
    let (run, reason) = if apply { (Run::Apply, reason.needed()?) } else { (Run::Dry, reason.of_dry_run()) };
    let request = Request { by: by.name()?, reason };
    let documents = bounded(desk.limit, retry::run(&mut desk.connection, &filter, limit, &request, run)).await?;
    // A document that was named and is not tried again gets a reason.
    let passed_over = match file_id.filter(|_| documents.is_empty()) {
        Some(file_id) => {
            let invoice = desk.known(file_id).await?;
            Some(format!(
                "it is passed over: it is stored, being fetched at the moment, or not what the filters mean ({invoice})"
            ))
        }
        None => None,
    };
    let tried = TriedAgain { applied: apply, documents, passed_over };
    output.whole(&tried, |text| {
        for row in &tried.documents {
            let error = row.last_error.as_deref().unwrap_or("never attempted");
            let order_id = row.order_id.escape_debug();
            writeln!(
                text,
                "{}  order {order_id}  {} after {} attempts: {error}",
                row.file_id, row.state, row.attempts
            )?;
        }
        let count = tried.documents.len();
        match apply {
            true => writeln!(text, "{count} documents are tried again now")?,
            false => writeln!(text, "{count} documents would be tried again; --apply does it")?,
        }
        if i64::try_from(count).is_ok_and(|count| count >= limit) {
            writeln!(text, "there may be more: --limit says how many at most")?;
        }
        tried.passed_over.as_ref().map_or(Ok(()), |reason| writeln!(text, "{reason}"))
    })?;
    Ok(exit::well_if(tried.passed_over.is_none()))
}

async fn queue_ignored(config: &Config, desk: &mut Desk, options: QueueIgnoredOptions) -> anyhow::Result<ExitCode> {
    let QueueIgnoredOptions { reason, by, apply, output } = options;
    let (run, reason) = if apply { (Run::Apply, reason.needed()?) } else { (Run::Dry, reason.of_dry_run()) };
    let request = Request { by: by.name()?, reason };
    let projection = InvoiceQueue::new(&config.invoice_fetcher);
    let totals = ignored::run(&mut desk.connection, &config.kafka, &projection, &request, run, desk.limit).await?;
    output.whole(&totals, |text| {
        let ignored::Totals { ignored, queued, gone, unusable } = totals;
        writeln!(text, "{ignored} events were ignored because their mode had no account")?;
        match apply {
            true => writeln!(text, "the documents of {queued} are queued now")?,
            false => writeln!(text, "the documents of {queued} would be queued; --apply does it")?,
        }
        if gone + unusable > 0 {
            writeln!(text, "{gone} are not in Kafka any more, {unusable} announce no document that could be fetched")?;
        }
        Ok(())
    })?;
    Ok(exit::well_if(totals.gone + totals.unusable == 0))
}

async fn link(config: &Config, invoice: &InvoiceView, expires: Duration, output: Output) -> anyhow::Result<ExitCode> {
    if expires.is_zero() || expires > LINK_MAX {
        return Err(Usage("--expires must be above 0 and at most a year".to_owned()).into());
    }
    let context = Context::new();
    let expires_at = context.clock.now() + expires;
    let link = links::create(&config.invoice_fetcher, &context, invoice.mode(), invoice.file_id, expires_at).await;
    let link = link.map_err(|error| match error {
        LinkError::NoAccount(_) => anyhow::Error::from(Usage(error.to_string())),
        LinkError::Answer(_) => anyhow::Error::from(Wrong(error.to_string())),
        LinkError::Config(_) | LinkError::Refused(_) => anyhow::Error::from(error),
    })?;
    output.whole(&link, |text| writeln!(text, "{}", link.url))?;
    if !output.json {
        out::note(&format!("works until {}; whoever has it can read the document", link.expires_time));
    }
    Ok(ExitCode::SUCCESS)
}
