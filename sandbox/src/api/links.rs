//! `POST /file-links`, and the link that a customer opens without a key.
//!
//! A link contains file id, expiry, and an HMAC over both, so that links are not stored and stay valid after a restart.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Api, ApiError, documents, files};

/// Hexadecimal digits of a link's code.
const CODE_DIGITS: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewLink {
    file_id: Option<String>,
    expires_time: Option<String>,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Result<Json<NewLink>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(wanted) = body?;
    let file_id = wanted.file_id.ok_or_else(|| ApiError::missing("fileId"))?;
    let file_id = files::existing(&file_id).map_err(|_| ApiError::not_found("fileId", "There is no such file."))?;
    let expires = wanted.expires_time.ok_or_else(|| ApiError::missing("expiresTime"))?;
    let expires = DateTime::parse_from_rfc3339(&expires)
        .map_err(|_| ApiError::invalid("expiresTime", "'expiresTime' is not an ISO-8601 time."))?
        .to_utc();
    if expires <= api.clock.now() {
        return Err(ApiError::invalid("expiresTime", "'expiresTime' has passed."));
    }
    let seconds = expires.timestamp();
    let code = code(&api, file_id, seconds);
    let base = files::base_url(&api, &headers);
    let answer = json!({
        "id": code,
        "fileId": file_id,
        "url": format!("{base}/links/{file_id}/{seconds}/{code}"),
        "createdTime": api.clock.now().to_rfc3339_opts(SecondsFormat::Secs, true),
        "expiresTime": expires.to_rfc3339_opts(SecondsFormat::Secs, true),
        "expired": false,
        "liveMode": api.mode.is_live(),
    });
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Path((file_id, expires, given)): Path<(Uuid, i64, String)>,
) -> Result<Response, ApiError> {
    let valid_until: Option<DateTime<Utc>> = DateTime::from_timestamp(expires, 0);
    let is_valid = valid_until.is_some_and(|until| api.clock.now() < until);
    if is_valid && given == code(&api, file_id, expires) {
        Ok(documents::pdf(file_id))
    } else {
        Err(ApiError::not_found("link", "The link is wrong or has expired."))
    }
}

fn code(api: &Api, file_id: Uuid, expires: i64) -> String {
    let digest =
        Sha256::new().chain_update(api.key.expose_secret()).chain_update(format!("|{file_id}|{expires}")).finalize();
    let mut code = hex::encode(digest);
    code.truncate(CODE_DIGITS);
    code
}
