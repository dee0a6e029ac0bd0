use std::sync::atomic::AtomicI64;

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::data::{life::Life, pdf::invoice_pdf};
use crate::faults::{Fault, FaultRule};

const KEY: &str = "sandbox-confidential-key";
const FILE: &str = "0c9d6a2e-55a1-4c3b-8f6b-1d2c3b4a5f60";
const NOW: i64 = 1_767_700_000;

/// An API that is called without a socket.
struct Asked {
    api: Arc<Api>,
    now: Arc<AtomicI64>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Type and parameter of an error.
    fn error(&self) -> (String, String) {
        let body = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert!(!text(&body["errors"][0]["message"]).is_empty() && !text(&body["errors"][0]["code"]).is_empty());
        (text(&body["type"]), text(&body["errors"][0]["parameter"]))
    }
}

fn api(config: &SandboxConfig) -> Asked {
    let now = Arc::new(AtomicI64::new(NOW));
    let seen = Arc::clone(&now);
    let clock = Clock::from_fn(move || DateTime::from_timestamp(seen.load(Ordering::Relaxed), 0).unwrap());
    Asked { api: Api::new(config, clock), now }
}

/// An API with a rate limit that no test exceeds by accident.
fn without_rate_limit() -> Asked {
    let rate_limit_per_second = std::num::NonZeroU32::new(100_000);
    api(&SandboxConfig { rate_limit_per_second, ..SandboxConfig::default() })
}

impl Asked {
    async fn send(&self, method: Method, path: &str, key: Option<&str>, body: &Value) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "sandbox.test");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            request = request.header("content-type", "application/json");
            Body::from(body.to_string())
        };
        let response = router(Arc::clone(&self.api)).oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Answer { status, headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Some(KEY), &Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(KEY), &body).await
    }
}

#[tokio::test]
async fn requests_without_the_key_are_rejected() {
    let api = without_rate_limit();
    let content = format!("/files/{FILE}/content");
    for path in [&content, "/events", "/webhooks", "/fulfillments", "/sandbox/faults"] {
        for key in [None, Some(""), Some("wrong")] {
            let answer = api.send(Method::GET, path, key, &Value::Null).await;
            assert_eq!(answer.status, 401, "{path}");
            assert_eq!(answer.error().0, "unauthorized");
        }
    }
    assert_eq!(api.send(Method::GET, "/livez", None, &Value::Null).await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_get_an_error_in_the_same_format() {
    let api = without_rate_limit();
    assert_eq!(api.get("/nothing").await.error().0, "not_found");
    let answer = api.send(Method::DELETE, "/events", Some(KEY), &Value::Null).await;
    assert_eq!((answer.status, answer.error().0.as_str()), (405, "method_not_allowed"));
}

#[tokio::test]
async fn every_uuid_is_a_file_and_nothing_else_is() {
    let api = without_rate_limit();
    let content = api.get(&format!("/files/{FILE}/content")).await;
    assert_eq!(content.status, 200);
    assert_eq!(content.headers["content-type"], "application/pdf");
    assert_eq!(content.headers["content-length"], content.body.len().to_string().as_str());
    assert_eq!(content.body, invoice_pdf(FILE));
    let metadata = api.get(&format!("/files/{FILE}")).await.json();
    assert_eq!(metadata["size"], content.body.len());
    assert_eq!(metadata["url"], format!("http://sandbox.test/files/{FILE}/content"));
    for id in ["1234", "0C9D6A2E-55A1-4C3B-8F6B-1D2C3B4A5F60", "0c9d6a2e55a14c3b8f6b1d2c3b4a5f60"] {
        let answer = api.get(&format!("/files/{id}/content")).await;
        assert_eq!((answer.status, answer.error().0.as_str()), (404, "not_found"));
    }
}

#[tokio::test]
async fn a_customer_link_opens_without_a_key_until_it_expires() {
    let api = without_rate_limit();
    let expires = DateTime::from_timestamp(NOW + 60, 0).unwrap().to_rfc3339();
    let answer = api.post("/file-links", json!({ "fileId": FILE, "expiresTime": expires })).await;
    assert_eq!(answer.status, 201);
    let link = answer.json();
    assert_eq!(link["expired"], false);
    let path = link["url"].as_str().unwrap().strip_prefix("http://sandbox.test").unwrap().to_owned();
    let open = |path: String| {
        let api = &api;
        async move { api.send(Method::GET, &path, None, &Value::Null).await.status }
    };
    assert_eq!(open(path.clone()).await, 200);
    assert_eq!(open(format!("{path}0")).await, 404);
    assert_eq!(open(path.replace("0c9d", "0c9e")).await, 404);
    api.now.store(NOW + 60, Ordering::Relaxed);
    assert_eq!(open(path).await, 404);
}

#[tokio::test]
async fn a_link_needs_a_file_and_a_future_expiry() {
    let api = without_rate_limit();
    let past = DateTime::from_timestamp(NOW, 0).unwrap().to_rfc3339();
    for (body, status, parameter) in [
        (json!({ "expiresTime": past }), 400, "fileId"),
        (json!({ "fileId": "x", "expiresTime": past }), 404, "fileId"),
        (json!({ "fileId": FILE }), 400, "expiresTime"),
        (json!({ "fileId": FILE, "expiresTime": "tomorrow" }), 400, "expiresTime"),
        (json!({ "fileId": FILE, "expiresTime": past }), 400, "expiresTime"),
    ] {
        let answer = api.post("/file-links", body).await;
        assert_eq!((answer.status, answer.error().1.as_str()), (status, parameter));
    }
}

#[tokio::test]
async fn past_the_rate_limit_comes_429_with_whole_seconds() {
    let api = api(&SandboxConfig::default());
    for _ in 0..25 {
        assert_eq!(api.get("/webhooks").await.status, 200);
    }
    let answer = api.get(&format!("/files/{FILE}/content")).await;
    assert_eq!((answer.status, answer.error().0.as_str()), (429, "too_many_requests"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(api.get("/sandbox/faults").await.status, 200);
    api.now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(api.get("/webhooks").await.status, 200);
}

fn played(api: &Asked) -> Vec<crate::PlannedEvent> {
    let start: DateTime<Utc> = DateTime::from_timestamp(NOW, 0).unwrap();
    let lives = (0..20).map(|index| Life::generate(1, index, Mode::Test, start));
    let mut events: Vec<_> = lives.flat_map(|life| life.events).collect();
    events.iter().for_each(|event| api.api.events().record(event));
    events.sort_by_key(|event| (event.created_time, event.id.clone()));
    events
}

#[tokio::test]
async fn all_events_are_listed_in_pages() {
    let api = without_rate_limit();
    let sent = played(&api);
    let mut path = "/events?limit=7".to_owned();
    let mut found = Vec::new();
    loop {
        let page = api.get(&path).await.json();
        let ids: Vec<String> =
            page["data"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        path = format!("/events?limit=7&startingAfter={}", ids.last().unwrap());
        found.extend(ids);
        if page["hasMore"] == false {
            break;
        }
    }
    let newest_first: Vec<&str> = sent.iter().rev().map(|event| event.id.as_str()).collect();
    assert_eq!(found, newest_first);
    let one = api.get(&format!("/events/{}", sent[3].id)).await;
    assert_eq!((one.status, one.body), (200, sent[3].body.clone()));
    assert_eq!(api.get("/events/none").await.status, 404);
}

#[tokio::test]
async fn events_are_filtered_by_time_and_type() {
    let api = without_rate_limit();
    let sent = played(&api);
    let middle = sent[sent.len() / 2].created_time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    let count = |path: String| {
        let api = &api;
        async move { api.get(&path).await.json()["data"].as_array().unwrap().len() }
    };
    let newer = count(format!("/events?limit=100&createdTime%5Bgt%5D={middle}")).await;
    let older = count(format!("/events?limit=100&createdTime[lte]={middle}")).await;
    assert_eq!((newer, older), (sent.len() - sent.len() / 2 - 1, sent.len() / 2 + 1));
    let accepted = sent.iter().filter(|event| event.event_type == "order.accepted").count();
    assert_eq!(count("/events?limit=100&type=order.acc*".into()).await, accepted);
    let both = count("/events?limit=100&types=order.accepted,order.complete".into()).await;
    assert!(both > accepted);
    for bad in ["limit=0", "limit=101", "type=a&types=b", "createdTime[gt]=now", "startingAfter=x", "creted=1"] {
        assert_eq!(api.get(&format!("/events?{bad}")).await.status, 400, "{bad}");
    }
}

fn webhook() -> Value {
    json!({ "types": ["order.accepted", "order.complete"], "address": "https://shop.example/hook",
            "authentication": { "userName": "u", "password": "p" } })
}

#[tokio::test]
async fn a_webhook_is_registered_read_changed_and_deleted() {
    let api = without_rate_limit();
    let answer = api.post("/webhooks", webhook()).await;
    let made = answer.json();
    assert_eq!(answer.status, 201);
    assert_eq!((&made["enabled"], &made["apiVersion"]), (&json!(true), &json!("default")));
    assert_eq!(made["authentication"], json!({ "userName": "u", "password": "p" }));
    let path = format!("/webhooks/{}", made["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.json(), made);

    assert_eq!(api.post("/webhooks", webhook()).await.error(), ("conflict".into(), "address".into()));
    let listed = |query: &'static str| {
        let api = &api;
        async move { api.get(&format!("/webhooks{query}")).await.json()["data"].as_array().unwrap().len() }
    };
    assert_eq!(listed("").await, 1);
    assert_eq!(listed("?type=order.*").await, 1);
    assert_eq!(listed("?types=order.blocked,order.complete").await, 1);
    assert_eq!(listed("?type=payout.*").await, 0);
    assert_eq!(api.get("/webhooks?type=a&types=b").await.status, 400);

    let changed = api.send(Method::PATCH, &path, Some(KEY), &json!({ "enabled": false })).await;
    assert_eq!((changed.status, &changed.json()["enabled"]), (200, &json!(false)));
    let refused = api.send(Method::PATCH, &path, Some(KEY), &json!({ "id": "mine" })).await;
    assert_eq!(refused.error(), ("bad_request".into(), "id".into()));
    assert_eq!(api.send(Method::DELETE, &path, Some(KEY), &Value::Null).await.status, 204);
    assert_eq!(api.get(&path).await.status, 404);
}

#[tokio::test]
async fn an_invalid_webhook_is_rejected() {
    let api = without_rate_limit();
    for (name, value, parameter) in [
        ("types", json!([]), "types"),
        ("types", json!([1]), "types"),
        ("address", json!("shop.example"), "address"),
        ("apiVersion", json!("newest"), "apiVersion"),
        ("enabled", json!("yes"), "enabled"),
        ("transportType", json!("FTP"), "transportType"),
        ("transportType", json!("OAUTH"), "oauth"),
        ("authentication", json!({ "username": "u" }), "authentication"),
        ("surprise", json!(1), "surprise"),
    ] {
        let mut wanted = webhook();
        wanted[name] = value;
        assert_eq!(api.post("/webhooks", wanted).await.error(), ("bad_request".into(), parameter.into()));
    }
    let mut wanted = webhook();
    wanted["transportType"] = json!("OAUTH");
    wanted["oauth"] = json!({ "tokenEndPoint": "https://shop.example/token", "clientID": "a" });
    let error = api.post("/webhooks", wanted).await.error();
    assert_eq!(error, ("bad_request".into(), "oauth.clientSecret".into()));
}

#[tokio::test]
async fn a_fulfillment_is_checked_stored_and_listed() {
    let api = without_rate_limit();
    let wanted =
        json!({ "orderId": "1", "items": [{ "itemId": "a", "quantity": 2 }, { "itemId": "b", "cancelQuantity": 1 }] });
    let answer = api.post("/fulfillments", wanted.clone()).await;
    assert_eq!(answer.status, 201);
    assert!(answer.json()["id"].as_str().unwrap().starts_with("ful_"));
    let other = json!({ "orderId": "2", "items": [{ "itemId": "a", "quantity": 2 }] });
    assert_ne!(api.post("/fulfillments", other).await.json()["id"], answer.json()["id"]);
    let listed = api.get("/fulfillments?orderId=1").await.json();
    assert_eq!(listed["data"], json!([answer.json()]));
    assert_eq!(listed["hasMore"], false);
    for (body, parameter) in [
        (json!({ "items": [] }), "orderId"),
        (json!({ "orderId": "1" }), "items"),
        (json!({ "orderId": "1", "items": [{}] }), "items[0].itemId"),
        (json!({ "orderId": "1", "items": [{ "itemId": "a" }] }), "items[0].quantity"),
        (json!({ "orderId": "1", "items": [{ "itemId": "a", "quantity": -1 }] }), "items[0].quantity"),
    ] {
        assert_eq!(api.post("/fulfillments", body).await.error(), ("bad_request".into(), parameter.into()));
    }
    let no_json = api.send(Method::POST, "/fulfillments", Some(KEY), &Value::Null).await;
    assert_eq!((no_json.status, no_json.error().0.as_str()), (415, "bad_request"));
}

/// Publishes an order with two lines, reports it in two parts, and returns the types of the events that follow.
async fn after_reporting(rules: Value, last_event: &str) -> Vec<String> {
    let rate_limit_per_second = std::num::NonZeroU32::new(100_000);
    let capture_delay = Duration::from_millis(5);
    let api = api(&SandboxConfig { rate_limit_per_second, capture_delay, ..SandboxConfig::default() });
    let items = json!([{ "id": "a", "quantity": 2 }, { "id": "b", "quantity": 1 }]);
    let order = json!({ "id": "7", "state": "accepted", "totalAmount": 12.5, "currency": "EUR", "items": items });
    let event = json!({ "id": "e", "type": "order.accepted", "createdTime": "2026-01-05T08:00:00Z", "liveMode": false,
                        "data": { "object": order } });
    assert_eq!(api.post("/sandbox/events", event).await.status, 202);
    assert_eq!(api.post("/sandbox/captures", rules).await.status, 204);
    for items in [json!([{ "itemId": "a", "quantity": 2 }]), json!([{ "itemId": "b", "cancelQuantity": 1 }])] {
        let answer = api.post("/fulfillments", json!({ "orderId": "7", "items": items })).await;
        assert_eq!(answer.status, 201);
    }
    let begun = std::time::Instant::now();
    loop {
        let listed = api.get("/events?limit=100").await.json();
        let mut types: Vec<String> =
            listed["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        types.sort();
        if types.iter().any(|name| name == last_event) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return types;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{types:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_order_becomes_fulfilled_with_its_last_line_and_complete_with_its_last_capture() {
    let all = [
        "fulfillment.created",
        "fulfillment.created",
        "order.accepted",
        "order.charge.cancel.complete",
        "order.charge.cancel.pending",
        "order.charge.capture.complete",
        "order.charge.capture.pending",
        "order.complete",
        "order.fulfilled",
    ];
    assert_eq!(after_reporting(json!([]), "order.complete").await, all);
    let failed = after_reporting(json!([{ "outcome": "failed" }]), "order.charge.capture.failed").await;
    assert!(failed.iter().any(|name| name == "order.fulfilled") && failed.iter().all(|name| name != "order.complete"));
    let pending =
        after_reporting(json!([{ "orderId": "7", "outcome": "stays_pending" }]), "order.charge.cancel.complete");
    let ended = |name: &&String| name.starts_with("order.charge.capture.") && !name.ends_with("pending");
    assert_eq!(pending.await.iter().filter(ended).count(), 0);
    let of_another = json!([{ "orderId": "8", "outcome": "failed" }]);
    assert_eq!(after_reporting(of_another, "order.complete").await, all);
}

#[tokio::test]
async fn faults_of_downloads_are_injected_on_request() {
    let api = without_rate_limit();
    let path = format!("/files/{FILE}/content");
    let content = || api.get(&path);
    let set = |fault: Value| api.post("/sandbox/faults", json!({ "rules": [{ "fault": fault }] }));
    for (fault, status) in [
        (json!({ "kind": "not_found" }), 404),
        (json!({ "kind": "unauthorized" }), 401),
        (json!({ "kind": "too_many_requests", "retry_after_seconds": 7 }), 429),
        (json!({ "kind": "server_error" }), 500),
        (json!({ "kind": "slow", "milliseconds": 1 }), 200),
        (json!({ "kind": "redirect", "location": "http://169.254.169.254/" }), 302),
    ] {
        assert_eq!(set(fault).await.status, 200);
        assert_eq!(content().await.status, status);
    }
    set(json!({ "kind": "html" })).await;
    assert!(content().await.body.starts_with(b"<!doctype html>"));
    set(json!({ "kind": "truncated" })).await;
    let cut = content().await;
    assert_eq!(cut.headers["content-length"], invoice_pdf(FILE).len().to_string().as_str());
    assert!(cut.body.is_empty(), "the body ends in an error");

    let once = json!({ "rules": [{ "fault": { "kind": "not_found" }, "times": 1 }] });
    api.post("/sandbox/faults", once).await;
    assert_eq!((content().await.status, content().await.status), (404, 200));
    assert_eq!(set(json!({ "kind": "redirect", "location": "\n" })).await.status, 400);
    assert_eq!(set(json!({ "kind": "explode" })).await.status, 422);
    assert_eq!(api.post("/sandbox/faults", json!({})).await.json()["rules"], json!([]));
    assert_eq!(content().await.body, invoice_pdf(FILE));
}

#[tokio::test]
async fn the_server_runs_until_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let asked = without_rate_limit();
    asked.api.set_faults(Faults {
        seed: 0,
        rules: vec![FaultRule { fault: Fault::Truncated, file_id: None, percent: 100, times: Some(1) }],
    });
    let serving = serve(listener, Arc::clone(&asked.api), stop.clone().cancelled_owned());
    let asking = async {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let url = format!("http://{address}/files/{FILE}/content");
        let get = || client.get(&url).bearer_auth(KEY).send();
        let cut = get().await.unwrap();
        assert_eq!(cut.status().as_u16(), 200);
        assert!(cut.bytes().await.is_err(), "the connection breaks half-way");
        let whole = get().await.unwrap().bytes().await.unwrap();
        assert_eq!(whole, invoice_pdf(FILE));
        stop.cancel();
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.unwrap();
}
