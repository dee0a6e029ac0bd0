use super::*;
use crate::events::{event_type::subject, file_event::Purpose};

fn content(body: &[u8]) -> Content {
    let envelope = Envelope::parse(body).unwrap();
    let mut content = Content::of_envelope(&envelope);
    if subject(&envelope.event_type).is_some() {
        content.add_order_event(&OrderEvent::parse(&envelope, body, None).unwrap());
    }
    if let Some(purpose) = Purpose::of_event_type(&envelope.event_type) {
        content.add_file_event(&FileEvent::parse(&envelope, purpose, body).unwrap());
    }
    content
}

fn event(event_type: &str, object: &str) -> Content {
    content(
        format!(r#"{{"id":"e","type":"{event_type}","liveMode":false,"createdTime":"2026-11-27T10:00:06.123Z","data":{{"object":{object}}}}}"#)
            .as_bytes(),
    )
}

const ORDER: &str = r#"{"id":"o","currency":"EUR","totalAmount":27.01,"state":"accepted","upstreamId":"u","customerId":"5",
    "stateTransitions":{"accepted":"2026-11-27T10:00:05Z"},"updatedTime":"2026-11-27T10:00:05.25Z","fraudState":"passed",
    "shipTo":{"name":"Erika","address":{"line1":"Musterweg 1","city":"Bonn","postalCode":"53111","country":"DE"}},
    "items":[{"id":"l","skuId":"sku-1","quantity":2,"state":"created"}]}"#;

#[test]
fn spellings_of_one_event_do_not_contradict_each_other() {
    let order = event("order.accepted", ORDER);
    let changed = |from: &str, to: &str| {
        assert!(ORDER.contains(from), "{from}");
        ORDER.replace(from, to)
    };
    for other in [
        ORDER.to_owned(),
        ORDER.replace('\n', "").replace("        ", "\t").replace(',', " ,").replace("Musterweg 1 ,", "Musterweg 1,"),
        // The expanded form.
        changed(
            r#""quantity":2"#,
            r#""quantity":2,"productDetails":{"id":"sku-1","physical":true},"metadata":{"a":1}"#,
        ),
        // Another API version.
        changed(r#""stateTransitions":{"accepted":"2026-11-27T10:00:05Z"},"#, ""),
        changed(r#"10:00:05.25Z"#, "10:00:05+0000"),
        changed(
            r#""accepted":"2026-11-27T10:00:05Z""#,
            r#""created":"2026-11-27T10:00:00Z","accepted":"2026-11-27T10:00:05.9Z""#,
        ),
        changed("27.01", "\"27.010\""),
        changed("27.01", "27.009999999999998"),
        changed(r#""quantity":2"#, r#""quantity":"2""#),
        changed(r#","postalCode":"53111""#, r#","postalCode":53111"#),
        changed(r#""upstreamId":"u","#, ""),
        changed(r#""upstreamId":"u""#, r#""upstreamId":null,"other":7"#),
        changed("Erika", "\\ud83d"),
        changed(
            r#","items":[{"id":"l","skuId":"sku-1","quantity":2,"state":"created"}]"#.trim_start_matches(','),
            r#""items":null"#,
        ),
        r#"{"id":"o"}"#.to_owned(),
    ] {
        let other_content = event("order.accepted", &other);
        assert_eq!(order.contradicts(&other_content), None, "{other}");
        assert_eq!(other_content.contradicts(&order), None, "{other}");
    }
    let capture = r#"{"id":"c","orderId":"o","captures":[{"id":"1","state":"complete","amount":5}]}"#;
    let complete = event("order.charge.capture.complete", capture);
    assert_eq!(complete.contradicts(&event("order.charge.capture.completed", capture)), None);
    let fulfillment = r#"{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1}]}"#;
    let created = event("fulfillment.created", fulfillment);
    assert_eq!(created.contradicts(&event("fulfillment.create", fulfillment)), None);
}

#[test]
fn further_charges_or_times_are_not_a_contradiction() {
    for number in 0..5_000 {
        let captures = |more: &str| {
            format!(
                r#"{{"id":"c{number}","orderId":"o","captures":[{{"id":"1","state":"complete","amount":5}}{more}]}}"#
            )
        };
        let one = event("order.charge.capture.complete", &captures(""));
        let more = captures(r#",{"id":"2","state":"complete","amount":7}"#);
        let more = event("order.charge.capture.complete", &more);
        assert_eq!(one.contradicts(&more), None, "{number}");
        let times =
            |more: &str| format!(r#"{{"id":"o","stateTransitions":{{"accepted":"2026-11-27T10:00:05Z"{more}}}}}"#);
        let more = times(&format!(r#","state_{number}":"2026-11-27T10:00:06Z""#));
        let (one, more) = (event("order.accepted", &times("")), event("order.accepted", &more));
        assert_eq!(one.contradicts(&more), None, "{number}");
    }
}

#[test]
fn a_difference_in_any_field_that_consumers_read_is_a_contradiction() {
    let order = event("order.accepted", ORDER);
    for (from, to, aspect) in [
        (r#"{"id":"o""#, r#"{"id":"p""#, "order"),
        (r#""EUR""#, r#""USD""#, "amount"),
        ("27.01", "27.02", "amount"),
        (r#""state":"accepted""#, r#""state":"cancelled""#, "state"),
        (r#""accepted":"2026-11-27T10:00:05Z""#, r#""accepted":"2026-11-27T11:00:05Z""#, "times"),
        ("10:00:05.25Z", "12:00:05.25Z", "times"),
        (r#""quantity":2"#, r#""quantity":3"#, "lines and quantities"),
        (r#"{"id":"l""#, r#"{"id":"m""#, "lines and quantities"),
        ("[{", r#"[{"id":"x","skuId":"s","quantity":1,"state":"created"},{"#, "lines and quantities"),
        ("sku-1", "sku-2", "products"),
        (r#""state":"created""#, r#""state":"fulfilled""#, "products"),
        ("Musterweg 1", "Musterweg 2", "address"),
        ("53111", "53112", "address"),
        (r#""passed""#, r#""blocked""#, "details"),
        (r#""upstreamId":"u""#, r#""upstreamId":"v""#, "details"),
    ] {
        assert!(ORDER.contains(from), "{from}");
        let other = event("order.accepted", &ORDER.replacen(from, to, 1));
        assert_eq!((order.contradicts(&other), other.contradicts(&order)), (Some(aspect), Some(aspect)), "{to}");
    }
    assert_eq!(order.contradicts(&event("order.complete", ORDER)), Some("type"));
    let live = content(br#"{"id":"e","type":"order.accepted","liveMode":true,"createdTime":"2026-11-27T10:00:06Z","data":{"object":{"id":"o"}}}"#);
    assert_eq!(order.contradicts(&live), Some("mode"));
    for (event_type, object, from, to) in [
        (
            "order.charge.capture.failed",
            r#"{"id":"c","orderId":"o","captures":[{"id":"1","state":"failed","amount":5}]}"#,
            "\"amount\":5",
            "\"amount\":6",
        ),
        (
            "order.charge.capture.failed",
            r#"{"id":"c","orderId":"o","captures":[{"id":"1","state":"failed"}]}"#,
            "failed",
            "complete",
        ),
        ("fulfillment.created", r#"{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1}]}"#, ":1", ":2"),
        ("fulfillment.created", r#"{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1}]}"#, "\"f\"", "\"g\""),
        ("fulfillment.created", r#"{"id":"f","orderId":"o","trackingNumber":"1"}"#, "\"1\"", "\"2\""),
        ("order.invoice.created", r#"{"fileId":"6e5bf525-3907-40c5-86a9-f14ce4f33f35","orderId":"o"}"#, "6e5b", "6e5c"),
    ] {
        let (one, other) = (event(event_type, object), event(event_type, &object.replacen(from, to, 1)));
        assert!(one.contradicts(&other).is_some(), "{event_type}: {from} or {to}");
        assert_eq!(one.contradicts(&event(event_type, object)), None);
    }
}

#[test]
fn a_digest_of_columns_contradicts_only_in_them() {
    let order = event("order.accepted", ORDER);
    let of = |event_type, mode, order_id| order.contradicts(&Content::of_parts(event_type, mode, order_id));
    assert_eq!(of("order.accepted", Some(Mode::Test), Some("o")), None);
    assert_eq!(of("order.accepted", None, None), None);
    assert_eq!(of("order.accepted", Some(Mode::Live), Some("o")), Some("mode"));
    assert_eq!(of("order.accepted", Some(Mode::Test), Some("p")), Some("order"));
    assert_eq!(of("order.complete", Some(Mode::Test), Some("o")), Some("type"));
}

#[test]
fn digests_of_different_versions_are_not_compared() {
    let order = event("order.accepted", ORDER);
    assert_eq!(Content::from_slice(order.as_bytes()), Some(order));
    assert_eq!(Content::from_slice(&[1; 31]), None);
    let mut newer = event("order.complete", ORDER);
    newer.0[0] += 1;
    assert_eq!(order.contradicts(&newer), None);
    assert_eq!(Content::BYTES, 42, "the size in the column's CHECK constraint");
    assert_eq!(Content::from_slice(&[1; 32]), None, "the size of the first version");
}

#[test]
fn the_digest_of_an_event_never_changes_within_a_version() {
    let hex = hex::encode(event("order.accepted", ORDER).as_bytes());
    assert_eq!(
        hex, "020100017aed0001c41e0001b0ee7eb93cac0003c6640001f8e80003887800b53b0d000b970100000000",
        "digests are stored: change VERSION together with the encoding"
    );
}

#[test]
fn a_digest_is_stored_in_fewer_bytes_and_read_unchanged() {
    let of = |event_type: &str, order_id: Option<&str>| Content::of_parts(event_type, Some(Mode::Test), order_id);
    let capture = r#"{"id":"c","orderId":"o","captures":[{"id":"7","state":"failed"}]}"#;
    let fulfillment = r#"{"id":"f","orderId":"o","trackingNumber":"1","items":[{"itemId":"l","quantity":1}]}"#;
    for (event_type, object, order_id, bytes) in [
        ("order.accepted", ORDER, "o", 22),
        ("order.accepted", r#"{"id":"o"}"#, "o", 2),
        ("order.charge.capture.failed", capture, "o", 6),
        ("fulfillment.created", fulfillment, "o", 9),
    ] {
        let (content, known) = (event(event_type, object), of(event_type, Some(order_id)));
        let packed = content.pack(&known);
        assert_eq!(packed.len(), bytes, "{event_type}");
        assert_eq!(Content::unpack(&packed, &known), Some(content));
        assert_eq!(Content::unpack_hex(&hex::encode(&packed), &known), Some(content));
        // Digests of former versions were stored whole.
        assert_eq!(Content::unpack(content.as_bytes(), &known), Some(content));
    }
    // An order id that is not a key is not stored, and a type is stored in at most 100 characters.
    let content = event("order.accepted", ORDER);
    for known in [of("order.accepted", None), of("order.complete", Some("o")), of("order.accepted", Some("p"))] {
        let packed = content.pack(&known);
        assert_eq!(packed, content.as_bytes());
        assert_eq!(Content::unpack(&packed, &known), Some(content));
    }
    let known = of("order.accepted", Some("o"));
    for damaged in [&[][..], &[0x20], &[0x30, 0], &[0x20, 0x04, 1], &[0x20, 0x04, 1, 2, 3], &[0x20, 0x01], &[1; 32]] {
        assert_eq!(Content::unpack(damaged, &known), None, "{damaged:?}");
    }
}
