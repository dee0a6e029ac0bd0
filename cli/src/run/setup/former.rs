//! Topics of earlier versions, and whether the consumers have read them to their ends.

use riverlock_recovery::audit;
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_schemas::kafka::topics::RawConsumer;
use serde::Serialize;
use sqlx::PgConnection;

use crate::terminal::text::count;

/// A topic of an earlier version. Nothing is written to it, unless an ingest of that version still runs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FormerTopic {
    name: String,
    /// Records that its consumer has not read.
    unread_records: u64,
}

impl FormerTopic {
    /// The topic and its state, on one line.
    pub(super) fn line(&self) -> String {
        let state = match self.unread_records {
            0 => "read to its end".to_owned(),
            unread => format!("{} not read yet", count(unread, "record")),
        };
        format!("topic {}: of an earlier version, {state}", self.name)
    }
}

/// Returns the topics of earlier versions that Kafka has. They must have been looked up.
pub(super) async fn topics(kafka: &KafkaConfig, connection: &mut PgConnection) -> anyhow::Result<Vec<FormerTopic>> {
    let topics = kafka.topics();
    let mut found = Vec::new();
    for name in topics.former() {
        let consumer = match topics.consumer_of(name) {
            Some(RawConsumer::InvoiceFetcher) => riverlock_invoice_fetcher::NAME,
            Some(RawConsumer::Processor) | None => riverlock_processor::CONSUMER,
        };
        let unread_records = audit::pending(kafka, connection, &[(consumer, vec![name.clone()])]).await?;
        found.push(FormerTopic { name: name.clone(), unread_records });
    }
    Ok(found)
}
