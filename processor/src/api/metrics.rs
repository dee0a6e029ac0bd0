//! Metrics of the order API. Ids are never used as labels.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use metrics::{Unit, counter, describe_counter, describe_histogram};

use super::{
    openapi,
    orders::{EVENTS, LIST, ORDER},
    shipments,
};

/// Requests to the order API, by route and status.
pub(super) const REQUESTS: &str = "riverlock_order_api_requests_total";
/// Duration of requests to the order API, by route, in seconds.
pub(super) const SECONDS: &str = "riverlock_order_api_request_duration_seconds";

/// The label for requests without a route and for unexpected statuses.
const OTHER: &str = "other";

const ROUTES: [&str; 6] = [LIST, ORDER, EVENTS, shipments::PATH, openapi::PATH, OTHER];

/// The statuses that the API returns.
const STATUSES: [&str; 9] = ["200", "201", "400", "401", "404", "405", "409", "500", "503"];

/// Describes the metrics and sets them to 0, so that a dashboard shows 0 and not "no data".
pub(super) fn describe() {
    describe_counter!(REQUESTS, "Requests to the order API, by route and status");
    describe_histogram!(SECONDS, Unit::Seconds, "Duration of requests to the order API");
    for route in ROUTES {
        for status in STATUSES {
            counter!(REQUESTS, "route" => route, "status" => status).increment(0);
        }
    }
}

/// Middleware that counts requests and records their duration.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = route(&request);
    let response = next.run(request).await;
    let status = response.status();
    let status = STATUSES.into_iter().find(|known| *known == status.as_str()).unwrap_or(OTHER);
    counter!(REQUESTS, "route" => route, "status" => status).increment(1);
    metrics::histogram!(SECONDS, "route" => route).record(begun.elapsed().as_secs_f64());
    response
}

/// The matched route. A path from the request is never used as a label, so the number of labels is bounded.
fn route(request: &Request) -> &'static str {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    ROUTES.into_iter().find(|route| path == Some(*route)).unwrap_or(OTHER)
}
