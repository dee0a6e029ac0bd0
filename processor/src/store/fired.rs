//! The effects of an order that have fired: the column `orders.fired`.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, SecondsFormat, Utc};
use riverlock_ledger::Error;
use riverlock_schemas::cloud_event::Message;

use crate::domain::OrderKey;

/// Effects that have fired, as a JSON object in the order in which their messages were written: the effect's name and the
/// time. It is parsed only if a message is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FiredEffects(String);

impl Default for FiredEffects {
    fn default() -> Self {
        Self("{}".to_owned())
    }
}

impl FiredEffects {
    pub(crate) fn from_json(json: String) -> Self {
        Self(json)
    }

    pub(crate) fn as_json(&self) -> &str {
        &self.0
    }

    /// Names and times of the effects.
    ///
    /// # Errors
    /// When the column was changed by hand and is not such an object.
    pub(crate) fn times(&self) -> Result<HashMap<Cow<'_, str>, DateTime<Utc>>, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// Adds the effects of these messages, and returns the messages of those that had not fired.
    ///
    /// # Errors
    /// Those of [`Self::times`].
    pub(crate) fn fire(
        &mut self,
        mut messages: Vec<Message>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Message>, serde_json::Error> {
        if messages.is_empty() {
            return Ok(messages);
        }
        let times = self.times()?;
        let is_empty = times.is_empty();
        messages.retain(|message| !times.contains_key(message.effect_name().as_str()));
        if messages.is_empty() {
            return Ok(messages);
        }
        let now = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut json = self.0.trim_end().trim_end_matches('}').to_owned();
        for (index, message) in messages.iter().enumerate() {
            if index > 0 || !is_empty {
                json.push(',');
            }
            json.push_str(&serde_json::to_string(&message.effect_name())?);
            json.push_str(":\"");
            json.push_str(&now);
            json.push('"');
        }
        json.push('}');
        self.0 = json;
        Ok(messages)
    }
}

/// The error for an order whose column cannot be parsed.
pub(crate) fn inconsistent_effects(key: &OrderKey, error: &serde_json::Error) -> Error {
    let reason = format!("the fired effects: {error}");
    Error::Inconsistent { table: "orders", id: key.order_id.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::{
        Mode, OrderId,
        cloud_event::{FulfillmentEnded, FulfillmentReported},
        time::parse_time,
    };

    use super::*;

    fn ended() -> FulfillmentEnded {
        let order_id = OrderId::parse("o").unwrap();
        FulfillmentEnded { order_id, mode: Mode::Test, status: "complete", ended_at: DateTime::UNIX_EPOCH }
    }

    fn reported(fulfillment_id: &str) -> Message {
        Message::FulfillmentReported(FulfillmentReported {
            order_id: OrderId::parse("o").unwrap(),
            mode: Mode::Test,
            status: "ready",
            fulfillment_id: riverlock_schemas::FulfillmentId::parse(fulfillment_id).unwrap(),
            reported_at: None,
            shipment_id: None,
            tracking_company: None,
            tracking_number: None,
            tracking_url: None,
            lines: Vec::new(),
            line_count: 0,
            more_lines_at: None,
        })
    }

    #[test]
    fn an_effect_fires_once() {
        let (first, second) =
            (parse_time("2026-01-01T00:00:00Z").unwrap(), parse_time("2026-01-02T00:00:00Z").unwrap());
        let mut fired = FiredEffects::default();
        let halted = || Message::FulfillmentHalted(ended());
        assert_eq!(fired.fire(vec![halted()], first).unwrap(), [halted()]);
        assert_eq!(fired.fire(vec![halted(), reported("a\"}:\\")], second).unwrap(), [reported("a\"}:\\")]);
        assert_eq!(fired.fire(vec![reported("a\"}:\\"), halted()], second).unwrap(), []);
        let times = fired.times().unwrap();
        assert_eq!(times["fulfillment.halted"], first);
        assert_eq!(times[r#"fulfillment.reported:a"}:\"#], second);
        assert_eq!(times.len(), 2);
    }

    #[test]
    fn a_changed_column_is_an_error() {
        for json in ["", "[]", r#"{"fulfillment.halted":1}"#] {
            FiredEffects::from_json(json.to_owned())
                .fire(vec![Message::FulfillmentHalted(ended())], DateTime::UNIX_EPOCH)
                .unwrap_err();
        }
    }
}
