//! Opaque page cursors. Their content is internal and may change.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use riverlock_ledger::view::EventPosition;
use riverlock_schemas::{Mode, OrderId, kafka::record::Position};

use crate::store::ListPosition;

/// Longest cursor that is parsed, in bytes. A cursor contains times, numbers and one id or topic.
const CHARS_MAX: usize = 1_024;

/// A list position that can be encoded as a cursor.
pub(super) trait Cursor: Sized {
    /// Formats the position as text.
    fn to_text(&self) -> String;
    /// Parses a position; `None` if the text is not from [`Self::to_text`].
    fn from_text(text: &str) -> Option<Self>;

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_text())
    }

    fn decode(cursor: &str) -> Option<Self> {
        if cursor.len() > CHARS_MAX {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        Self::from_text(&text)
    }
}

impl Cursor for ListPosition {
    fn to_text(&self) -> String {
        format!("o {} {} {}", self.first_seen_at.timestamp_micros(), self.mode, self.order_id)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("o ")?.splitn(3, ' ');
        let first_seen_at = time(parts.next()?)?;
        let mode = mode(parts.next()?)?;
        let order_id = OrderId::parse(parts.next()?).ok()?.to_string();
        Some(Self { first_seen_at, order_id, mode })
    }
}

impl Cursor for EventPosition {
    fn to_text(&self) -> String {
        let Position { topic, partition, offset } = &self.record;
        format!("e {} {partition} {offset} {topic}", self.received_at.timestamp_micros())
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("e ")?.splitn(4, ' ');
        let received_at = time(parts.next()?)?;
        let (partition, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let topic = parts.next()?;
        let legal = !topic.is_empty() && !topic.chars().any(char::is_control);
        legal.then(|| Self { received_at, record: Position { topic: topic.to_owned(), partition, offset } })
    }
}

/// Parses a time; `None` if PostgreSQL cannot represent it.
fn time(micros: &str) -> Option<DateTime<Utc>> {
    use chrono::Datelike as _;
    let time = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    (1..=9999).contains(&time.year()).then_some(time)
}

/// Parses the name of a mode.
pub(super) fn mode(name: &str) -> Option<Mode> {
    [Mode::Live, Mode::Test].into_iter().find(|mode| mode.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_decodes_to_the_encoded_position() {
        let first_seen_at = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        for order_id in ["204440790336", "a b  c", "ордер/+%"] {
            let position = ListPosition { first_seen_at, order_id: order_id.to_owned(), mode: Mode::Live };
            assert_eq!(ListPosition::decode(&position.encode()), Some(position));
        }
        let record = Position { topic: "riverlock.raw.orders".to_owned(), partition: 3, offset: 77 };
        let position = EventPosition { received_at: first_seen_at, record };
        assert_eq!(EventPosition::decode(&position.encode()), Some(position.clone()));
        assert_eq!(ListPosition::decode(&position.encode()), None, "a cursor of one list is not valid for another");
    }

    #[test]
    fn invalid_cursors_are_rejected() {
        for text in
            ["", "o", "o 1", "o 1 live ", "o x live a", "o 99999999999999999999 live a", "o 1 both a", "o 1 live a\0"]
        {
            assert_eq!(ListPosition::decode(&URL_SAFE_NO_PAD.encode(text)), None, "{text}");
        }
        for text in ["!", "bzE=", &"A".repeat(CHARS_MAX + 1)] {
            assert_eq!(ListPosition::decode(text), None, "{text}");
        }
    }
}
