//! `riverlock quarantine`: events that failed authentication.
//!
//! A quarantined event is verified again with the current secrets and the time of its receipt. A released event is written to
//! the topic of its type like a delivered one, with `origin` set to the quarantine. Releasing an event twice writes two records,
//! of which consumers ignore the second by its event id.

pub mod args;
mod reader;
mod release;
pub(crate) mod verdict;

use std::{path::Path, process::ExitCode};

use rdkafka::Message as _;
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::{
    kafka::record,
    time::{parse_time, rfc3339},
};
use serde::Serialize;

use self::{
    args::{Cursor, ListOptions, QuarantineCommand},
    reader::{Reader, header, stored_at, stored_delivery},
    verdict::{Authenticator, Verdict},
};
use crate::{
    config::Config,
    terminal::{out::Page, table::Column},
};

/// A quarantined event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct QuarantineEntry {
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

/// The columns of `quarantine list`.
const COLUMNS: [Column; 6] = [
    Column::text("RECEIVED"),
    Column::text("ENDPOINT"),
    Column::text("TYPE"),
    Column::text("EVENT"),
    Column::text("REASON"),
    Column::text("SIGNATURE NOW"),
];

impl QuarantineEntry {
    fn cursor(&self) -> String {
        Cursor { partition: self.partition, offset: self.offset }.to_string()
    }

    fn values(&self) -> [String; 6] {
        let Self { received_at, endpoint, event_type, event_id, reason, verdict, .. } = self;
        let received_at = parse_time(received_at).map_or_else(|| received_at.clone(), rfc3339);
        [received_at, endpoint.clone(), event_type.clone(), event_id.clone(), reason.clone(), verdict.clone()]
    }
}

pub(crate) async fn run(file: Option<&Path>, command: QuarantineCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    config.ingest.validate()?;
    match command {
        QuarantineCommand::List(options) => {
            let page = list(&config, &options)?;
            options.output.page(&page, "event", &COLUMNS, QuarantineEntry::values)?;
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Release(options) => release::run(&config, options).await,
    }
}

fn list(config: &Config, options: &ListOptions) -> anyhow::Result<Page<QuarantineEntry>> {
    let authenticator = Authenticator::new(&config.ingest, SystemClock.now());
    let mut entries = Vec::new();
    let mut reader = Reader::open(&config.kafka, options.after)?;
    let one_more = usize::try_from(options.limit).unwrap_or(usize::MAX).saturating_add(1);
    while entries.len() < one_more
        && let Some(message) = reader.next()?
    {
        let delivery = stored_delivery(&message);
        let verdict = authenticator.authenticate(&delivery, stored_at(&message));
        entries.push(QuarantineEntry {
            partition: message.partition(),
            offset: message.offset(),
            received_at: delivery.received_at.to_owned(),
            endpoint: delivery.endpoint.to_owned(),
            event_type: header(&message, record::EVENT_TYPE).to_owned(),
            event_id: header(&message, record::EVENT_ID).to_owned(),
            reason: header(&message, record::REASON).to_owned(),
            releasable: matches!(verdict, Verdict::Verifies { .. }),
            verdict: verdict.to_string(),
        });
    }
    Ok(Page::cut(entries, options.limit, QuarantineEntry::cursor))
}

#[cfg(test)]
mod tests;
