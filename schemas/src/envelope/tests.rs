use std::borrow::Cow;

use super::*;
use crate::Mode;

fn parse(text: &str) -> Result<Envelope<'_>, EnvelopeError> {
    Envelope::parse(text.as_bytes())
}

fn oddities(body: &[u8]) -> Vec<Oddity> {
    let (_, oddities) = Envelope::parse_noting(body).unwrap();
    oddities.iter().collect()
}

#[test]
fn an_order_event_is_keyed_by_its_order() {
    let body = r#"{"id":"e1","type":"order.accepted","data":{"object":{"id":"o1","items":[{"id":"l1"}]}},"liveMode":true,"createdTime":"2021-11-01T18:23:06.272054Z"}"#;
    let event = parse(body).unwrap();
    assert_eq!((event.id.as_ref(), event.event_type.as_ref()), ("e1", "order.accepted"));
    assert_eq!(event.order_id.as_deref(), Some("o1"));
    assert_eq!(event.mode, Some(Mode::Live));
    assert_eq!(event.created_time.unwrap().timestamp_micros(), 1_635_790_986_272_054);
    assert!(matches!(event.id, Cow::Borrowed(_)), "a usual event is parsed without copies");
    assert_eq!(oddities(body.as_bytes()), []);
}

#[test]
fn an_invoice_event_is_keyed_by_its_order_and_not_by_its_file() {
    let event = parse(
        r#"{"data":{"object":{"id":"f1","fileId":"f1","orderId":"o1"}},"type":"order.invoice.created","id":"e"}"#,
    )
    .unwrap();
    assert_eq!(event.order_id.as_deref(), Some("o1"));
    assert_eq!((event.mode, event.created_time), (None, None));
}

#[test]
fn unusual_events_are_accepted() {
    let deep = format!(r#"{{"id":"e","type":"t","data":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for (text, order_id) in [
        (r#"{"id":"e","type":"t"}"#, None),
        (r#"{"id":"e","type":"t","data":null}"#, None),
        (r#"{"id":"e","type":"t","data":[1,{"object":2}]}"#, None),
        (r#"{"id":"e","type":"t","data":{"object":"x"}}"#, None),
        (r#"{"id":"e","type":"t","data":{"object":{"id":12345}}}"#, Some("12345")),
        (
            r#"{"id":"e","type":"t","data":{"object":{"id":123456789012345678901234567890}}}"#,
            Some("123456789012345678901234567890"),
        ),
        (r#"{"id":"e","type":"t","data":{"object":{"n":1e400,"id":"o"}}}"#, Some("o")),
        (r#"{"id":"e","type":"t","data":{"object":{"id":{},"orderId":true}}}"#, None),
        (r#"{"id":"e","type":"t","data":{"object":{"orderId":"","id":"o"}}}"#, Some("o")),
        (r#"{"id":"e","type":"t","data":{"object":{"orderId":" \t","id":"o"}}}"#, Some("o")),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"  "}}}"#, None),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"o","x":1,"x":2}}}"#, Some("o")),
        ("\u{feff}{\"id\":\"e\",\"type\":\"t\",\"data\":{\"object\":{\"id\":\"o\\u0000\"}}}", Some("o\0")),
        (
            r#"{"id":"e","type":"t","createdTime":7,"liveMode":"yes","data":{"object":{"id":"o","liveMode":{}}}}"#,
            Some("o"),
        ),
        (&deep, None),
    ] {
        let event = parse(text).unwrap_or_else(|error| panic!("{error}: {}", &text[..text.len().min(100)]));
        assert_eq!(event.order_id.as_deref(), order_id, "{}", &text[..text.len().min(100)]);
    }
}

#[test]
fn a_numeric_id_is_converted_to_its_digits() {
    for (id, digits) in [("7", "7"), ("-1", "-1"), ("18446744073709551616", "18446744073709551616")] {
        let body = format!(r#"{{"id":{id},"type":"t"}}"#);
        assert_eq!(parse(&body).unwrap().id, digits);
    }
}

#[test]
fn a_body_with_invalid_unicode_is_read_if_its_id_and_type_are_valid() {
    let latin1 = b"{\"id\":\"e\",\"type\":\"t\",\"data\":{\"object\":{\"id\":\"o\",\"name\":\"Zo\xe9\"}}}";
    let event = Envelope::parse(latin1).unwrap();
    assert_eq!((event.id.as_ref(), event.order_id.as_deref()), ("e", Some("o")));
    assert_eq!(oddities(latin1), [Oddity::Encoding]);

    let cut = b"\xef\xbb\xbf{\"id\":\"e\",\"type\":\"t\",\"name\":\"Erika \xf0\x9f\x98\"}";
    assert_eq!(Envelope::parse(cut).unwrap().id, "e");
    let half = br#"{"id":"e","type":"t","createdTime":"\ud83d"}"#;
    assert_eq!(Envelope::parse(half).unwrap().created_time, None);

    assert_eq!(Envelope::parse(b"{\"id\":\"\xff\",\"type\":\"t\"}"), Err(EnvelopeError::Missing("id")));
    assert_eq!(parse(r#"{"id":"\ud800","type":"t"}"#), Err(EnvelopeError::Missing("id")));
    assert_eq!(Envelope::parse(b"{\"id\":\"e\",\"type\":\"\xff\"}"), Err(EnvelopeError::Missing("type")));
    assert_eq!(
        parse("{\"id\":\"\u{fffd}\",\"type\":\"t\"}").unwrap().id,
        "\u{fffd}",
        "the replacement character was sent"
    );
}

#[test]
fn a_body_that_is_not_an_event_is_rejected_with_the_reason() {
    assert_eq!(parse(r#"{"type":"t"}"#), Err(EnvelopeError::Missing("id")));
    assert_eq!(parse(r#"{"id":"","type":"t"}"#), Err(EnvelopeError::Missing("id")));
    assert_eq!(parse(r#"{"id":" \n","type":"t"}"#), Err(EnvelopeError::Missing("id")));
    assert_eq!(parse(r#"{"id":{},"type":"t"}"#), Err(EnvelopeError::Missing("id")));
    assert_eq!(parse(r#"{"id":"e"}"#), Err(EnvelopeError::Missing("type")));
    for text in ["", "[]", "null", "7", "{", r#"{"id":"e","type":"t"} x"#, "id=e&type=t", r#"{"id":"e","type":"t",}"#] {
        assert!(matches!(parse(text), Err(EnvelopeError::NotJson(_))), "{text}");
    }
}

#[test]
fn error_messages_quote_little_of_the_body_and_have_no_control_characters() {
    let long = format!("\"{}\"", "x\\n".repeat(100_000));
    for body in [
        long.as_str(),
        "\"a\\n2026-01-01 ERROR forged\"",
        "{\"a\\u001b[31m\\n\":1,\"a\\u001b[31m\\n\":2}",
        "{\"\\u0000",
    ] {
        let text = parse(body).unwrap_err().to_string();
        assert!(text.chars().count() < 300 && !text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn a_key_repeated_with_the_same_value_is_accepted() {
    let data = r#""data":{"object":{"id":"o","liveMode":true},"x":[1.50]}"#;
    for (text, is_noted) in [
        (r#"{"id":"e","type":"t","id":"e"}"#.to_owned(), true),
        (r#"{"id":7,"type":"t","id":"7"}"#.to_owned(), true),
        (r#"{"id":"e","\u0069d":"e","type":"t","type":"t"}"#.to_owned(), true),
        (r#"{"id":"e","type":"t","liveMode":true,"liveMode":true}"#.to_owned(), true),
        (r#"{"id":"e","type":"t","liveMode":true,"liveMode":null}"#.to_owned(), true),
        (
            r#"{"id":"e","type":"t","createdTime":"2026-01-01T00:00:00Z","createdTime":"2026-01-01T00:00:00Z"}"#
                .to_owned(),
            true,
        ),
        (r#"{"id":"e","type":"t","versionIds":[],"versionIds":[1]}"#.to_owned(), false),
        (format!(r#"{{"id":"e","type":"t",{data},{data}}}"#), true),
        (
            format!(
                r#"{{"id":"e","type":"t",{data},"data": {{ "x":[1.50], "object":{{"liveMode":true,"id":"o"}} }} }}"#
            ),
            true,
        ),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"o"},"object":{ "id":"o" }}}"#.to_owned(), true),
        (format!(r#"{{"id":"e","type":"t",{data},"data":null}}"#), true),
        (format!(r#"{{"id":"e","type":"t","data":null,{data}}}"#), false),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"o"},"object":null}}"#.to_owned(), true),
        (r#"{"id":"e","type":"t","data":{"object":null,"object":{"id":"o"}}}"#.to_owned(), false),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"o","id":"o","orderId":"o","orderId":"o"}}}"#.to_owned(), true),
    ] {
        let event = parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(event.event_type, "t");
        if text.contains("data") {
            assert_eq!(event.order_id.as_deref(), Some("o"), "{text}");
        }
        assert_eq!(oddities(text.as_bytes()).contains(&Oddity::RepeatedKey), is_noted, "{text}");
    }
}

#[test]
fn a_key_repeated_with_different_values_is_rejected_by_both_parsers() {
    for (text, key) in [
        (r#"{"id":"e","type":"t","id":"f"}"#, "id"),
        (r#"{"id":"e","\u0069d":"f","type":"t"}"#, "id"),
        (r#"{"id":"e","type":"t","type":"u"}"#, "type"),
        (r#"{"id":"e","type":"t","liveMode":true,"liveMode":false}"#, "liveMode"),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"1"}},"data":{"object":{"id":"2"}}}"#, "data"),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"1"},"object":{"id":"2"}}}"#, "object"),
        (r#"{"id":"e","type":"t","data":{"object":{"id":"1","id":"2"}}}"#, "id"),
        (r#"{"id":"e","type":"t","data":{"object":{"orderId":"1","orderId":"2"}}}"#, "orderId"),
        (r#"{"id":"e","type":"t","data":{"object":{"liveMode":true,"liveMode":false}}}"#, "liveMode"),
    ] {
        assert_eq!(parse(text), Err(EnvelopeError::DuplicateKey(key)), "{text}");
        let repaired = read_repaired::<()>(text.as_bytes(), None);
        assert_eq!(repaired.err(), Some(EnvelopeError::DuplicateKey(key)), "{text}");
    }
}

#[test]
fn the_events_mode_counts_and_a_contradiction_is_noted() {
    for (event, object, mode, is_noted) in [
        ("true", "true", Some(Mode::Live), false),
        ("true", "false", Some(Mode::Live), true),
        ("false", "true", Some(Mode::Test), true),
        ("null", "true", Some(Mode::Live), false),
        ("\"false\"", "null", Some(Mode::Test), false),
        ("0", "null", Some(Mode::Test), false),
        ("\" TRUE \"", "\"true\"", Some(Mode::Live), false),
        ("\"no\"", "{}", None, false),
        ("2", "null", None, false),
    ] {
        let body = format!(r#"{{"id":"e","type":"t","liveMode":{event},"data":{{"object":{{"liveMode":{object}}}}}}}"#);
        assert_eq!(parse(&body).unwrap().mode, mode, "{body}");
        assert_eq!(oddities(body.as_bytes()).contains(&Oddity::ModeContradiction), is_noted, "{body}");
    }
}

#[test]
fn the_envelope_of_a_large_body_is_read_from_its_beginning() {
    let rest = format!(r#","x":"{}"}}"#, "é".repeat(PEEK_BYTES));
    let body = format!(r#"{{"id":"e","type":"t","data":{{"object":{{"id":"o","items":[]}}}}{rest}"#);
    let event = Envelope::peek(body.as_bytes()).unwrap();
    assert_eq!((event.id.as_ref(), event.event_type.as_ref(), event.order_id.as_deref()), ("e", "t", Some("o")));
    let inside = format!(r#"{{"id":"e","type":"t","data":{{"object":{{"orderId":"o"{rest}"#);
    assert_eq!(Envelope::peek(inside.as_bytes()).unwrap().order_id.as_deref(), Some("o"));
    let late = format!(r#"{{"id":"e"{},"type":"t"}}"#, rest.trim_end_matches('}'));
    assert_eq!(Envelope::peek(late.as_bytes()), None);
    assert_eq!(Envelope::peek(br#"{"id":"e","type":"t"}"#).unwrap().id, "e");
    assert_eq!(Envelope::peek(b"\xff"), None);
}

proptest::proptest! {
    #[test]
    fn both_parsers_agree(
        id in "[a-z\"\\\\]{0,3}",
        kind in "[a-z.]{0,3}",
        order in "[a-z0-9é]{0,3}",
        number: i64,
        live: bool,
        is_number: bool,
    ) {
        let order = if is_number { serde_json::json!(number) } else { serde_json::json!(order) };
        let body = serde_json::json!({
            "id": id, "type": kind, "liveMode": live, "createdTime": number, "data": {"object": {"id": order}}, "x": 1.5,
        });
        let body = body.to_string();
        let repaired = read_repaired::<()>(body.as_bytes(), None).map(|read| read.envelope);
        proptest::prop_assert_eq!(parse(&body), repaired);
    }

    #[test]
    fn no_body_makes_the_parser_panic(body: Vec<u8>) {
        let _ = Envelope::parse(&body);
        let _ = Envelope::peek(&body);
    }
}
