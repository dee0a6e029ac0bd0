//! Query parameters. Unknown, repeated and invalid parameters are rejected by name, because silently ignoring a filter would
//! return wrong results.

use axum::{extract::Query, http::Uri};
use riverlock_runtime::api::ApiError;
use riverlock_schemas::Mode;

use super::cursor::{Cursor, mode};
use crate::domain::Status;

/// Default page size, rows.
pub(super) const LIMIT_DEFAULT: i64 = 50;

/// Maximum page size, rows.
pub(super) const LIMIT_MAX: i64 = 500;

/// Maximum number of parameters in a request.
const PARAMS_MAX: usize = 20;

/// Parameters that have not been read yet.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let uri = Uri::builder().path_and_query(format!("/?{}", query.unwrap_or_default())).build();
        let pairs = uri.ok().and_then(|uri| Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
        let Some(Query(pairs)) = pairs.filter(|Query(pairs)| pairs.len() <= PARAMS_MAX) else {
            return Err(ApiError::parameter("query", "cannot be parsed"));
        };
        for (index, (name, _)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(ApiError::parameter(shortened(name), "is repeated"));
            }
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(given, _)| given == name)?;
        Some(self.0.swap_remove(index).1)
    }

    pub(super) fn mode(&mut self) -> Result<Option<Mode>, ApiError> {
        let name = self.take("mode");
        let invalid = || ApiError::parameter("mode", "must be `live` or `test`");
        name.map(|name| mode(&name).ok_or_else(invalid)).transpose()
    }

    pub(super) fn status(&mut self) -> Result<Option<Status>, ApiError> {
        let name = self.take("status");
        let invalid = || {
            let known = Status::ALL.map(Status::as_str).join(", ");
            ApiError::parameter("status", format!("must be one of {known}"))
        };
        name.map(|name| Status::parse(&name).ok_or_else(invalid)).transpose()
    }

    pub(super) fn limit(&mut self) -> Result<i64, ApiError> {
        let Some(text) = self.take("limit") else { return Ok(LIMIT_DEFAULT) };
        let limit = text.parse::<i64>().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| ApiError::parameter("limit", format!("must be a number from 1 to {LIMIT_MAX}")))
    }

    pub(super) fn before<C: Cursor>(&mut self) -> Result<Option<C>, ApiError> {
        let text = self.take("before");
        let invalid = || ApiError::parameter("before", "must be `next` of a page of the same list");
        text.map(|text| C::decode(&text).ok_or_else(invalid)).transpose()
    }

    /// Rejects parameters that have not been read.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::parameter(shortened(name), "is unknown")),
        }
    }
}

/// A parameter name from the request, shortened for the error message.
fn shortened(name: &str) -> String {
    name.chars().take(50).collect()
}
