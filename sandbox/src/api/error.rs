//! Errors in Digital River's format.

use axum::{
    Json,
    extract::rejection::JsonRejection,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// An answer outside 2xx: `{"type": …, "errors": [{"code", "parameter"?, "message"}]}`.
/// Source: Digital River, "Errors".
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    parameter: Option<String>,
    message: String,
    retry_after_seconds: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, parameter: None, message: message.into(), retry_after_seconds: None }
    }

    pub(super) fn unauthorized() -> Self {
        let message = "The confidential API key is missing or wrong.";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized", message)
    }

    pub(super) fn forbidden() -> Self {
        let message = "The confidential API key does not permit this.";
        Self::new(StatusCode::FORBIDDEN, "forbidden", "forbidden", message)
    }

    pub(super) fn bad_request(code: &'static str, parameter: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "bad_request", code, message);
        Self { parameter: Some(parameter.into()), ..error }
    }

    pub(super) fn invalid(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad_request("invalid_parameter", parameter, message)
    }

    pub(super) fn missing(parameter: &str) -> Self {
        Self::bad_request("missing_parameter", parameter, format!("'{parameter}' is required."))
    }

    pub(super) fn not_found(parameter: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::NOT_FOUND, "not_found", "not_found", message);
        Self { parameter: Some(parameter.to_owned()), ..error }
    }

    pub(super) fn conflict(parameter: &str, message: impl Into<String>) -> Self {
        Self::conflict_of("already_exists", parameter, message)
    }

    pub(super) fn conflict_of(code: &'static str, parameter: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::CONFLICT, "conflict", code, message);
        Self { parameter: Some(parameter.to_owned()), ..error }
    }

    /// Source: Digital River, "Payment reauthorizations": this answer has no `type`, and `description` for `message`.
    pub(super) fn authorization_expired() -> Self {
        let message = "Fulfillment cannot be processed because the payment authorization has expired.";
        let error = Self::new(StatusCode::CONFLICT, "", "payment_authorization_failed", message);
        Self { parameter: Some("orderId".to_owned()), ..error }
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "This path does not support the method.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method_not_allowed", message)
    }

    pub(super) fn too_many_requests(retry_after_seconds: u32) -> Self {
        let message = "Too many requests hit the API too quickly.";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "rate_limit", message);
        Self { retry_after_seconds: Some(retry_after_seconds), ..error }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", "internal_server_error", message)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        let status = if status.is_client_error() { status } else { StatusCode::BAD_REQUEST };
        Self::new(status, "bad_request", "invalid_body", rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            #[serde(skip_serializing_if = "str::is_empty")]
            r#type: &'static str,
            errors: [Detail; 1],
        }
        #[derive(Serialize)]
        struct Detail {
            code: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            parameter: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            message: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            description: Option<String>,
        }
        let (message, description) =
            if self.kind.is_empty() { (None, Some(self.message)) } else { (Some(self.message), None) };
        let detail = Detail { code: self.code, parameter: self.parameter, message, description };
        let mut response = (self.status, Json(Body { r#type: self.kind, errors: [detail] })).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
