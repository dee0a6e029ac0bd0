//! `GET /files/{id}` and `GET /files/{id}/content`: every UUID is the id of a file, nothing else is.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::Response,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, ApiError, documents::pdf, lock};
use crate::{
    api::injection::downloads,
    data::pdf::{Purpose, invoice_pdf},
};

pub(super) async fn content(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let id = existing(&id)?;
    let fault = lock(&api.faults).meet(id);
    match fault {
        Some(fault) => downloads::misbehave(fault, id).await,
        None => Ok(pdf(id)),
    }
}

pub(super) async fn metadata(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let id = existing(&id)?;
    let size = invoice_pdf(&id.to_string()).len();
    let (base, purpose) = (base_url(&api, &headers), Purpose::of(id));
    Ok(Json(json!({
        "id": id,
        "fileName": format!("{id}.pdf"),
        "purpose": purpose.as_str(),
        "title": purpose.title(),
        "size": size,
        "type": "pdf",
        "url": format!("{base}/files/{id}/content"),
        "links": [],
        "liveMode": api.mode.is_live(),
    })))
}

/// The file with this id. Only the usual spelling of a UUID counts, so that one file has one name.
pub(super) fn existing(id: &str) -> Result<Uuid, ApiError> {
    let parsed = Uuid::try_parse(id).ok().filter(|uuid| uuid.to_string() == id);
    parsed.ok_or_else(|| ApiError::not_found("id", format!("There is no file '{id}'.")))
}

/// What links begin with: the configured address, or the one that the request was sent to.
pub(super) fn base_url(api: &Api, headers: &HeaderMap) -> String {
    if let Some(url) = &api.public_url {
        return url.as_str().trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}
