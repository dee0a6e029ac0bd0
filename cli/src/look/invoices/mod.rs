//! `riverlock invoices`: list, show, save, retry, verify and link documents.

pub mod args;
mod copy;
mod database;
mod print;
mod retry;
mod verify;

use std::{fmt::Write as _, path::Path, process::ExitCode, str::FromStr, time::Duration};

use anyhow::Context as _;
use riverlock_invoice_fetcher::{
    client::links::{self, LinkError},
    queue::{
        missing,
        view::{self, InvoiceView},
    },
};
use riverlock_ledger::postgres::bounded;
use riverlock_runtime::{Clock as _, Context, SystemClock};
use riverlock_schemas::{FileId, Mode, time::rfc3339};

use self::{
    args::{Cursor, DocumentState, InvoicesCommand, ListOptions, MissingCursor},
    database::{Database, filter},
    print::DocumentReport,
};
use crate::{
    config::Config,
    exit::{Problem, UsageError},
    terminal::out::{self, Output, Page},
};

/// Longest time that a link may work.
const LINK_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) async fn run(file: Option<&Path>, command: InvoicesCommand) -> anyhow::Result<ExitCode> {
    let config = match &command {
        InvoicesCommand::QueueIgnored(_) => Config::load_with_kafka(file)?,
        _ => Config::load(file)?,
    };
    let connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let mut database = Database { connection, limit: config.postgres.answer_limit() };
    match command {
        InvoicesCommand::List(options) if options.missing => list_missing(&config, &mut database, &options).await,
        InvoicesCommand::List(options) => list(&config, &mut database, options).await,
        InvoicesCommand::Show { file_id, output } => show(&mut database, file_id, output).await,
        InvoicesCommand::Fetch(options) => {
            let document = database.document(options.file_id).await?;
            copy::fetch(&config, &document, options).await
        }
        InvoicesCommand::Open { file_id, output } => {
            let document = database.document(file_id).await?;
            copy::open(&config, &document, output).await
        }
        InvoicesCommand::Retry(options) => retry::run(&mut database, options).await,
        InvoicesCommand::Verify(options) => verify::run(&config, &mut database, options).await,
        InvoicesCommand::QueueIgnored(options) => retry::queue_ignored(&config, &mut database, options).await,
        InvoicesCommand::Link { file_id, expires, output } => {
            let document = database.document(file_id).await?;
            link(&config, &document, expires, output).await
        }
    }
}

/// Parses the cursor of `--after`.
fn cursor<T: FromStr<Err = &'static str>>(after: Option<&str>) -> Result<Option<T>, UsageError> {
    after.map(str::parse).transpose().map_err(|error| UsageError(format!("--after: {error}")))
}

async fn list(config: &Config, database: &mut Database, options: ListOptions) -> anyhow::Result<ExitCode> {
    let after = cursor::<Cursor>(options.after.as_deref())?.map(|Cursor(position)| position);
    let state = if options.waiting_account { Some(DocumentState::Due) } else { options.state };
    let mut filter = filter(None, state, options.filter);
    let mut can_match = true;
    if options.waiting_account {
        let fetcher = &config.invoice_fetcher;
        (filter.mode, can_match) = match (fetcher.live.is_some(), fetcher.test.is_some()) {
            (true, true) => (None, false),
            (false, false) => (None, true),
            (has_live, _) => (Some(Mode::from_live(!has_live)), true),
        };
    }
    let documents = match can_match {
        true => {
            bounded(database.limit, view::list(&mut database.connection, &filter, after, options.limit + 1)).await?
        }
        false => Vec::new(),
    };
    let page = Page::cut(documents, options.limit, |document| Cursor(document.position()).to_string());
    options.output.page(&page, "document", &print::COLUMNS, print::values)?;
    Ok(ExitCode::SUCCESS)
}

async fn list_missing(config: &Config, database: &mut Database, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let missing = &config.invoice_fetcher.missing;
    missing.validate()?;
    let after = cursor::<MissingCursor>(options.after.as_deref())?.map(|MissingCursor(position)| position);
    let now = SystemClock.now();
    let orders = missing::list(&mut database.connection, missing, now, after.as_ref(), options.limit + 1);
    let orders = bounded(database.limit, orders).await?;
    let page = Page::cut(orders, options.limit, |order| MissingCursor(order.position()).to_string());
    options.output.page(&page, "complete order", &print::MISSING_COLUMNS, |order| {
        let announced = match order.announced {
            0 => "no document was announced".to_owned(),
            number => format!("{number} announced, none stored"),
        };
        let amount = order.total_amount.as_deref().unwrap_or("unknown");
        [
            rfc3339(order.complete_at),
            order.order_id.clone(),
            Mode::from_live(order.live_mode).to_string(),
            format!("{amount} {}", order.currency.as_deref().unwrap_or_default()).trim_end().to_owned(),
            order.selling_entity_id.as_deref().unwrap_or("unknown").to_owned(),
            announced,
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(database: &mut Database, file_id: FileId, output: Output) -> anyhow::Result<ExitCode> {
    let document = database.document(file_id).await?;
    let retries = bounded(database.limit, view::retries(&mut database.connection, file_id)).await?;
    let report = DocumentReport { document, retries };
    output.whole(&report, |text| {
        report.write(text);
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn link(config: &Config, document: &InvoiceView, expires: Duration, output: Output) -> anyhow::Result<ExitCode> {
    if expires.is_zero() || expires > LINK_MAX {
        return Err(UsageError("--expires must be above 0 and at most a year".to_owned()).into());
    }
    let context = Context::new();
    let expires_at = context.clock.now() + expires;
    let link = links::create(&config.invoice_fetcher, &context, document.mode(), document.file_id, expires_at).await;
    let link = link.map_err(|error| match error {
        LinkError::NoAccount(_) => anyhow::Error::from(UsageError(error.to_string())),
        LinkError::Answer(_) => anyhow::Error::from(Problem(error.to_string())),
        LinkError::Config(_) | LinkError::Refused(_) => anyhow::Error::from(error),
    })?;
    output.whole(&link, |text| writeln!(text, "{}", link.url))?;
    if !output.json {
        out::note(&format!("works until {}; everyone with the link can read the document", link.expires_time));
    }
    Ok(ExitCode::SUCCESS)
}
