//! `riverlock outbox`: look at messages that are not published, and have parked ones published again.

use std::{fmt::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use riverlock_ledger::{
    outbox::{self, ParkedLetter, QueuedMessage, Request},
    postgres::bounded,
};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    args::outbox::{ListOptions, Named, OutboxCommand, RetryOptions, named},
    config::Config,
    out,
};

/// Most messages and letters that one `retry --all-parked` puts back.
const RETRY_MAX: i64 = 100_000;

/// What `list --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    messages: Vec<QueuedMessage>,
    dead_letters: Vec<ParkedLetter>,
}

/// What `retry --json` prints.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Retried {
    /// Whether it was done, or would be.
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

async fn list(connection: &mut PgConnection, options: &ListOptions) -> anyhow::Result<ExitCode> {
    let messages = outbox::queued(connection, options.parked, options.after, options.limit).await?;
    let dead_letters = outbox::parked_letters(connection, options.limit).await?;
    let listed = Listed { messages, dead_letters };
    if options.json {
        out::print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    } else {
        out::print(&text(&listed, options.limit)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each message and letter, and how many there are.
fn text(listed: &Listed, limit: i64) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for message in &listed.messages {
        let mode = if message.live_mode { "live" } else { "test" };
        let state = match (&message.parked_at, &message.reason) {
            (Some(at), Some(reason)) => format!("parked {at}: {}", shown(reason)),
            _ => "waits for the relay".to_owned(),
        };
        writeln!(
            text,
            "{}  {}  {}  order {} ({mode})  {} bytes  {state}",
            message.message_id,
            message.created_at,
            shown(&message.kind),
            shown(&message.order_id),
            message.bytes,
        )?;
    }
    for letter in &listed.dead_letters {
        writeln!(
            text,
            "{}  {}  dead letter  {} bytes  parked {}: {}",
            shown(&letter.position),
            letter.created_at,
            letter.bytes,
            letter.parked_at,
            shown(&letter.reason)
        )?;
    }
    let (messages, letters) = (listed.messages.len(), listed.dead_letters.len());
    writeln!(text, "{messages} messages, {letters} parked dead letters")?;
    if let Some(last) = listed.messages.last().filter(|_| i64::try_from(messages).is_ok_and(|count| count >= limit)) {
        writeln!(text, "there may be more: --after {}", last.message_id)?;
    }
    Ok(text)
}

/// A text from outside, without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Puts back what is named, or everything. The exit code is a failure if something that was named is not parked.
async fn retry(connection: &mut PgConnection, limit: Duration, options: RetryOptions) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !options.reason.trim().is_empty() && !options.by.trim().is_empty(),
        "--reason and --by must say something"
    );
    let request = Request { by: options.by, why: options.reason, apply: options.apply };
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
    if options.json {
        out::print(&format!("{}\n", serde_json::to_string_pretty(&retried)?));
    } else {
        out::print(&told(&retried));
    }
    Ok(if retried.not_parked.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of what Kafka refused. What waits behind it comes back with it.
async fn all_parked(connection: &mut PgConnection) -> anyhow::Result<Vec<Named>> {
    let messages = outbox::queued(connection, true, 0, RETRY_MAX).await?;
    let refused = messages.into_iter().filter(|message| message.behind.is_none());
    let mut names: Vec<Named> = refused.map(|message| Named::Message(message.message_id)).collect();
    for letter in outbox::parked_letters(connection, RETRY_MAX).await? {
        names.push(named(&letter.position).map_err(anyhow::Error::msg)?);
    }
    Ok(names)
}

fn told(retried: &Retried) -> String {
    let mut text = String::new();
    for name in &retried.not_parked {
        text.push_str(&format!("{name}: nothing with this name is parked\n"));
    }
    let (messages, letters) = (retried.messages.len(), retried.dead_letters.len());
    if retried.applied {
        text.push_str(&format!("{messages} messages and {letters} dead letters are published again\n"));
    } else {
        let ids: Vec<String> = retried.messages.iter().map(i64::to_string).collect();
        let all = [ids, retried.dead_letters.clone()].concat();
        text.push_str(&format!(
            "{messages} messages and {letters} dead letters would be published again{}{}; --apply does it\n",
            if all.is_empty() { "" } else { ": " },
            all.join(", ")
        ));
    }
    text
}
