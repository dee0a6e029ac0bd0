//! `POST /sandbox/api-faults`: faults of the API itself, by method and path, with a count.
//!
//! Some faults occur before the request is executed and some after it; a client has to distinguish them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Api, ApiError, lock};

/// Most rules.
const RULES_MAX: usize = 100;

/// The largest answer that is changed, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long after its first half a cut answer breaks off.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// Bytes that a slow body sends, one every hundred milliseconds: longer than any client waits.
const SLOW_BODY_BYTES: u32 = 1_200;

/// A fault, and the requests that it affects. The first matching rule applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiFaultRule {
    /// What happens.
    pub fault: ApiFault,
    /// Only requests with this method; all methods if absent.
    #[serde(default)]
    pub method: Option<String>,
    /// Only paths that begin with this; all paths if empty.
    #[serde(default)]
    pub path: String,
    /// The number of matching requests that pass before the first fault.
    #[serde(default)]
    pub after: u32,
    /// The number of requests that fail; all if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// The answer of a failing request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ApiFault {
    /// 401; nothing is executed.
    Unauthorized,
    /// 403; nothing is executed.
    Forbidden,
    /// 429 with `Retry-After`; nothing is executed.
    TooManyRequests {
        /// The header's value, seconds.
        retry_after_seconds: u32,
    },
    /// 500; nothing is executed.
    ServerError,
    /// 500, after the request was executed.
    ServerErrorAfterwards,
    /// 200 with a page of HTML, after the request was executed.
    HtmlAfterwards,
    /// The body is sent byte by byte and does not end in time, after the request was executed.
    SlowBodyAfterwards,
    /// The connection breaks in the middle of the answer, after the request was executed.
    CutAfterwards,
    /// The list's cursor is ignored: every page is the first one and has more after it.
    LoopingCursor,
    /// A list is answered as a bare array.
    BareArray,
}

/// The rules, with the number of matching requests.
#[derive(Debug, Default)]
pub(crate) struct Misbehaviour(Vec<(ApiFaultRule, u32)>);

impl Misbehaviour {
    /// Counts a request; returns its fault.
    fn meet(&mut self, method: &str, path: &str) -> Option<ApiFault> {
        let fits = |rule: &ApiFaultRule| {
            path.starts_with(&rule.path) && rule.method.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(method))
        };
        let (rule, met) = self
            .0
            .iter_mut()
            .find(|(rule, met)| fits(rule) && rule.times.is_none_or(|times| *met < rule.after.saturating_add(times)))?;
        *met = met.saturating_add(1);
        (*met > rule.after).then(|| rule.fault.clone())
    }
}

pub(crate) async fn show(State(api): State<Arc<Api>>) -> Json<Value> {
    let rules: Vec<Value> =
        lock(&api.misbehaviour).0.iter().map(|(rule, met)| json!({ "rule": rule, "met": met })).collect();
    Json(json!(rules))
}

/// Replaces all rules; `[]` turns them off.
pub(crate) async fn replace(
    State(api): State<Arc<Api>>,
    body: Result<Json<Vec<ApiFaultRule>>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(rules) = body?;
    if rules.len() > RULES_MAX {
        return Err(ApiError::invalid("rules", format!("There may be {RULES_MAX} rules.")));
    }
    *lock(&api.misbehaviour) = Misbehaviour(rules.into_iter().map(|rule| (rule, 0)).collect());
    Ok(StatusCode::NO_CONTENT)
}

/// Applies the rules to a request.
pub(crate) async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let fault = lock(&api.misbehaviour).meet(request.method().as_str(), request.uri().path());
    match fault {
        None => next.run(request).await,
        Some(ApiFault::Unauthorized) => ApiError::unauthorized().into_response(),
        Some(ApiFault::Forbidden) => ApiError::forbidden().into_response(),
        Some(ApiFault::TooManyRequests { retry_after_seconds }) => {
            ApiError::too_many_requests(retry_after_seconds).into_response()
        }
        Some(ApiFault::ServerError) => ApiError::internal("Something went wrong on our side.").into_response(),
        Some(fault) => after(fault, request, next).await,
    }
}

/// Gives every answer its `x-dr-requestid`.
pub(crate) async fn request_id(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&api.next_id().to_string()) {
        response.headers_mut().insert("x-dr-requestid", id);
    }
    response
}

/// Executes the request and replaces its answer.
async fn after(fault: ApiFault, mut request: Request, next: Next) -> Response {
    if fault == ApiFault::LoopingCursor {
        let query = request.uri().query().unwrap_or_default();
        let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("startingAfter=")).collect();
        if let Ok(uri) = format!("{}?{}", request.uri().path(), kept.join("&")).parse() {
            *request.uri_mut() = uri;
        }
    }
    let response = next.run(request).await;
    match fault {
        ApiFault::ServerErrorAfterwards => ApiError::internal("Something went wrong on our side.").into_response(),
        ApiFault::HtmlAfterwards => {
            let page = "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>";
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
        }
        ApiFault::SlowBodyAfterwards => {
            let bytes = stream::unfold(0_u32, |count| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                (count < SLOW_BODY_BYTES).then(|| (Ok::<_, Infallible>(Bytes::from_static(b" ")), count + 1))
            });
            Response::new(Body::from_stream(bytes))
        }
        ApiFault::CutAfterwards => {
            let half = stream::once(async { Ok(Bytes::from_static(b"{\"id\":")) });
            let cut = stream::once(async {
                // The pause lets the first half be sent before the connection breaks.
                tokio::time::sleep(CUT_AFTER).await;
                Err(std::io::Error::other("cut off on request"))
            });
            Response::new(Body::from_stream(half.chain(cut)))
        }
        ApiFault::LoopingCursor => {
            changed(response, |mut value| {
                value["hasMore"] = json!(true);
                value
            })
            .await
        }
        ApiFault::BareArray => changed(response, |mut value| value["data"].take()).await,
        _ => response,
    }
}

/// The answer with another body, if it is a list.
async fn changed(response: Response, change: impl FnOnce(Value) -> Value) -> Response {
    let (parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await else {
        return ApiError::internal("The answer is too large.").into_response();
    };
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if value.get("data").is_some_and(Value::is_array) => {
            (parts.status, Json(change(value))).into_response()
        }
        _ => Response::from_parts(parts, Body::from(bytes)),
    }
}
