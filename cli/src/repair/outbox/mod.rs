//! `riverlock outbox`: look at messages that are not published, and have parked ones published again.

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
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    config::Config,
    exit,
    repair::outbox::args::{ListOptions, Named, OutboxCommand, RetryOptions, named},
    terminal::out::Page,
};

/// Most messages and letters that one `retry --all-parked` puts back.
const RETRY_MAX: i64 = 100_000;

/// Something that is not published.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "source")]
enum Queued {
    Outbox(QueuedMessage),
    DeadLetters(ParkedLetter),
}

/// What `retry` did, or would do.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Retried {
    /// Whether it was done.
    applied: bool,
    messages: Vec<i64>,
    dead_letters: Vec<String>,
    /// Names of what is not parked.
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

/// Messages by number, then dead letters by where their records lie.
async fn list(connection: &mut PgConnection, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let mut wanted = options.limit + 1;
    let (number, letter) = match &options.after {
        None => (Some(0), None),
        Some(Named::Message(id)) => (Some(*id), None),
        Some(Named::Letter(position)) => (None, Some(position)),
    };
    let mut items = Vec::new();
    if let Some(after) = number {
        let messages = outbox::queued(connection, options.parked, after, wanted).await?;
        items.extend(messages.into_iter().map(Queued::Outbox));
        wanted -= i64::try_from(items.len()).unwrap_or(wanted);
    }
    if wanted > 0 {
        let letters = outbox::parked_letters(connection, letter, wanted).await?;
        items.extend(letters.into_iter().map(Queued::DeadLetters));
    }
    let page = Page::cut(items, options.limit, Queued::id);
    options.output.page(&page, "messages and dead letters", line)?;
    Ok(ExitCode::SUCCESS)
}

impl Queued {
    /// What it is named by.
    fn id(&self) -> String {
        match self {
            Self::Outbox(message) => message.message_id.to_string(),
            Self::DeadLetters(letter) => letter.position.clone(),
        }
    }
}

/// A message or letter in one line.
fn line(text: &mut String, queued: &Queued) -> fmt::Result {
    match queued {
        Queued::Outbox(message) => {
            let mode = if message.live_mode { "live" } else { "test" };
            let state = match (&message.parked_at, &message.reason) {
                (Some(at), Some(reason)) => format!("parked {at}: {}", shown(reason)),
                _ => "waits for the relay".to_owned(),
            };
            let (id, at, bytes) = (message.message_id, message.created_at, message.bytes);
            let (kind, order) = (shown(&message.kind), shown(&message.order_id));
            writeln!(text, "{id}  {at}  {kind}  order {order} ({mode})  {bytes} bytes  {state}")
        }
        Queued::DeadLetters(letter) => {
            let (position, reason) = (shown(&letter.position), shown(&letter.reason));
            let ParkedLetter { created_at, bytes, parked_at, .. } = letter;
            writeln!(text, "{position}  {created_at}  dead letter  {bytes} bytes  parked {parked_at}: {reason}")
        }
    }
}

/// A text from outside, without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Puts back what is named, or everything. Something is wrong if something that was named is not parked.
async fn retry(connection: &mut PgConnection, limit: Duration, options: RetryOptions) -> anyhow::Result<ExitCode> {
    let why = if options.apply { options.reason.needed()? } else { options.reason.of_dry_run() };
    let request = Request { by: options.by.name()?, why, apply: options.apply };
    let names = if options.all_parked { bounded(limit, all_parked(connection)).await? } else { options.ids };
    let mut retried = Retried { applied: request.apply, ..Retried::default() };
    for name in names {
        let found = match &name {
            // Came back with another one of its order.
            Named::Message(id) if retried.messages.contains(id) => true,
            Named::Message(id) => {
                let back = bounded(limit, outbox::retry_message(connection, *id, &request)).await?;
                retried.messages.extend(&back);
                !back.is_empty()
            }
            Named::Letter(position) => {
                let back = bounded(limit, outbox::retry_letter(connection, position, &request)).await?;
                retried.dead_letters.extend(back.then(|| position.to_string()));
                back
            }
        };
        if !found && !options.all_parked {
            retried.not_parked.push(name.to_string());
        }
    }
    options.output.whole(&retried, |text| tell(text, &retried))?;
    Ok(exit::well_if(retried.not_parked.is_empty()))
}

/// The names of what Kafka refused. What waits behind it comes back with it.
async fn all_parked(connection: &mut PgConnection) -> anyhow::Result<Vec<Named>> {
    let messages = outbox::queued(connection, true, 0, RETRY_MAX).await?;
    let refused = messages.into_iter().filter(|message| message.behind.is_none());
    let mut names: Vec<Named> = refused.map(|message| Named::Message(message.message_id)).collect();
    for letter in outbox::parked_letters(connection, None, RETRY_MAX).await? {
        names.push(named(&letter.position).map_err(anyhow::Error::msg)?);
    }
    Ok(names)
}

fn tell(text: &mut String, retried: &Retried) -> fmt::Result {
    for name in &retried.not_parked {
        writeln!(text, "{name}: nothing with this name is parked")?;
    }
    let (messages, letters) = (retried.messages.len(), retried.dead_letters.len());
    if retried.applied {
        return writeln!(text, "{messages} messages and {letters} dead letters are published again");
    }
    let ids: Vec<String> = retried.messages.iter().map(i64::to_string).collect();
    let all = [ids, retried.dead_letters.clone()].concat();
    let all = if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) };
    writeln!(text, "{messages} messages and {letters} dead letters would be published again{all}; --apply does it")
}
