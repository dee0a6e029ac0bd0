//! What a status means, and how long an answer may take.

use std::time::Duration;

use chrono::{DateTime, Utc};
use riverlock_digital_river::http::retry_after;

use crate::{config::RetryConfig, problem::Problem};

/// Wait after a 429 without a valid `Retry-After`.
pub(crate) const THROTTLED_WAIT: Duration = Duration::from_secs(2);

/// Evaluates status and `Retry-After` of a response. Only the body of a 200 is read.
///
/// Source: Digital River, "Errors" and "Rate limits".
pub(crate) fn check_status(
    status: u16,
    retry_after: Option<&str>,
    config: &RetryConfig,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let wait = retry_after.and_then(|value| retry_after::parse(value, now, config.retry_after_max));
    Err(match status {
        200 => return Ok(()),
        300..=399 => Problem::Redirect(status),
        401 => Problem::Unauthorized,
        403 => Problem::Forbidden,
        404 => Problem::NotFound,
        410 => Problem::Gone,
        429 => Problem::Throttled { wait: wait.unwrap_or(THROTTLED_WAIT) },
        500..=599 => Problem::ServerError { status, wait },
        _ => Problem::Status(status),
    })
}

/// The time since the beginning of the body by which the next byte must arrive, so that the average rate stays above the
/// minimum.
pub(crate) fn patience(received: u64, rate_min_bytes_per_second: u64, grace: Duration) -> Duration {
    Duration::from_millis(received.saturating_mul(1_000) / rate_min_bytes_per_second.max(1)).max(grace)
}
