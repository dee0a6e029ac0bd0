//! Bodies made to break whoever reads them, with the outcome that each must have.

/// A body, and what must become of it.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// The body.
    pub body: Vec<u8>,
    /// Its outcome at the processor.
    pub outcome: &'static str,
    /// The reason that goes with the outcome.
    pub reason: Option<&'static str>,
    /// Whether it is an event at all; what is none is refused at the front door.
    pub is_event: bool,
}

/// NUL, lone surrogates, numbers past 2^64, nesting 10^5 deep, ids of 10 kB, keys that stand twice, times at the end of time.
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
        (event("h8", "order.accepted", r#"{"id":"o8","email":"\ud800","shipTo":{"name":"\ud800"}}"#), "dead", Some("shape")),
        (br#"{"id":"h9","type":"order.accepted","createdTime":"2026-01-01T00:00:00Z","data":{"object":{"id":"o9"}}}"#.to_vec(), "dead", Some("live_mode")),
        (event("h10", "order.accepted", r#"{"id":"o10","items":[{"id":"l\u0000"}]}"#), "dead", Some("line_id")),
        (event("h11", "order.accepted", r#"{"id":"o11","items":[{"id":"l\ud800"}]}"#), "dead", Some("shape")),
        (event("i1", "payout.created", "null"), "ignored", Some("unhandled_type")),
        (event("i2", "order.teleported\\u0000", r#"{"id":"\u0000"}"#), "ignored", Some("unhandled_type")),
        (event("a1", "order.accepted", &format!(r#"{{"id":"deep","extra":{deep}}}"#)), "applied", None),
        (event("a2", "order.accepted", r#"{"id":"nul","currency":"\u0000","state":"\u0000","shipTo":{"name":"\u0000"},"stateTransitions":{"\u0000":"2026-01-01T00:00:00Z"},"items":[{"id":"l","skuId":"\u0000"}]}"#), "applied", None),
        (event("a4", "order.accepted", r#"{"id":"quoted","items":[{"id":"\"\\\ufffe\ud83d\ude00\u2028","skuId":"\uffff","state":"\ud83d\ude00","quantity":"1e9","stateTransitions":{"created":"2026-12-31T23:59:60.1234567Z"}},{"id":"snapshot"}]}"#), "applied", None),
        (event("a3", "order.accepted", r#"{"id":"times","updatedTime":"9999-12-31T23:59:59.999999999Z","stateTransitions":{"accepted":"0001-01-01T00:00:00Z"}}"#), "applied", None),
    ];
    let hostile = |(body, outcome, reason)| Hostile { body, outcome, reason, is_event: reason != Some("envelope") };
    bodies.into_iter().map(hostile).collect()
}

fn event(id: &str, event_type: &str, object: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
    )
    .into_bytes()
}
