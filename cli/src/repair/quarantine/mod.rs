//! `riverlock quarantine`: events whose sender was not believed when they came.
//!
//! What is kept is verified again with the secrets of today and the time at which it came. What passes goes to the topic of
//! its type as if it had come as a webhook, and says in `origin` that it did not. Releasing twice writes twice, which does no
//! harm: consumers know an event by its id.

pub mod args;
mod reader;
mod release;
pub(crate) mod verdict;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use rdkafka::Message as _;
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::{record, text};
use serde::Serialize;

use self::{
    reader::{Reader, header, kept, stored_at},
    verdict::{Judge, Verdict},
};
use crate::{
    config::Config,
    repair::quarantine::args::{Cursor, ListOptions, QuarantineCommand},
    terminal::out::Page,
};

/// Longest text from outside that is printed, in characters.
const SHOWN_CHARS_MAX: usize = 255;

/// An event in quarantine, as it is listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    partition: i32,
    offset: i64,
    received_at: String,
    endpoint: String,
    event_type: String,
    event_id: String,
    reason: String,
    verdict: String,
    releasable: bool,
}

impl Row {
    fn cursor(&self) -> String {
        Cursor { partition: self.partition, offset: self.offset }.to_string()
    }
}

pub(crate) async fn run(file: Option<&Path>, command: QuarantineCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    config.ingest.validate()?;
    match command {
        QuarantineCommand::List(options) => {
            let page = list(&config, &options)?;
            options.output.page(&page, "events", |text, row| {
                let Row { received_at, endpoint, event_type, event_id, reason, verdict, .. } = row;
                let (event_type, event_id) = (shown(event_type), shown(event_id));
                writeln!(text, "{received_at}  {endpoint}  {event_type}  {event_id}  {reason}  {verdict}")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Release(options) => release::run(&config, options).await,
    }
}

fn list(config: &Config, options: &ListOptions) -> anyhow::Result<Page<Row>> {
    let judge = Judge::new(&config.ingest, SystemClock.now());
    let mut rows = Vec::new();
    let mut reader = Reader::open(&config.kafka, options.after)?;
    let one_more = usize::try_from(options.limit).unwrap_or(usize::MAX).saturating_add(1);
    while rows.len() < one_more
        && let Some(message) = reader.next()?
    {
        let kept = kept(&message);
        let verdict = judge.judge(&kept, stored_at(&message));
        rows.push(Row {
            partition: message.partition(),
            offset: message.offset(),
            received_at: kept.received_at.to_owned(),
            endpoint: kept.endpoint.to_owned(),
            event_type: header(&message, record::EVENT_TYPE).to_owned(),
            event_id: header(&message, record::EVENT_ID).to_owned(),
            reason: header(&message, record::REASON).to_owned(),
            releasable: matches!(verdict, Verdict::Verifies { .. }),
            verdict: verdict.to_string(),
        });
    }
    Ok(Page::cut(rows, options.limit, Row::cursor))
}

/// A text from outside, without what could steer a terminal.
fn shown(text: &str) -> String {
    text::bounded(text.into(), SHOWN_CHARS_MAX).into_owned()
}

#[cfg(test)]
mod tests;
