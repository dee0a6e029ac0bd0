//! Payloads of arbitrary bodies: nothing panics, and reading the payload with the envelope equals reading it afterwards.
//!
//! The first byte selects the event's type and the data of its receipt; the rest is the object.

#![no_main]

use chrono::{DateTime, Utc};
use libfuzzer_sys::fuzz_target;
use riverlock_schemas::{Envelope, events::{content::Content, file_event::{FileEvent, Purpose}, order_event::OrderEvent, order_object::OrderObject}};

const TYPES: [&str; 6] = [
    "order.accepted",
    "order.charge.capture.failed",
    "order.chargeback",
    "fulfillment.created",
    "order.invoice.created",
    "payout.created",
];

fuzz_target!(|input: &[u8]| {
    let Some((choice, object)) = input.split_first() else { return };
    let event_type = TYPES[usize::from(*choice) % TYPES.len()];
    let received_at: Option<DateTime<Utc>> = (choice & 0x80 != 0).then(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let before = format!(
        r#"{{"id":"e","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":"#
    );
    let body = [before.as_bytes(), object, b"}}"].concat();

    let Ok((envelope, read)) = OrderObject::read(&body) else {
        assert!(Envelope::parse(&body).is_err(), "only one of two ways can read it");
        return;
    };
    assert_eq!(Envelope::parse(&body).as_ref(), Ok(&envelope));
    if let Some(purpose) = Purpose::of_event_type(event_type) {
        if let Ok(event) = FileEvent::parse(&envelope, purpose, &body) {
            Content::of_envelope(&envelope).add_file_event(&event);
        }
        return;
    }
    let event = read.into_event(&envelope, received_at);
    assert_eq!(OrderEvent::parse(&envelope, &body, received_at), event);
    match event {
        Ok(event) => {
            let mut content = Content::of_envelope(&envelope);
            content.add_order_event(&event);
            assert_eq!(content.contradicts(&content), None);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.chars().count() < 600 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
});
