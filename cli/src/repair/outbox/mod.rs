//! `riverlock outbox`: list messages that are not published, and publish parked ones again.

pub mod args;

use std::{
    fmt::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use riverlock_ledger::{
    outbox::{self, ParkedLetter, QueuedMessage, Request},
    postgres::bounded,
};
use riverlock_schemas::{Mode, time::rfc3339};
use serde::Serialize;
use sqlx::PgConnection;

use self::args::{ItemSelector, ListOptions, OutboxCommand, RetryOptions, selector};
use crate::{
    config::Config,
    exit,
    options::change::ChangeOptions,
    terminal::{
        out::Page,
        table::Column,
        text::{MISSING, count},
    },
};

/// Most messages and dead letters that one `retry --all-parked` publishes again.
const RETRY_MAX: i64 = 100_000;

/// A message or dead letter that is not published.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "source")]
enum UnpublishedItem {
    Outbox(QueuedMessage),
    DeadLetters(ParkedLetter),
}

/// The result of `retry`, or of its dry run.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryReport {
    /// Whether the changes were applied.
    applied: bool,
    messages: Vec<i64>,
    dead_letters: Vec<String>,
    /// Requested items that are not parked.
    not_parked: Vec<String>,
}

pub(crate) async fn run(file: Option<&Path>, command: OutboxCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    let limit = config.postgres.answer_limit();
    match command {
        OutboxCommand::List(options) => bounded(limit, list(&mut connection, &options)).await,
        OutboxCommand::Retry(options) => retry(&mut connection, limit, options).await,
    }
}

/// Lists messages by number, then dead letters by position.
async fn list(connection: &mut PgConnection, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let mut wanted = options.limit + 1;
    let (number, letter) = match &options.after {
        None => (Some(0), None),
        Some(ItemSelector::Message(id)) => (Some(*id), None),
        Some(ItemSelector::DeadLetter(position)) => (None, Some(position)),
    };
    let mut items = Vec::new();
    if let Some(after) = number {
        let messages = outbox::queued(connection, options.parked, after, wanted).await?;
        items.extend(messages.into_iter().map(UnpublishedItem::Outbox));
        wanted -= i64::try_from(items.len()).unwrap_or(wanted);
    }
    if wanted > 0 {
        let letters = outbox::parked_letters(connection, letter, wanted).await?;
        items.extend(letters.into_iter().map(UnpublishedItem::DeadLetters));
    }
    let page = Page::cut(items, options.limit, UnpublishedItem::id);
    options.output.page(&page, "unpublished item", &COLUMNS, UnpublishedItem::values)?;
    Ok(ExitCode::SUCCESS)
}

/// The columns of `outbox list`.
const COLUMNS: [Column; 7] = [
    Column::text("ID"),
    Column::text("WRITTEN"),
    Column::text("TYPE"),
    Column::text("ORDER"),
    Column::text("MODE"),
    Column::number("BYTES"),
    Column::text("STATE"),
];

impl UnpublishedItem {
    /// The name by which `retry` selects it.
    fn id(&self) -> String {
        match self {
            Self::Outbox(message) => message.message_id.to_string(),
            Self::DeadLetters(letter) => letter.position.clone(),
        }
    }

    fn values(&self) -> [String; 7] {
        match self {
            Self::Outbox(message) => {
                let state = match (&message.parked_at, &message.reason) {
                    (Some(at), Some(reason)) => format!("parked {}: {reason}", rfc3339(*at)),
                    _ => "waiting for the relay".to_owned(),
                };
                [
                    self.id(),
                    rfc3339(message.created_at),
                    message.kind.clone(),
                    message.order_id.clone(),
                    Mode::from_live(message.live_mode).to_string(),
                    message.bytes.to_string(),
                    state,
                ]
            }
            Self::DeadLetters(letter) => [
                self.id(),
                rfc3339(letter.created_at),
                "dead letter".to_owned(),
                MISSING.to_owned(),
                MISSING.to_owned(),
                letter.bytes.to_string(),
                format!("parked {}: {}", rfc3339(letter.parked_at), letter.reason),
            ],
        }
    }
}

/// Publishes the named items again, or all parked ones. The exit code is 1 if a named item is not parked.
async fn retry(connection: &mut PgConnection, limit: Duration, options: RetryOptions) -> anyhow::Result<ExitCode> {
    let ChangeOptions { reason, operator, apply, output } = options.change;
    let request = Request { by: operator.name()?, why: reason.of_run(apply)?, apply };
    let names = if options.all_parked { bounded(limit, all_parked(connection)).await? } else { options.ids };
    let mut report = RetryReport { applied: request.apply, ..RetryReport::default() };
    for name in names {
        let found = match &name {
            // It was published with an earlier message of its order.
            ItemSelector::Message(id) if report.messages.contains(id) => true,
            ItemSelector::Message(id) => {
                let retried = bounded(limit, outbox::retry_message(connection, *id, &request)).await?;
                report.messages.extend(&retried);
                !retried.is_empty()
            }
            ItemSelector::DeadLetter(position) => {
                let retried = bounded(limit, outbox::retry_letter(connection, position, &request)).await?;
                report.dead_letters.extend(retried.then(|| position.to_string()));
                retried
            }
        };
        if !found && !options.all_parked {
            report.not_parked.push(name.to_string());
        }
    }
    output.whole(&report, |text| report.write(text))?;
    Ok(exit::success_if(report.not_parked.is_empty()))
}

/// The items that Kafka rejected. Messages that wait behind them are published with them.
async fn all_parked(connection: &mut PgConnection) -> anyhow::Result<Vec<ItemSelector>> {
    let messages = outbox::queued(connection, true, 0, RETRY_MAX).await?;
    let rejected = messages.into_iter().filter(|message| message.behind.is_none());
    let mut names: Vec<ItemSelector> = rejected.map(|message| ItemSelector::Message(message.message_id)).collect();
    for letter in outbox::parked_letters(connection, None, RETRY_MAX).await? {
        names.push(selector(&letter.position).map_err(anyhow::Error::msg)?);
    }
    Ok(names)
}

impl RetryReport {
    fn write(&self, text: &mut String) -> fmt::Result {
        for name in &self.not_parked {
            writeln!(text, "{name}: nothing with this name is parked")?;
        }
        let items =
            format!("{} and {}", count(self.messages.len(), "message"), count(self.dead_letters.len(), "dead letter"));
        if self.applied {
            return writeln!(text, "{items} will be published again");
        }
        let ids: Vec<String> = self.messages.iter().map(i64::to_string).collect();
        let all = [ids, self.dead_letters.clone()].concat();
        let all = if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) };
        writeln!(text, "{items} would be published again{all}; apply with --apply --reason TEXT")
    }
}
