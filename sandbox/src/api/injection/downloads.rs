//! Injected faults of `GET /files/{id}/content`, by file, with a count.
//!
//! Off by default. Seed and file id select the files, independent of the order of requests.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use uuid::Uuid;

use crate::{
    api::{Api, ApiError, documents::pdf, lock},
    data::{pdf::invoice_pdf, seed},
    faults::{Fault, FaultRule, Faults},
};

/// Most files whose attempts are counted; further files are served without fault, so that memory stays bounded.
const FILES_COUNTED_MAX: usize = 100_000;

/// Most rules.
const RULES_MAX: usize = 100;

/// Longest delay of a slow answer, milliseconds.
const SLOW_MAX_MILLISECONDS: u64 = 120_000;

/// How long after its first half a truncated answer breaks off.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// Decides request by request.
#[derive(Debug)]
pub(crate) struct Injector {
    faults: Faults,
    /// Requests by file since the rules were set.
    requests: HashMap<Uuid, u32>,
}

impl Injector {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, requests: HashMap::new() }
    }

    /// Counts a request for a file; returns its fault.
    pub(crate) fn meet(&mut self, file_id: Uuid) -> Option<Fault> {
        if self.faults.rules.is_empty() {
            return None;
        }
        let seed = self.faults.seed;
        let fits = |(number, rule): &(u64, &FaultRule)| {
            rule.file_id.is_none_or(|id| id == file_id)
                && seed::rng(seed::mix(seed, *number), seed::of_text(&file_id.to_string())).u8(..100) < rule.percent
        };
        let (_, rule) = (0..).zip(&self.faults.rules).find(fits)?;
        let Some(times) = rule.times else {
            return Some(rule.fault.clone());
        };
        if self.requests.len() >= FILES_COUNTED_MAX && !self.requests.contains_key(&file_id) {
            return None;
        }
        let earlier = self.requests.entry(file_id).or_default();
        *earlier = earlier.saturating_add(1);
        (*earlier <= times).then(|| rule.fault.clone())
    }
}

/// The answer of a failing request.
pub(crate) async fn misbehave(fault: Fault, file_id: Uuid) -> Result<Response, ApiError> {
    match fault {
        Fault::NotFound => Err(ApiError::not_found("id", format!("There is no file '{file_id}'."))),
        Fault::Unauthorized => Err(ApiError::unauthorized()),
        Fault::Forbidden => Err(ApiError::forbidden()),
        Fault::TooManyRequests { retry_after_seconds } => Err(ApiError::too_many_requests(retry_after_seconds)),
        Fault::ServerError => Err(ApiError::internal("Something went wrong on our side.")),
        Fault::Slow { milliseconds } => {
            tokio::time::sleep(Duration::from_millis(milliseconds.min(SLOW_MAX_MILLISECONDS))).await;
            Ok(pdf(file_id))
        }
        Fault::Truncated => Ok(truncated(file_id)),
        Fault::Html => {
            let page = "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>";
            Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response())
        }
        Fault::Redirect { location } => Ok((StatusCode::FOUND, [(header::LOCATION, location)]).into_response()),
    }
}

fn truncated(file_id: Uuid) -> Response {
    let mut file = invoice_pdf(&file_id.to_string());
    let length = file.len().to_string();
    file.truncate(file.len() / 2);
    let half = stream::once(async { Ok(Bytes::from(file)) });
    let cut = stream::once(async {
        // The pause lets the head and the first half be sent before the connection breaks.
        tokio::time::sleep(CUT_AFTER).await;
        Err(std::io::Error::other("cut off on request"))
    });
    let body = Body::from_stream(half.chain(cut));
    let headers = [(header::CONTENT_TYPE, "application/pdf".to_owned()), (header::CONTENT_LENGTH, length)];
    (headers, body).into_response()
}

pub(crate) async fn show(State(api): State<Arc<Api>>) -> Json<Faults> {
    Json(lock(&api.faults).faults.clone())
}

/// `POST /sandbox/faults`: replaces all rules; `{}` turns them off.
pub(crate) async fn replace(
    State(api): State<Arc<Api>>,
    body: Result<Json<Faults>, JsonRejection>,
) -> Result<Json<Faults>, ApiError> {
    let Json(faults) = body?;
    if faults.rules.len() > RULES_MAX {
        return Err(ApiError::invalid("rules", format!("There may be {RULES_MAX} rules.")));
    }
    let unsendable = |rule: &FaultRule| match &rule.fault {
        Fault::Redirect { location } => header::HeaderValue::from_str(location).is_err(),
        _ => false,
    };
    if faults.rules.iter().any(unsendable) {
        return Err(ApiError::invalid("rules", "A redirect's location must fit into a header."));
    }
    api.set_faults(faults.clone());
    Ok(Json(faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(fault: Fault) -> FaultRule {
        FaultRule { fault, file_id: None, percent: 100, times: None }
    }

    #[test]
    fn a_rule_can_apply_to_the_first_requests_of_a_file_only() {
        let rules = vec![FaultRule { times: Some(2), ..rule(Fault::NotFound) }];
        let mut injector = Injector::new(Faults { seed: 1, rules });
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let met = [one, one, two, one, two, two].map(|file| injector.meet(file).is_some());
        assert_eq!(met, [true, true, true, false, true, false]);
    }

    #[test]
    fn a_percentage_selects_the_same_files_in_any_order() {
        let rules = vec![FaultRule { percent: 30, ..rule(Fault::Html) }];
        let faults = Faults { seed: 9, rules };
        let met = |ids: &mut dyn Iterator<Item = u128>| -> std::collections::BTreeSet<u128> {
            let mut injector = Injector::new(faults.clone());
            ids.filter(|id| injector.meet(Uuid::from_u128(*id)).is_some()).collect()
        };
        let forward = met(&mut (0..1_000));
        assert_eq!(forward, met(&mut (0..1_000).rev()));
        assert!((230..370).contains(&forward.len()), "{}", forward.len());
    }

    #[test]
    fn the_first_matching_rule_applies() {
        let file = Uuid::from_u128(7);
        let rules = vec![FaultRule { file_id: Some(file), ..rule(Fault::Truncated) }, rule(Fault::ServerError)];
        let mut injector = Injector::new(Faults { seed: 0, rules });
        assert_eq!(injector.meet(file), Some(Fault::Truncated));
        assert_eq!(injector.meet(Uuid::from_u128(8)), Some(Fault::ServerError));
    }
}
