//! Query parameters as Digital River spells them: `createdTime[gt]=…`, `types=a,b`, `limit=10`.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use super::ApiError;
use crate::events::PAGE_MAX;

/// Default number of objects on a page. Source: Digital River, "Pagination".
const PAGE_DEFAULT: usize = 10;

/// One more type than `types` may name. Source: Digital River, Events API: fewer than 20.
const TYPES_BELOW: usize = 20;

/// The parameters of one request.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(ApiError::invalid("query", rejection.body_text())),
        }
    }
}

impl Params {
    /// Rejects unknown parameters, since a misspelt filter would go unnoticed.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                Err(ApiError::invalid(name.as_str(), format!("'{name}' is not a parameter of this path.")))
            }
            None => Ok(()),
        }
    }

    /// A parameter's value; rejected if it occurs twice.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            Some(_) => Err(ApiError::invalid(name, format!("'{name}' may be given once."))),
            None => Ok(first),
        }
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        match DateTime::parse_from_rfc3339(text) {
            Ok(time) => Ok(Some(time.to_utc())),
            Err(_) => {
                Err(ApiError::invalid(name, format!("'{text}' is not an ISO-8601 time such as 2021-11-01T18:23:06Z.")))
            }
        }
    }

    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.one("limit")? else {
            return Ok(PAGE_DEFAULT);
        };
        match text.parse() {
            Ok(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
            _ => Err(ApiError::invalid("limit", format!("'limit' is a number from 1 to {PAGE_MAX}."))),
        }
    }

    /// `type` or `types`, as patterns; empty if neither is given.
    pub(super) fn types(&self) -> Result<Vec<String>, ApiError> {
        let listed = self.0.iter().filter(|(name, _)| name == "types" || name == "types[]");
        let listed: Vec<String> = listed
            .flat_map(|(_, value)| value.split(','))
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        match self.one("type")? {
            Some(_) if !listed.is_empty() => Err(ApiError::invalid("types", "Give 'type' or 'types', not both.")),
            Some(name) => Ok(vec![name.to_owned()]),
            None if listed.len() >= TYPES_BELOW => {
                Err(ApiError::invalid("types", format!("'types' names fewer than {TYPES_BELOW} types.")))
            }
            None => Ok(listed),
        }
    }
}
