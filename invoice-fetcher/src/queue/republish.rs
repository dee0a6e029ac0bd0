//! Writes `invoice.stored` messages again, for a Kafka cluster whose readers have not seen them.

use chrono::{DateTime, Utc};
use riverlock_ledger::{Error, outbox};
use riverlock_schemas::{
    FileId, Mode, OrderId,
    cloud_event::{InvoiceStored, Message},
    events::file_event::Purpose,
    hash::Sha256Hash,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// Documents that are read at a time.
const PAGE_DOCUMENTS: i64 = 1_000;

/// Adds the messages of documents that were written since a time to the outbox again, and returns their number. They have
/// the same ids. Messages that still wait, and documents that are fetched again at the moment, are left out.
///
/// # Errors
/// When PostgreSQL fails, or a row cannot be read.
pub async fn republish(connection: &mut PgConnection, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<u64, Error> {
    let (mut after, mut count) = (Uuid::nil(), 0);
    loop {
        let rows = sqlx::query_as!(
            StoredRow,
            r#"-- republish_invoices
               SELECT file_id, order_id, live_mode, purpose, object_key AS "object_key!", sha256 AS "sha256!",
                      size_bytes AS "size_bytes!"
               FROM invoices WHERE file_id > $1 AND message_at >= $2 AND state = 'stored' ORDER BY file_id LIMIT $3"#,
            after,
            since,
            PAGE_DOCUMENTS
        )
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = rows.last() else { return Ok(count) };
        after = last.file_id;
        let messages = rows.into_iter().map(StoredRow::into_message).collect::<Result<Vec<Message>, Error>>()?;
        let order_ids: Vec<&str> = messages.iter().map(|message| message.order().0.as_str()).collect();
        let waiting = outbox::waiting(connection, &order_ids).await?;
        let messages: Vec<Message> =
            messages.into_iter().filter(|message| !waiting.contains(&outbox::key(message))).collect();
        outbox::add(connection, &messages, now).await?;
        count += messages.len() as u64;
    }
}

struct StoredRow {
    file_id: Uuid,
    order_id: String,
    live_mode: bool,
    purpose: String,
    object_key: String,
    sha256: Vec<u8>,
    size_bytes: i64,
}

impl StoredRow {
    fn into_message(self) -> Result<Message, Error> {
        let inconsistent =
            |reason: String| Error::Inconsistent { table: "invoices", id: self.file_id.to_string(), reason };
        Ok(Message::InvoiceStored(InvoiceStored {
            order_id: OrderId::parse(self.order_id.clone())
                .map_err(|error| inconsistent(format!("the order id {error}")))?,
            mode: Mode::from_live(self.live_mode),
            file_id: FileId::from(self.file_id),
            purpose: Purpose::parse(&self.purpose).ok_or_else(|| inconsistent("the purpose is unknown".to_owned()))?,
            sha256: Sha256Hash::from_slice(&self.sha256)
                .ok_or_else(|| inconsistent("the hash does not have 32 bytes".to_owned()))?,
            size_bytes: u64::try_from(self.size_bytes).unwrap_or_default(),
            object_key: self.object_key.clone(),
        }))
    }
}
