//! The client, tested with a faulty server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use riverlock_digital_river::{
    AccountConfig, Call, Client, DigitalRiverConfig, Failure,
    failure::Repeat,
    webhooks::{
        self, WebhookConfig,
        apply::{self, StepResult},
    },
};
use riverlock_runtime::{Clock, Secret, SystemClock};
use riverlock_schemas::Mode;
use serde_json::{Value, json};

const KEY: &str = "sk_test_only_for_this_test";

/// The server's answers, by number, method and body of the request.
type Script = Arc<dyn Fn(u32, &Method, &Value) -> Response + Send + Sync>;

struct Server {
    address: String,
    requests: Arc<AtomicU32>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
}

#[derive(Clone)]
struct Shared {
    script: Script,
    requests: Arc<AtomicU32>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
}

async fn serve(script: impl Fn(u32, &Method, &Value) -> Response + Send + Sync + 'static) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shared = Shared { script: Arc::new(script), requests: Arc::default(), headers: Arc::default() };
    let (requests, headers) = (Arc::clone(&shared.requests), Arc::clone(&shared.headers));
    let app = Router::new().fallback(answer).with_state(shared);
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    Server { address, requests, headers }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    shared.headers.lock().unwrap().push(parts.headers);
    let number = shared.requests.fetch_add(1, Ordering::SeqCst);
    (shared.script)(number, &parts.method, &serde_json::from_slice(&body).unwrap_or_default())
}

impl Server {
    fn config(&self) -> DigitalRiverConfig {
        DigitalRiverConfig {
            api_base_url: self.address.parse().unwrap(),
            // A key per test: the rate limit of a key is shared by the whole process.
            test: Some(AccountConfig {
                requests_per_second: Some(1_000),
                ..AccountConfig::new(Secret::new(format!("{KEY}{}", self.address)))
            }),
            answer_timeout: Duration::from_millis(400),
            deadline: Duration::from_secs(20),
            wait_first: Duration::from_millis(5),
            wait_max: Duration::from_millis(20),
            body_bytes_max: 64 * 1024,
            ..DigitalRiverConfig::default()
        }
    }

    fn client(&self) -> Client {
        let config = self.config();
        config.validate().unwrap();
        Client::new(&config, Arc::new(SystemClock)).unwrap()
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn ok(value: &Value) -> Response {
    ([("x-dr-requestid", "req-ok"), ("content-type", "application/json")], value.to_string()).into_response()
}

fn status(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap().into_response()
}

#[tokio::test]
async fn requests_identify_the_application_and_errors_contain_the_request_id_but_not_the_key() {
    let server = serve(|_, _, _| {
        let body = json!({ "type": "forbidden", "errors": [{ "code": "forbidden", "message": "no permission" }] });
        (StatusCode::FORBIDDEN, [("x-dr-requestid", "req-7")], body.to_string()).into_response()
    });
    let server = server.await;
    let error = server.client().send(Mode::Test, &Call::get("test", &["events"])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("403 forbidden: no permission") && text.contains("x-dr-requestid req-7"), "{text}");
    assert!(!format!("{error:?}{text}{:?}", server.client()).contains(KEY));
    assert_eq!((error.repeat, server.requests()), (Repeat::Never, 1));
    let headers = server.headers.lock().unwrap();
    assert_eq!(headers[0]["authorization"], format!("Bearer {KEY}{}", server.address));
    assert_eq!(headers[0]["upstream-id"], error.upstream_id);
    assert!(headers[0]["upstream-application-id"].to_str().unwrap().starts_with("riverlock/"));
}

#[tokio::test]
async fn a_key_of_the_other_mode_is_never_used() {
    let server = serve(|_, _, _| ok(&json!([]))).await;
    let error = server.client().send(Mode::Live, &Call::get("test", &["events"])).await.unwrap_err();
    assert!(error.to_string().contains("no API key for live data"), "{error}");
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn reads_are_repeated_after_every_temporary_failure() {
    let server = serve(|number, _, _| match number {
        0 => status(500),
        1 => status(503),
        2 => ([("content-type", "text/html")], "<html>maintenance</html>").into_response(),
        3 => slow_body(),
        _ => ok(&json!({ "data": [] })),
    });
    let server = server.await;
    let answer = server.client().send(Mode::Test, &Call::get("test", &["events"])).await.unwrap();
    assert_eq!((answer.attempts, answer.request_id.as_deref()), (5, Some("req-ok")));
}

#[tokio::test]
async fn creations_are_never_repeated_if_they_may_have_been_executed() {
    let body = json!({ "orderId": "1" });
    for case in 0..5 {
        let server = serve(move |_, _, _| match case {
            0 => status(500),
            1 => status(408),
            2 => ([("content-type", "text/html")], "<html>").into_response(),
            3 => slow_body(),
            _ => ok(&json!("x".repeat(100_000))),
        });
        let server = server.await;
        let error = server.client().send(Mode::Test, &Call::post("test", &["fulfillments"], &body)).await.unwrap_err();
        assert!(error.is_ambiguous(), "{error}");
        assert_eq!(server.requests(), 1, "{error}");
    }
}

#[tokio::test]
async fn requests_that_were_not_executed_are_repeated() {
    let server = serve(|number, _, _| match number {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        1 => {
            let date = (SystemClock.now() + TimeDelta::seconds(2)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", date)]).into_response()
        }
        _ => ok(&json!({ "id": "ful_1" })),
    });
    let server = server.await;
    let started = Instant::now();
    let body = json!({});
    let answer = server.client().send(Mode::Test, &Call::post("test", &["fulfillments"], &body)).await.unwrap();
    assert_eq!((answer.attempts, server.requests()), (3, 3));
    assert!(started.elapsed() >= Duration::from_millis(1_900), "{:?}", started.elapsed());

    // Nothing listens on this port, so there is no connection and repeating is harmless.
    let config = DigitalRiverConfig { attempts_max: 3, ..server.config() };
    let config = DigitalRiverConfig { api_base_url: "http://127.0.0.1:1".parse().unwrap(), ..config };
    let client = Client::new(&config, Arc::new(SystemClock)).unwrap();
    let error = client.send(Mode::Test, &Call::post("test", &["fulfillments"], &body)).await.unwrap_err();
    assert!(matches!(error.failure, Failure::NotConnected(_)) && !error.is_ambiguous(), "{error}");
    assert_eq!(error.attempts, 3);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let trap = serve(|_, _, _| ok(&json!({}))).await;
    let location = trap.address.clone();
    let server = serve(move |_, _, _| (StatusCode::FOUND, [("location", location.clone())]).into_response()).await;
    let error = server.client().send(Mode::Test, &Call::get("test", &["events"])).await.unwrap_err();
    assert_eq!((error.status(), error.repeat, trap.requests()), (Some(302), Repeat::Never, 0));
}

struct FixedClock(DateTime<Utc>);

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

#[tokio::test]
async fn a_401_is_repeated_only_within_ten_minutes_of_a_key_change() {
    let now = SystemClock.now();
    for (minutes, requests) in [(None, 1), (Some(11), 1), (Some(9), 2)] {
        let server = serve(|number, _, _| if number == 0 { status(401) } else { ok(&json!({})) }).await;
        let mut config = server.config();
        let account = config.test.as_mut().unwrap();
        account.key_changed_at = minutes.map(|minutes| now - TimeDelta::minutes(minutes));
        let client = Client::new(&config, Arc::new(FixedClock(now))).unwrap();
        let result = client.send(Mode::Test, &Call::get("test", &["events"])).await;
        assert_eq!((result.is_ok(), server.requests()), (requests == 2, requests), "{minutes:?}");
    }
    let server = serve(|number, _, _| if number < 2 { status(401) } else { ok(&json!({})) }).await;
    let client = server.client();
    assert_eq!(client.send(Mode::Test, &Call::get("test", &["x"])).await.unwrap_err().status(), Some(401));
    assert!(client.renew(Mode::Test, &AccountConfig::new(Secret::new("sk_test_new"))).unwrap());
    assert!(client.send(Mode::Test, &Call::get("test", &["x"])).await.is_ok());
    assert_eq!(server.headers.lock().unwrap()[1]["authorization"], "Bearer sk_test_new");
}

/// An answer whose body is never complete.
fn slow_body() -> Response {
    let chunks = futures::stream::unfold(0_u32, |count| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (count < 100).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b" ")), count + 1))
    });
    Response::new(Body::from_stream(chunks))
}

fn configured() -> Vec<WebhookConfig> {
    let text = json!([
        { "name": "accepted", "endpoint": "e", "mode": "test", "address": "https://h.example/a/", "types": ["order.accepted"] },
        { "name": "complete", "endpoint": "e", "mode": "test", "address": "https://h.example/b/", "types": ["order.complete"] }
    ]);
    serde_json::from_value(text).unwrap()
}

/// A server that stores webhooks; it executes the first creation, but answers it with `lost`.
fn storing(lost: fn() -> Response) -> impl Fn(u32, &Method, &Value) -> Response + Send + Sync + 'static {
    let kept: Mutex<Vec<Value>> = Mutex::default();
    move |number, method, body| {
        let mut kept = kept.lock().unwrap();
        match *method {
            Method::POST => {
                let mut webhook = body.clone();
                webhook["id"] = json!(format!("id-{number}"));
                kept.push(webhook.clone());
                if kept.len() == 1 { lost() } else { (StatusCode::CREATED, webhook.to_string()).into_response() }
            }
            // The documented bare array.
            _ => ok(&json!(*kept)),
        }
    }
}

#[tokio::test]
async fn a_registration_whose_answer_is_lost_is_executed_once() {
    for lost in [(|| status(500)) as fn() -> Response, slow_body, || status(502)] {
        let server = serve(storing(lost)).await;
        let (client, configured) = (server.client(), configured());
        let (plan, _) = apply::plan(&client, Mode::Test, &configured).await.unwrap();
        let mut done = Vec::new();
        let wait = Duration::from_millis(10);
        apply::apply(&client, &plan, &configured, wait, |_, what| done.push(what)).await.unwrap();
        assert_eq!(done, [StepResult::CreatedUnanswered, StepResult::Created]);
        let (plan, _) = apply::plan(&client, Mode::Test, &configured).await.unwrap();
        assert!(plan.is_empty());
        let listed =
            webhooks::list(&client, Mode::Test, &std::collections::BTreeSet::new(), Default::default()).await.unwrap();
        assert_eq!(listed.webhooks.len(), 2);
    }
}

#[tokio::test]
async fn an_interrupted_plan_is_resumed() {
    let kept = Arc::new(Mutex::new(Vec::<Value>::new()));
    let (inner, refuse) = (Arc::clone(&kept), Arc::new(AtomicU32::new(1)));
    let refusing = Arc::clone(&refuse);
    let server = serve(move |number, method, body| {
        let mut kept = inner.lock().unwrap();
        if *method != Method::POST {
            return ok(&json!({ "data": *kept }));
        }
        if kept.len() == 1 && refusing.load(Ordering::SeqCst) == 1 {
            return (StatusCode::FORBIDDEN, r#"{"type":"forbidden"}"#).into_response();
        }
        let mut webhook = body.clone();
        webhook["id"] = json!(format!("id-{number}"));
        kept.push(webhook.clone());
        ok(&webhook)
    });
    let server = server.await;
    let (client, configured, wait) = (server.client(), configured(), Duration::from_millis(10));
    for expected in
        [Err("complete"), Ok(vec![StepResult::Left, StepResult::Created]), Ok(vec![StepResult::Left, StepResult::Left])]
    {
        let (plan, _) = apply::plan(&client, Mode::Test, &configured).await.unwrap();
        let mut done = Vec::new();
        let result = apply::apply(&client, &plan, &configured, wait, |_, what| done.push(what)).await;
        match (result, expected) {
            (Err(error), Err(name)) => assert!(error.to_string().contains(name), "{error}"),
            (result, Ok(steps)) => assert_eq!((result.is_ok(), done), (true, steps)),
            (result, expected) => panic!("{result:?} {expected:?}"),
        }
        refuse.store(0, Ordering::SeqCst);
    }
    assert_eq!(kept.lock().unwrap().len(), 2);
}

/// An account with many webhooks of other systems, whose list is answered with at most a hundred of a type.
fn crowded(per_page: usize, own_types: usize) -> impl Fn(u32, &Method, &Value) -> Response + Send + Sync + 'static {
    let webhook = |number: usize, types: &str| {
        json!({ "id": format!("id-{number}"), "types": [types], "address": format!("https://other.example/{number}"),
                "enabled": true, "transportType": "HTTP" })
    };
    move |number, _, _| {
        // The first request is for all types, the following ones for one type each.
        let listed: Vec<Value> = match number {
            0 => (20_000..30_000).map(|number| webhook(number, "payout.created")).take(per_page).collect(),
            _ => (0..own_types).map(|number| webhook(number, "order.accepted")).take(per_page).collect(),
        };
        let has_more = number == 0 || own_types > per_page;
        ok(&json!({ "data": listed, "hasMore": has_more }))
    }
}

#[tokio::test]
async fn among_ten_thousand_webhooks_those_of_the_configured_types_are_found_or_the_list_counts_as_incomplete() {
    let types = std::collections::BTreeSet::from(["order.accepted", "order.complete"]);
    for (per_page, own, listed, truncated) in [(100, 3, 103, false), (10, 3, 13, false), (100, 5_000, 200, true)] {
        let server = serve(crowded(per_page, own)).await;
        let found = webhooks::list(&server.client(), Mode::Test, &types, Default::default()).await.unwrap();
        assert_eq!(found.webhooks.len(), listed, "{per_page} {own}");
        assert_eq!(found.truncated, truncated, "{per_page} {own}");
        assert_eq!(server.headers.lock().unwrap().len(), 3, "one request for all, and one for each type");
    }
}

#[tokio::test]
async fn a_webhook_with_a_configured_id_is_found_although_the_list_is_incomplete() {
    let crowd = crowded(100, 5_000);
    let server = serve(move |number, method, body| match number {
        ..3 => crowd(number, method, body),
        _ => {
            ok(&json!({ "id": "mine", "types": ["order.accepted"], "address": "https://h.example/a/", "enabled": true,
                         "transportType": "HTTP", "apiVersion": "default" }))
        }
    });
    let mut configured = configured();
    configured[0].id = Some("mine".to_owned());
    let (plan, truncated) = apply::plan(&server.await.client(), Mode::Test, &configured).await.unwrap();
    let created: Vec<&str> = plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, webhooks::plan::Action::Create))
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!((truncated, created), (true, vec!["complete"]));
}
