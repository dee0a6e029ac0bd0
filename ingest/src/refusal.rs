//! Reasons for rejecting a request, and the error answers made from them.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use riverlock_schemas::{EnvelopeError, text::bounded};
use serde::Serialize;

use crate::{auth::AuthenticationError, metrics::Outcome};

/// Longest text of an answer and of a log line about it, in characters, because part of it may come from the sender.
const TEXT_CHARS_MAX: usize = 200;

/// Range of `Retry-After`, in seconds; the value is random, so that rejected events are not all retried at the same time.
pub(crate) const RETRY_AFTER_SECONDS: RangeInclusive<u8> = 1..=5;

/// Why a request is not answered with 202. The texts are sent to the client: they help, but reveal nothing internal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("no webhook endpoint has this path; compare the webhook's address with the configured paths")]
    UnknownPath,
    #[error("requests from this address are not accepted")]
    AddressNotAllowed,
    #[error("the method must be POST")]
    MethodNotAllowed,
    #[error("the service is starting or shutting down and accepts no events; retry")]
    NotReady,
    #[error("the event log is unavailable, so the event was not read; retry")]
    BreakerOpen,
    #[error("too many events are in flight; retry")]
    Busy,
    #[error("the request was not complete when its slot was needed for another one; retry")]
    Evicted,
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    #[error("the request's head took too long to arrive")]
    TooSlow,
    #[error("the body did not arrive within {} ms", .0.as_millis())]
    BodyTimeout(Duration),
    #[error("the body ended before it was complete")]
    BodyBroken,
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("the event could not be stored; retry")]
    NotStored,
    #[error("the event log did not confirm the event in time; retry")]
    Ambiguous,
    #[error("internal error; retry")]
    Internal,
}

impl Rejection {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::AddressNotAllowed => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotReady | Self::BreakerOpen | Self::Busy | Self::Evicted | Self::NotStored | Self::Ambiguous => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow | Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken | Self::Envelope(_) => StatusCode::BAD_REQUEST,
            Self::Authentication(_) => StatusCode::UNAUTHORIZED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `type` and `code` of the answer. They are stable, because clients and tests may depend on them.
    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::UnknownPath => ("not_found", "unknown_path"),
            Self::AddressNotAllowed => ("forbidden", "address_not_allowed"),
            Self::MethodNotAllowed => ("method_not_allowed", "method_not_allowed"),
            Self::NotReady => ("service_unavailable", "not_ready"),
            Self::BreakerOpen => ("service_unavailable", "event_log_unavailable"),
            Self::Busy => ("service_unavailable", "busy"),
            Self::Evicted => ("service_unavailable", "evicted"),
            Self::TooLarge(_) => ("payload_too_large", "body_too_large"),
            Self::TooSlow => ("request_timeout", "head_timeout"),
            Self::BodyTimeout(_) => ("request_timeout", "body_timeout"),
            Self::BodyBroken => ("bad_request", "incomplete_body"),
            Self::Authentication(AuthenticationError::Signature(_)) => ("unauthorized", "invalid_signature"),
            Self::Authentication(AuthenticationError::Basic) => ("unauthorized", "invalid_credentials"),
            Self::Authentication(AuthenticationError::Bearer(_)) => ("unauthorized", "invalid_token"),
            Self::Envelope(EnvelopeError::NotJson(_)) => ("bad_request", "invalid_json"),
            Self::Envelope(EnvelopeError::Missing(_)) => ("bad_request", "missing_parameter"),
            Self::Envelope(EnvelopeError::DuplicateKey(_)) => ("bad_request", "duplicate_parameter"),
            Self::NotStored => ("service_unavailable", "not_stored"),
            Self::Ambiguous => ("service_unavailable", "not_confirmed"),
            Self::Internal => ("internal_error", "internal_error"),
        }
    }

    fn parameter(&self) -> Option<&str> {
        match self {
            Self::Envelope(error) => error.parameter(),
            Self::Authentication(AuthenticationError::Signature(_)) => Some("DigitalRiver-Signature"),
            Self::Authentication(_) => Some("Authorization"),
            _ => None,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::UnknownPath => Outcome::UnknownPath,
            Self::AddressNotAllowed => Outcome::AddressNotAllowed,
            Self::MethodNotAllowed => Outcome::MethodNotAllowed,
            Self::NotReady => Outcome::NotReady,
            Self::BreakerOpen => Outcome::BreakerOpen,
            Self::Busy => Outcome::Busy,
            Self::Evicted => Outcome::Evicted,
            Self::TooLarge(_) => Outcome::TooLarge,
            Self::TooSlow => Outcome::HeadTimeout,
            Self::BodyTimeout(_) => Outcome::BodyTimeout,
            Self::BodyBroken | Self::Internal => Outcome::Aborted,
            Self::Authentication(_) => Outcome::Unauthenticated,
            Self::Envelope(_) => Outcome::NotAnEvent,
            Self::NotStored => Outcome::NotStored,
            Self::Ambiguous => Outcome::Ambiguous,
        }
    }

    /// Whether the request's body may still be arriving, so that the sender would miss the answer if the connection were
    /// closed.
    pub(crate) fn leaves_body(&self) -> bool {
        match self {
            Self::UnknownPath
            | Self::AddressNotAllowed
            | Self::MethodNotAllowed
            | Self::NotReady
            | Self::BreakerOpen
            | Self::Busy
            | Self::TooLarge(_)
            | Self::TooSlow => true,
            Self::BodyTimeout(_)
            | Self::BodyBroken
            | Self::Evicted
            | Self::Authentication(_)
            | Self::Envelope(_)
            | Self::NotStored
            | Self::Ambiguous
            | Self::Internal => false,
        }
    }
}

impl Rejection {
    /// The reason as text, without control characters and at most [`TEXT_CHARS_MAX`] characters long.
    pub(crate) fn text(&self) -> String {
        bounded(self.to_string().into(), TEXT_CHARS_MAX).into_owned()
    }
}

/// Digital River's error format, which it expects from receivers.
///
/// Source: `{"type": "...", "errors": [{"code","parameter","message"}]}`.
#[derive(Serialize)]
struct ErrorBody<'a> {
    r#type: &'a str,
    errors: [ErrorItem<'a>; 1],
}

#[derive(Serialize)]
struct ErrorItem<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<Cow<'a, str>>,
    message: String,
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (kind, code) = self.names();
        let parameter = self.parameter().map(|parameter| bounded(parameter.into(), TEXT_CHARS_MAX));
        let item = ErrorItem { code, parameter, message: self.text() };
        let status = self.status();
        let mut response = (status, Json(ErrorBody { r#type: kind, errors: [item] })).into_response();
        if status.is_server_error() {
            let seconds = fastrand::u8(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(u16::from(seconds)));
        }
        if let Self::Authentication(error) = &self
            && let Some(challenge) = error.challenge()
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn answer(refusal: Rejection) -> (u16, Option<u8>, String) {
        let response = refusal.into_response();
        let retry_after =
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry_after, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_have_digital_rivers_error_format() {
        let (status, retry_after, body) = answer(Rejection::Envelope(EnvelopeError::Missing("id"))).await;
        assert_eq!((status, retry_after), (400, None));
        assert_eq!(
            body,
            r#"{"type":"bad_request","errors":[{"code":"missing_parameter","parameter":"id","message":"the event has no valid `id`"}]}"#
        );
        let (status, _, body) = answer(Rejection::Busy).await;
        assert_eq!(status, 503);
        assert_eq!(
            body,
            r#"{"type":"service_unavailable","errors":[{"code":"busy","message":"too many events are in flight; retry"}]}"#
        );
    }

    #[tokio::test]
    async fn text_from_the_sender_is_returned_in_one_short_line() {
        let written = format!("a\n2026-01-01 ERROR forged{}", "x".repeat(1_000_000));
        let refusal = Rejection::Envelope(EnvelopeError::NotJson(written));
        assert!(refusal.text().chars().count() <= TEXT_CHARS_MAX && !refusal.text().contains('\n'));
        let (status, _, body) = answer(refusal).await;
        assert!(status == 400 && body.len() < 2_000 && !body.contains("\\n"), "{}", &body[..body.len().min(3_000)]);
    }

    #[tokio::test]
    async fn senders_are_asked_to_retry_at_different_times() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.insert(answer(Rejection::BreakerOpen).await.1.unwrap());
        }
        assert!(seen.len() > 1 && seen.iter().all(|seconds| RETRY_AFTER_SECONDS.contains(seconds)), "{seen:?}");
    }
}
