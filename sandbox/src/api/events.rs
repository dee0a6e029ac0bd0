//! `GET /events` and `GET /events/{id}`.

use std::{ops::Bound, sync::Arc};

use axum::{
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Api, ApiError, params::Params};
use crate::events::{Cursor, EventQuery};

const JSON: [(axum::http::HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

const PARAMETERS: [&str; 11] = [
    "createdTime[gt]",
    "createdTime[gte]",
    "createdTime[lt]",
    "createdTime[lte]",
    "createdTime",
    "type",
    "types",
    "types[]",
    "limit",
    "startingAfter",
    "endingBefore",
];

pub(super) async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<impl IntoResponse, ApiError> {
    let query = query(&params)?;
    let Ok(page) = api.events.page(&query) else {
        let parameter = if matches!(query.cursor, Cursor::Before(_)) { "endingBefore" } else { "startingAfter" };
        return Err(ApiError::invalid(parameter, "There is no event with this id."));
    };
    // The events go out as the bytes that were delivered: numbers keep every digit.
    let mut body = format!(r#"{{"hasMore":{},"data":["#, page.has_more).into_bytes();
    body.extend(page.data.join(&b','));
    body.extend_from_slice(b"]}");
    Ok((JSON, body))
}

pub(super) async fn one(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let body: Option<Bytes> = api.events.get(&id);
    let body = body.ok_or_else(|| ApiError::not_found("id", format!("There is no event '{id}'.")))?;
    Ok((JSON, body))
}

fn query(params: &Params) -> Result<EventQuery, ApiError> {
    params.only(&PARAMETERS)?;
    let exactly = params.time("createdTime")?;
    let from = bound(params, "createdTime[gte]", "createdTime[gt]")?;
    let to = bound(params, "createdTime[lte]", "createdTime[lt]")?;
    let cursor = match (params.one("startingAfter")?, params.one("endingBefore")?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("endingBefore", "Give 'startingAfter' or 'endingBefore', not both."));
        }
        (Some(id), None) => Cursor::After(id.to_owned()),
        (None, Some(id)) => Cursor::Before(id.to_owned()),
        (None, None) => Cursor::Start,
    };
    Ok(EventQuery {
        from: from.or_else(|| exactly.map(Bound::Included)),
        to: to.or_else(|| exactly.map(Bound::Included)),
        types: params.types()?,
        limit: params.limit()?,
        cursor,
    })
}

fn bound(params: &Params, including: &str, excluding: &str) -> Result<Option<Bound<DateTime<Utc>>>, ApiError> {
    match (params.time(including)?, params.time(excluding)?) {
        (Some(_), Some(_)) => {
            Err(ApiError::invalid(excluding, format!("Give '{including}' or '{excluding}', not both.")))
        }
        (Some(time), None) => Ok(Some(Bound::Included(time))),
        (None, Some(time)) => Ok(Some(Bound::Excluded(time))),
        (None, None) => Ok(None),
    }
}
