//! Hostile bodies, with the outcome that each must have.

use riverlock_schemas::kafka::record::FOLDED_BYTES_MAX;

/// A body and its expected outcome.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// The body.
    pub body: Vec<u8>,
    /// Its outcome in the processor.
    pub outcome: &'static str,
    /// The reason of the outcome.
    pub reason: Option<&'static str>,
}

/// NUL, lone surrogates, Latin-1, numbers above 2^64, nesting 10^5 deep, ids of 10 kB, bodies over the limit, duplicate
/// keys, values of wrong types, extreme times.
#[must_use]
pub fn corpus() -> Vec<Hostile> {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "9".repeat(10_000);
    let bodies: Vec<(Vec<u8>, &'static str, Option<&'static str>)> = vec![
        (b"not json".to_vec(), "dead", Some("envelope")),
        (b"{\"id\":\"x\",\"type\":\"\xff\"}".to_vec(), "dead", Some("envelope")),
        (event("h1", "order.accepted", r#"{"id":"o\u0000"}"#), "dead", Some("order_id")),
        (event("h2", "order.accepted", &format!(r#"{{"id":"{long}"}}"#)), "dead", Some("order_id")),
        (event("h3", "order.accepted", r#"{"updatedTime":"2026-01-01T00:00:00Z"}"#), "dead", Some("order_id")),
        (event(&long, "order.accepted", r#"{"id":"o3"}"#), "dead", Some("event_id")),
        (event("h4\\u0000", "order.accepted", r#"{"id":"o4"}"#), "dead", Some("event_id")),
        (event("h5", "order.accepted", r#"{"id":"o5","totalAmount":1e400}"#), "dead", Some("shape")),
        (event("h6", "order.accepted", r#"{"id":"o6","items":[{"id":"l","quantity":18446744073709551616}]}"#), "dead", Some("shape")),
        (event("h7", "order.accepted", r#"{"id":"o7","state":1,"state":2}"#), "dead", Some("shape")),
        (event("h8", "order.accepted", r#"{"id":"o8","items":[{"id":"l","skuId":"a","quantity":1},{"id":"l","skuId":"b","quantity":5}]}"#), "dead", Some("line_twice")),
        (br#"{"id":"h9","type":"order.accepted","createdTime":"2026-01-01T00:00:00Z","data":{"object":{"id":"o9"}}}"#.to_vec(), "dead", Some("live_mode")),
        (event("h10", "order.accepted", r#"{"id":"o10","items":[{"id":"l\u0000"}]}"#), "dead", Some("line_id")),
        (event("h11", "order.accepted", r#"{"id":"o11","items":[{"id":"l\ud800"}]}"#), "dead", Some("line_id")),
        (event("h12", "order.accepted", r#"{"id":"o12","items":[["l","sku",7]]}"#), "dead", Some("line_id")),
        (event("h13", "order.accepted", r#"{"id":"o13","totalAmount":"1_000"}"#), "dead", Some("shape")),
        (event("h14", "order.accepted", &format!(r#"{{"id":"o14","x":"{}"}}"#, "x".repeat(FOLDED_BYTES_MAX))), "dead", Some("too_large")),
        (vec![b' '; FOLDED_BYTES_MAX + 1], "dead", Some("too_large")),
        (event("i1", "payout.created", "null"), "ignored", Some("unhandled_type")),
        (event("i2", "order.teleported\\u0000", r#"{"id":"\u0000"}"#), "ignored", Some("unhandled_type")),
        (event("a1", "order.accepted", &format!(r#"{{"id":"deep","extra":{deep}}}"#)), "applied", None),
        (event("a2", "order.accepted", r#"{"id":"nul","currency":"\u0000","state":"\u0000","shipTo":{"name":"\u0000"},"stateTransitions":{"\u0000":"2026-01-01T00:00:00Z"},"items":[{"id":"l","skuId":"\u0000"}]}"#), "applied", None),
        (event("a4", "order.accepted", r#"{"id":"quoted","items":[{"id":"\"\\\ufffe\ud83d\ude00\u2028","skuId":"\uffff","state":"\ud83d\ude00","quantity":"1e9","stateTransitions":{"created":"2026-12-31T23:59:60.1234567Z"}},{"id":"snapshot"}]}"#), "applied", None),
        (event("a3", "order.accepted", r#"{"id":"times","updatedTime":"9999-12-31T23:59:59.999999999Z","stateTransitions":{"accepted":"0001-01-01T00:00:00Z"}}"#), "applied", None),
        (event("a5", "order.accepted", r#"{"id":"half","email":"\ud800","shipTo":{"name":"\ud800"},"items":[{"id":"l","skuId":"\udc00"}]}"#), "applied", None),
        (event("a6", "order.accepted", r#"{"id":48304241190336,"updatedTime":{},"state":3,"shipTo":["N","P",null],"upstreamId":1.50,"sellingEntity":"DR","stateTransitions":[],"items":{"id":7,"quantity":" 2 ","skuId":false}}"#), "applied", None),
        (event("a7", "order.accepted", r#"{"id":"twice","state":"accepted","state":"accepted","shipTo":{"name":"A","name":"B"},"items":[{"id":"l","quantity":1},{"id":"l","quantity":1}]}"#), "applied", None),
        (latin1(&event("a8", "order.accepted", r#"{"id":"latin1","shipTo":{"name":"Zo#"}}"#)), "applied", None),
    ];
    bodies.into_iter().map(|(body, outcome, reason)| Hostile { body, outcome, reason }).collect()
}

/// The body in Latin-1, with an e acute for every `#`.
fn latin1(body: &[u8]) -> Vec<u8> {
    body.iter().map(|byte| if *byte == b'#' { 0xe9 } else { *byte }).collect()
}

fn event(id: &str, event_type: &str, object: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
    )
    .into_bytes()
}
