use super::*;
use crate::{events::order_state::OrderState, time::parse_time};

use std::collections::BTreeSet;

fn body(object: &str) -> String {
    format!(
        r#"{{"id":"e","type":"order.accepted","liveMode":false,"createdTime":"2026-11-27T18:23:06Z","data":{{"object":{object}}}}}"#
    )
}

/// Reads an order both with the envelope and after it, and compares the results.
fn parse(object: &str) -> Result<OrderEvent, PayloadError> {
    parse_received(object, None)
}

fn parse_received(object: &str, received_at: Option<&str>) -> Result<OrderEvent, PayloadError> {
    let (body, received_at) = (body(object), received_at.and_then(parse_time));
    let (envelope, object) = OrderObject::read(body.as_bytes()).unwrap();
    let event = object.into_event(&envelope, received_at);
    assert_eq!(OrderEvent::parse(&envelope, body.as_bytes(), received_at), event);
    event
}

fn order(object: &str) -> OrderSnapshot {
    parse(object).unwrap_or_else(|error| panic!("{object}: {error}")).order.unwrap()
}

#[test]
fn a_snapshot_is_read_with_exact_money_and_all_transitions() {
    let event = parse(
        r#"{"id":"o","updatedTime":"2021-11-01T18:23:02Z","currency":"USD","totalAmount":27.10,"state":"accepted",
           "stateTransitions":{"accepted":"2021-11-01T18:23:05Z","teleported":"2021-11-01T18:23:06Z","fulfilled":null},
           "shipTo":{"name":"A\u0000B","address":{"city":"Minneapolis"}},"charges":[{"any":"thing"}],
           "items":[{"id":"l","productDetails":{"id":"sku","physical":true},"quantity":2.0,"state":"created",
                     "stateTransitions":{"created":"2021-11-01T18:23:02Z"},"metadata":{"a":1}}]}"#,
    )
    .unwrap();
    assert!(event.oddities.is_empty(), "{:?}", event.oddities);
    let order = event.order.unwrap();
    assert_eq!(order.details.total_amount.unwrap().to_string(), "27.1");
    assert_eq!(order.transitions, [(OrderState::Accepted, parse_time("2021-11-01T18:23:05Z"))]);
    assert_eq!(order.unknown_states, BTreeSet::from(["teleported".to_owned()]));
    assert_eq!(order.details.ship_to.unwrap().name.unwrap(), "A\u{fffd}B");
    let line = &order.lines[0].details;
    assert_eq!((line.sku_id.as_deref(), line.quantity, line.physical), (Some("sku"), Some(2), Some(true)));
}

#[test]
fn nearly_every_field_of_an_order_is_optional() {
    for object in
        [r#"{"id":"o","items":null,"totalAmount":null,"updatedTime":"soon"}"#, r#"{"id":"o","totalAmount":" "}"#]
    {
        assert_eq!(order(object), OrderSnapshot::default());
    }
}

#[test]
fn free_text_can_have_any_json_type() {
    let order = order(
        r#"{"id":"o","upstreamId":1001,"customerId":-55,"fraudState":false,"currency":{"code":"EUR"},
            "sellingEntity":"DR_IRELAND-ENTITY","shippingChoice":"express",
            "shipTo":{"name":["N"],"phone":98765442310,"address":{"line1":7,"line2":1.50,"city":"","postalCode":053,"postalCode":53}},
            "items":[{"id":"l","skuId":4711,"productDetails":"ignored"}]}"#
            .replace("053", "53")
            .as_str(),
    );
    let details = order.details;
    assert_eq!(details.upstream_id.as_deref(), Some("1001"));
    assert_eq!(details.customer_id.as_deref(), Some("-55"));
    assert_eq!(details.fraud_state.as_deref(), Some("false"));
    assert_eq!(details.currency, None);
    assert_eq!(details.selling_entity_id.as_deref(), Some("DR_IRELAND-ENTITY"));
    assert_eq!(details.service_level.as_deref(), Some("express"));
    let ship_to = details.ship_to.unwrap();
    assert_eq!((ship_to.name, ship_to.phone.as_deref()), (None, Some("98765442310")));
    assert_eq!((ship_to.line1.as_deref(), ship_to.line2.as_deref()), (Some("7"), Some("1.50")), "digits are unchanged");
    assert_eq!((ship_to.city, ship_to.postal_code.as_deref()), (None, Some("53")));
    assert_eq!(order.lines[0].details.sku_id.as_deref(), Some("4711"));
}

#[test]
fn values_of_another_type_count_as_absent_and_lists_are_not_read_as_objects() {
    for object in [
        r#"{"id":"o","shipTo":[]}"#,
        r#"{"id":"o","shipTo":["N","P",null]}"#,
        r#"{"id":"o","sellingEntity":["DR"],"shippingChoice":""}"#,
        r#"{"id":"o","stateTransitions":[],"items":{}}"#,
        r#"{"id":"o","state":[1],"items":"none","totalAmount":""}"#,
        r#"{"id":"o","state":{},"items":7,"shipTo":1.5}"#,
    ] {
        assert_eq!(order(object), OrderSnapshot::default(), "{object}");
        assert!(parse(object).unwrap().oddities.contains(crate::oddity::Oddity::Kind), "{object}");
    }
    assert_eq!(order(r#"{"id":"o","shipTo":{"address":[]}}"#).details.ship_to, Some(Default::default()));
    let one = order(r#"{"id":"o","items":{"id":7,"quantity":" 2 ","productDetails":{"physical":"true"}}}"#);
    let line = &one.lines[0];
    assert_eq!((line.line_id.as_str(), line.details.quantity, line.details.physical), ("7", Some(2), Some(true)));
    assert!(order(r#"{"id":"o","items":[null]}"#).lines.is_empty());
}

#[test]
fn only_invalid_unicode_is_replaced() {
    let half = order(
        r#"{"id":"o","upstreamId":"\ud83d","shipTo":{"name":"Erika \ud83d","address":{"line1":"\ude00"}},
            "metadata":{"x":"\ud83d"},"totalAmount":27.10,"items":[{"id":"l","skuId":"s\udc00","quantity":2}]}"#,
    );
    assert_eq!(half.details.upstream_id.as_deref(), Some("\u{fffd}"));
    assert_eq!(half.details.ship_to.unwrap().name.as_deref(), Some("Erika \u{fffd}"));
    assert_eq!(half.details.total_amount.unwrap().to_string(), "27.1");
    assert_eq!((half.lines[0].details.sku_id.as_deref(), half.lines[0].details.quantity), (Some("s\u{fffd}"), Some(2)));

    let body = body(r#"{"id":"o","shipTo":{"name":"Zo#"}}"#).into_bytes();
    let latin1: Vec<u8> = body.into_iter().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect();
    let (envelope, object) = OrderObject::read(&latin1).unwrap();
    let event = object.into_event(&envelope, None).unwrap();
    assert_eq!(event.order.unwrap().details.ship_to.unwrap().name.as_deref(), Some("Zo\u{fffd}"));
    assert!(event.oddities.contains(crate::oddity::Oddity::Encoding));
}

#[test]
fn numbers_that_cannot_be_represented_exactly_are_errors() {
    for (object, code) in [
        (r#"{"id":"o","totalAmount":1e400}"#, "shape"),
        (r#"{"id":"o","totalAmount":123456789012345678901234567890.5}"#, "shape"),
        (r#"{"id":"o","totalAmount":1.23456789012345678901234567890123e0}"#, "shape"),
        (r#"{"id":"o","totalAmount":"a lot"}"#, "shape"),
        (r#"{"id":"o","totalAmount":"1_000"}"#, "shape"),
        (r#"{"id":"o","totalAmount":"\ud83d"}"#, "shape"),
        (r#"{"id":"o","totalAmount":true}"#, "shape"),
        (r#"{"id":"o","totalAmount":[1]}"#, "shape"),
        (r#"{"id":"o","totalAmount":1,"totalAmount":2}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l","quantity":1.5}]}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l","quantity":-1}]}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l","quantity":"two"}]}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l","quantity":18446744073709551616}]}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l","quantity":1,"quantity":2}]}"#, "shape"),
        (r#"{"id":"o","items":[{"id":"l"}],"items":[]}"#, "shape"),
        (r#"{"id":"o","items":[{"quantity":1}]}"#, "line_id"),
        (r#"{"id":"o","items":[["l","sku",7]]}"#, "line_id"),
        (r#"{"id":"o","items":["l"]}"#, "line_id"),
        (r#"{"id":"o","items":[{"id":true}]}"#, "line_id"),
        (r#"{"id":"o","items":[{"id":"l\u0000"}]}"#, "line_id"),
        (r#"{"id":"o","items":[{"id":"l\ud83d"}]}"#, "line_id"),
        (r#"{"id":"o","state":"accepted","state":"complete"}"#, "shape"),
        (r#"{"state":"accepted"}"#, "order_id"),
        (r#"{"id":"o\u0000"}"#, "order_id"),
        (r#"{"id":"o\ud83d"}"#, "order_id"),
        (r#"{"id":{}}"#, "order_id"),
        (r#"[]"#, "order_id"),
    ] {
        assert_eq!(parse(object).unwrap_err().code(), code, "{object}");
    }
    assert_eq!(order(r#"{"id":"o","totalAmount":1.5e1}"#).details.total_amount.unwrap().to_string(), "15");
    assert_eq!(order(r#"{"id":"o","totalAmount":" 27.01 "}"#).details.total_amount.unwrap().to_string(), "27.01");
}

#[test]
fn a_field_repeated_with_the_same_value_is_accepted() {
    let event = parse(
        r#"{"id":"o","state":"accepted","state":"accepted","updatedTime":"2026-11-27T10:00:05Z",
            "updatedTime":"2026-11-27T10:00:05Z","shipTo":{"address":{"city":"Bonn","city":"Bonn"}},
            "metadata":{"a":1,"a":2},"items":[{"id":"l","quantity":2,"quantity":2}],"totalAmount":1.0,"totalAmount":1}"#,
    )
    .unwrap();
    assert!(event.oddities.contains(crate::oddity::Oddity::RepeatedKey));
    assert_eq!(event.order.unwrap().details.ship_to.unwrap().city.as_deref(), Some("Bonn"));
    let free = parse(r#"{"id":"o","shipTo":{"name":"A","name":"B"},"fraudState":"passed","fraudState":null}"#).unwrap();
    assert!(free.oddities.contains(crate::oddity::Oddity::ContradictingKey));
    let details = free.order.unwrap().details;
    assert_eq!((details.ship_to.unwrap().name.as_deref(), details.fraud_state.as_deref()), (Some("B"), Some("passed")));
}

#[test]
fn a_repeated_line_counts_once_or_is_an_error() {
    let once = order(
        r#"{"id":"o","items":[{"id":"l","skuId":"s","quantity":2,"stateTransitions":{"created":"2026-11-27T10:00:00Z"}},
            {"id":"l","quantity":2,"stateTransitions":{"fulfilled":"2026-11-27T11:00:00Z"}}]}"#,
    );
    assert_eq!((once.lines.len(), once.lines[0].transitions.len()), (1, 2));
    for other in [r#"{"id":"l","skuId":"sku-2","quantity":2}"#, r#"{"id":"l","skuId":"s","quantity":5}"#] {
        let object = format!(r#"{{"id":"o","items":[{{"id":"l","skuId":"s","quantity":2}},{other}]}}"#);
        assert_eq!(parse(&object).unwrap_err().code(), "line_twice", "{object}");
    }
}

#[test]
fn times_in_many_formats_are_read_and_replaced_by_the_events_if_invalid() {
    let at = |text: &str| parse_time(text).unwrap();
    for (time, expected) in [
        (r#""2026-11-27T10:00:05+0000""#, Some("2026-11-27T10:00:05Z")),
        (r#"1795773605"#, Some("2026-11-27T10:00:05Z")),
        (r#"1795773605.250"#, Some("2026-11-27T10:00:05.25Z")),
        (r#"1795773605000"#, Some("2026-11-27T10:00:05Z")),
        (r#""1795773605000""#, Some("2026-11-27T10:00:05Z")),
        (r#"[2026,11,27,10,0,5,250000000]"#, Some("2026-11-27T10:00:05.25Z")),
        (r#"[2026,11,27,10,0]"#, Some("2026-11-27T10:00:00Z")),
        (r#""2026-W48-5T10:00:05Z""#, Some("2026-11-27T10:00:05Z")),
        // Without seconds: the event's time is more accurate, unless it is earlier.
        (r#""2026-11-27""#, None),
        (r#""2026-11-27T18:23Z""#, None),
        (r#""2026-11-27T10:00""#, None),
        (r#""2026-11-27T10:00.5""#, None),
        (r#""2026-331""#, None),
        (r#"[2026,11,27]"#, None),
        (r#"{"year":2026,"month":"NOVEMBER","monthValue":11,"dayOfMonth":27}"#, None),
        (r#"[2026,11,28]"#, Some("2026-11-28T00:00:00Z")),
        (r#""2026-11-28""#, Some("2026-11-28T00:00:00Z")),
        (
            r#"{"offset":{"totalSeconds":3600,"id":"+01:00"},"nano":0,"year":2026,"monthValue":11,"month":"NOVEMBER","dayOfMonth":27,"hour":11,"minute":0,"second":5}"#,
            Some("2026-11-27T10:00:05Z"),
        ),
        (r#"{"epochSecond":1795773605,"nano":250000000}"#, Some("2026-11-27T10:00:05.25Z")),
        (r#"{"seconds":"1795773605"}"#, Some("2026-11-27T10:00:05Z")),
        (r#"{"time":1795773605000}"#, Some("2026-11-27T10:00:05Z")),
        (r#""soon""#, None),
        (r#""""#, None),
        ("null", None),
        ("0", None),
        ("7", None),
        ("[2026]", None),
        ("[2026,11,27,10,0,5,0,9]", None),
        ("{}", None),
        ("true", None),
        (r#""10000-01-01T00:00:00Z""#, None),
        // Far in the future: it would make the snapshot the newest permanently.
        (r#""9999-12-31T23:59:59Z""#, None),
        (r#""2026-11-29T00:00:00Z""#, None),
    ] {
        let event = parse(&format!(r#"{{"id":"o","updatedTime":{time}}}"#)).unwrap();
        assert_eq!(event.order.unwrap().updated_time, expected.map(at), "{time}");
        assert_eq!(event.as_of, at(expected.unwrap_or("2026-11-27T18:23:06Z")), "{time}");
        let is_replaced = event.oddities.contains(crate::oddity::Oddity::TimeReplaced);
        assert_eq!(is_replaced, expected.is_none(), "{time}");
    }
    let received = parse_received(r#"{"id":"o","updatedTime":"2026-11-29T00:00:00Z"}"#, Some("2026-11-28T12:00:00Z"));
    assert_eq!(received.unwrap().as_of, at("2026-11-29T00:00:00Z"), "the time of receipt is used");
}

#[test]
fn a_state_with_an_invalid_time_was_reached() {
    for (time, expected) in [
        (r#""2026-11-27T10:00:05+0000""#, Some(parse_time("2026-11-27T10:00:05Z"))),
        (r#"[2026,11,27,10,0,5]"#, Some(parse_time("2026-11-27T10:00:05Z"))),
        (r#""27/11/2026 10:00""#, Some(None)),
        (r#""9999-12-31T23:59:59Z""#, Some(None)),
        ("true", Some(None)),
        ("{}", Some(None)),
        ("null", None),
        ("false", None),
        ("0", None),
        (r#"" ""#, None),
        (r#""never""#, None),
    ] {
        let order = order(&format!(r#"{{"id":"o","stateTransitions":{{"accepted":{time}}}}}"#));
        let accepted = order.transitions.first().map(|(_, time)| *time);
        assert_eq!(accepted, expected, "{time}");
    }
    let dated = |updated: &str| {
        let object = format!(
            r#"{{"id":"o","updatedTime":"{updated}","stateTransitions":{{"accepted":"2026-11-27"}},"items":[{{"id":"l","stateTransitions":{{"created":"2026-11-27T10:00"}}}}]}}"#
        );
        let order = order(&object);
        (order.transitions[0].1, order.lines[0].transitions[0].1)
    };
    assert_eq!(dated("2026-11-27T10:00:05Z"), (None, None), "the snapshot's time is more accurate");
    let midnight = parse_time("2026-11-27T00:00:00Z");
    assert_eq!(dated("2026-11-28T10:00:05Z"), (midnight, parse_time("2026-11-27T10:00:00Z")));
    let twice = r#"{"id":"o","stateTransitions":{"accepted":"27/11","accepted":"2026-11-27T11:00:00Z","accepted":"2026-11-27T10:00:00Z"}}"#;
    assert_eq!(order(twice).transitions, [(OrderState::Accepted, parse_time("2026-11-27T10:00:00Z"))]);
}

#[test]
fn an_event_without_a_time_has_the_time_of_its_receipt() {
    let body =
        br#"{"id":"e","type":"order.accepted","liveMode":true,"data":{"object":{"id":"o","updatedTime":"soon"}}}"#;
    let envelope = Envelope::parse(body).unwrap();
    assert_eq!(OrderEvent::parse(&envelope, body, None), Err(PayloadError::Time));
    let received_at = parse_time("2026-11-27T10:00:05Z");
    assert_eq!(Some(OrderEvent::parse(&envelope, body, received_at).unwrap().as_of), received_at);

    let late = br#"{"id":"e","type":"order.accepted","liveMode":true,"createdTime":"9999-01-01T00:00:00Z","data":{"object":{"id":"o"}}}"#;
    let event = OrderEvent::parse(&Envelope::parse(late).unwrap(), late, received_at).unwrap();
    assert_eq!((event.created_time, Some(event.as_of)), (None, received_at));
    assert!(event.oddities.contains(crate::oddity::Oddity::TimeInFuture));
}

#[test]
fn the_mode_of_an_event_without_live_mode_is_not_guessed() {
    let body = br#"{"id":"e","type":"order.accepted","data":{"object":{"id":"o"}}}"#;
    assert_eq!(OrderEvent::parse(&Envelope::parse(body).unwrap(), body, None), Err(PayloadError::Mode));
}

#[test]
fn the_keys_of_an_event_can_be_in_any_order() {
    let body = br#"{"data":{"object":{"items":[{"id":"l"}],"id":"o"}},"createdTime":"2026-11-27T10:00:05Z","liveMode":false,"type":"order.accepted","id":"e"}"#;
    let (envelope, object) = OrderObject::read(body).unwrap();
    assert_eq!(object.into_event(&envelope, None).unwrap().order.unwrap().lines.len(), 1);
}

#[test]
fn a_type_with_two_names_has_one_canonical_name() {
    let body = br#"{"id":"e","type":"fulfillment.create","liveMode":false,"createdTime":"2026-11-27T10:00:05Z","data":{"object":{"id":"f","orderId":"o","items":[{"itemId":"l","quantity":1}]}}}"#;
    let event = OrderEvent::parse(&Envelope::parse(body).unwrap(), body, None).unwrap();
    assert_eq!(event.event_type, "fulfillment.created");
    assert!(event.fulfillment.is_some());
}
