//! The invoice-fetcher's projection: queues the documents that events announce. No partition waits for a download.

use chrono::{DateTime, Utc};
use metrics::counter;
use riverlock_ledger::{DeadReason, Decision, Error, NewEvent, ParsedRecord, Projection};
use riverlock_schemas::{
    Envelope, EnvelopeError,
    events::{
        content::Content,
        file_event::{FileEvent, FileObject, Purpose},
        payload::PayloadError,
    },
};
use sqlx::PgConnection;

use crate::{InvoiceFetcherConfig, client::address::Addresses, metrics as names, queue};

/// The consumer's name.
pub const NAME: &str = "invoice-fetcher";

/// Queues documents of every mode. Those of a mode without an account wait until one is configured.
#[derive(Clone, Debug)]
pub struct InvoiceQueue {
    announced: Addresses,
}

impl InvoiceQueue {
    /// Creates the projection with the configured prefix of URLs in events.
    #[must_use]
    pub fn new(config: &InvoiceFetcherConfig) -> Self {
        Self { announced: Addresses::new(config.announced_base_url.clone()) }
    }

    /// Counts and logs events whose URL for a file differs from the configuration.
    fn check_urls(&self, events: &[FileEvent]) {
        let other = |event: &&FileEvent| {
            event.announced_url.as_ref().is_some_and(|url| !self.announced.is_content(url, event.file_id))
        };
        let mut others = events.iter().filter(other).peekable();
        if let Some(first) = others.peek() {
            tracing::warn!(
                event.id = first.event_id.as_str(),
                file.id = %first.file_id,
                "event {} has an unexpected URL for file {}; the URL is not used",
                first.event_id,
                first.file_id,
            );
        }
        counter!(names::ANOMALIES, "kind" => names::ANOMALY_URL).increment(others.count() as u64);
    }
}

/// Decides what happens to an event. `parse` reads its object and is called only if it is a file.
fn classify(
    envelope: &Envelope<'_>,
    parse: impl FnOnce(Purpose) -> Result<FileEvent, PayloadError>,
) -> Decision<FileEvent> {
    let Some(purpose) = Purpose::of_event_type(&envelope.event_type) else {
        return Decision::Ignore("unhandled_type");
    };
    match parse(purpose) {
        Ok(event) => Decision::Apply(event),
        Err(error) => Decision::Dead(DeadReason { reason: error.code(), detail: error.to_string() }),
    }
}

impl Projection for InvoiceQueue {
    type Event = FileEvent;
    type Applied = ();

    fn name(&self) -> &'static str {
        NAME
    }

    fn decide(&self, envelope: &Envelope<'_>, body: &[u8]) -> Decision<FileEvent> {
        classify(envelope, |purpose| FileEvent::parse(envelope, purpose, body))
    }

    fn read<'a>(
        &self,
        body: &'a [u8],
        _received_at: Option<DateTime<Utc>>,
    ) -> Result<ParsedRecord<'a, FileEvent>, EnvelopeError> {
        let (envelope, object) = FileObject::read(body)?;
        let oddities = object.oddities();
        let decision = classify(&envelope, |purpose| object.into_event(&envelope, purpose));
        Ok(ParsedRecord { envelope, decision, oddities })
    }

    fn describe(&self, event: &FileEvent, content: &mut Content) {
        content.add_file_event(event);
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<FileEvent>>,
        _now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let mut events: Vec<FileEvent> = fresh.into_iter().map(|fresh| fresh.event).collect();
        // All transactions lock rows in the same order, to avoid deadlocks; and of several events about one file the same one
        // is first in every batch.
        events.sort_by(|a, b| (a.file_id, &a.event_id).cmp(&(b.file_id, &b.event_id)));
        self.check_urls(&events);
        let added = queue::add(connection, &events).await?;
        if added < events.len() as u64 {
            let otherwise = queue::announced_otherwise(connection, &events).await?;
            for file_id in &otherwise {
                tracing::warn!(
                    file.id = %file_id,
                    "file {file_id} was announced again with another order, mode or purpose; the first announcement counts"
                );
            }
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_ANNOUNCED).increment(otherwise.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::{Mode, oddity::Oddity};

    use super::*;

    fn decide(event_type: &str, live: &str, file_id: &str) -> Decision<FileEvent> {
        let config = InvoiceFetcherConfig::default();
        let body = format!(
            r#"{{"id":"e","type":"{event_type}"{live},"data":{{"object":{{"fileId":"{file_id}","orderId":"o"}}}}}}"#
        );
        InvoiceQueue::new(&config).decide(&Envelope::parse(body.as_bytes()).unwrap(), body.as_bytes())
    }

    #[test]
    fn oddities_of_the_object_are_returned_with_the_record() {
        let queue = InvoiceQueue::new(&InvoiceFetcherConfig::default());
        let body = r#"{"id":"e","type":"order.invoice.created","liveMode":false,"data":{"object":
            {"fileId":"6e5bf525-3907-40c5-86a9-f14ce4f33f35","orderId":"o","invoiceURL":7}}}"#;
        let reading = queue.read(body.as_bytes(), None).unwrap();
        assert!(reading.oddities.iter().eq([Oddity::Kind]), "{:?}", reading.oddities);
        assert_eq!(reading.decision, queue.decide(&reading.envelope, body.as_bytes()));
    }

    #[test]
    fn every_event_has_one_decision() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        let test = r#","liveMode":false"#;
        for (event_type, purpose) in
            [("order.invoice.created", Purpose::Invoice), ("order.credit_memo.created", Purpose::CreditMemo)]
        {
            // Independent of the configured accounts: a document waits for its account.
            for (live, mode) in [(test, Mode::Test), (r#","liveMode":true"#, Mode::Live)] {
                let Decision::Apply(event) = decide(event_type, live, id) else { panic!("{event_type}") };
                assert_eq!((event.purpose, event.mode, event.order_id.as_str()), (purpose, mode, "o"));
            }
        }
        assert_eq!(decide("order.invoice.deleted", test, id), Decision::Ignore("unhandled_type"));
        for (live, file_id, code) in
            [("", id, "live_mode"), (test, "", "file_id"), (test, "../../secret", "file_id"), (test, "123", "file_id")]
        {
            let Decision::Dead(dead) = decide("order.invoice.created", live, file_id) else { panic!("{file_id}") };
            assert_eq!(dead.reason, code);
        }
    }
}
