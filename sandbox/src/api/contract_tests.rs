//! Compares the sandbox with the documented calls, which are listed in `contract/digital-river.json`.

use std::collections::HashMap;

use axum::{body::Body, http::Request};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;

/// One documented call, with its expected answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    call: String,
    source: String,
    #[serde(default)]
    request: Value,
    status: u16,
    /// Fields of the answer.
    #[serde(default)]
    fields: Vec<String>,
    /// Fields of each element of a list, of which there must be one.
    #[serde(default)]
    elements: Vec<String>,
    /// The `type` of an error.
    #[serde(default)]
    error: String,
    /// The `code` of an error.
    #[serde(default)]
    code: String,
    /// Fields of the answer that later calls use, by name.
    #[serde(default)]
    capture: HashMap<String, String>,
}

#[tokio::test]
async fn every_documented_call_is_answered_as_documented() {
    let rate_limit_per_second = NonZeroU32::new(100_000);
    let config = SandboxConfig { rate_limit_per_second, ..SandboxConfig::default() };
    let api = Api::new(&config, Clock::system());
    let calls: Vec<Call> = serde_json::from_str(include_str!("../../contract/digital-river.json")).unwrap();
    assert!(calls.len() > 20);
    let mut captured: HashMap<String, String> = HashMap::new();
    for call in calls {
        assert!(!call.source.is_empty());
        let (method, mut path) = call.call.split_once(' ').map(|(method, path)| (method, path.to_owned())).unwrap();
        for (name, value) in &captured {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        let path = path.replace('[', "%5B").replace(']', "%5D");
        let mut request = Request::builder().method(method).uri(path).header("host", "sandbox.test");
        request = request.header("authorization", "Bearer sandbox-confidential-key");
        request = request.header("content-type", "application/json");
        let body = if call.request.is_null() { Body::empty() } else { Body::from(call.request.to_string()) };
        let response = router(Arc::clone(&api)).oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("x-dr-requestid"), "{}", call.call);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(status, call.status, "{}: {answer}", call.call);
        let has = |value: &Value, fields: &[String]| {
            for field in fields {
                assert!(value.get(field).is_some(), "{}: no `{field}` in {value}", call.call);
            }
        };
        has(&answer, &call.fields);
        if !call.elements.is_empty() {
            assert!(answer["hasMore"].is_boolean(), "{}: {answer}", call.call);
            has(&answer["data"][0], &call.elements);
        }
        if !call.error.is_empty() {
            assert_eq!(answer["type"], call.error.as_str(), "{}", call.call);
            assert!(answer["errors"][0]["message"].is_string(), "{}: {answer}", call.call);
        }
        if !call.code.is_empty() {
            assert_eq!(answer["errors"][0]["code"], call.code.as_str(), "{}", call.call);
        }
        for (name, field) in call.capture {
            captured.insert(name, answer[field.as_str()].as_str().unwrap().to_owned());
        }
    }
}
