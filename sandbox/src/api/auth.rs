//! Authentication and rate limit.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret as _;

use super::{Api, ApiError, lock};

/// How long all requests are rejected once the limit is exceeded, seconds.
const BLOCKED_SECONDS: u32 = 1;

/// Rejects requests without the confidential key. Source: Digital River: `Authorization: Bearer <confidential key>`.
pub(super) async fn require_key(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match key {
        Some((_, key)) if key.trim() == api.key.expose_secret() => Ok(next.run(request).await),
        _ => Err(ApiError::unauthorized()),
    }
}

/// Applies the rate limit, with one bucket because there is one key.
pub(super) async fn limit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let decision = lock(&api.limiter).take(api.clock.now());
    match decision {
        Ok(()) => Ok(next.run(request).await),
        Err(retry_after_seconds) => Err(ApiError::too_many_requests(retry_after_seconds)),
    }
}

/// A token bucket for one second of requests. Source: Digital River, "Rate limits": beyond the limit the answer is 429 with
/// `Retry-After` in whole seconds, during which all requests are rejected.
#[derive(Debug)]
pub(super) struct Limiter {
    per_second: u32,
    /// Thousandths of a request that may still be made.
    tokens: i64,
    filled_at: DateTime<Utc>,
    blocked_until: DateTime<Utc>,
}

impl Limiter {
    pub(super) fn new(per_second: u32, now: DateTime<Utc>) -> Self {
        Self { per_second, tokens: i64::from(per_second) * 1000, filled_at: now, blocked_until: now }
    }

    /// Counts one request; the error is the number of whole seconds to wait.
    fn take(&mut self, now: DateTime<Utc>) -> Result<(), u32> {
        let passed = (now - self.filled_at).num_milliseconds();
        if passed > 0 {
            let capacity = i64::from(self.per_second) * 1000;
            let gained = passed.saturating_mul(i64::from(self.per_second));
            self.tokens = self.tokens.saturating_add(gained).min(capacity);
            self.filled_at = now;
        }
        if now < self.blocked_until {
            return Err(BLOCKED_SECONDS);
        }
        if self.tokens < 1000 {
            self.blocked_until = now + TimeDelta::seconds(i64::from(BLOCKED_SECONDS));
            return Err(BLOCKED_SECONDS);
        }
        self.tokens -= 1000;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_requests_are_rejected_for_a_second() {
        let at = |milliseconds| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds);
        let mut limiter = Limiter::new(2, at(0));
        assert_eq!(limiter.take(at(0)), Ok(()));
        assert_eq!(limiter.take(at(0)), Ok(()));
        assert_eq!(limiter.take(at(0)), Err(1));
        assert_eq!(limiter.take(at(999)), Err(1));
        assert_eq!(limiter.take(at(1000)), Ok(()));
        assert_eq!(limiter.take(at(1000)), Ok(()));
        assert_eq!(limiter.take(at(1000)), Err(1));
    }

    #[test]
    fn a_steady_rate_below_the_limit_is_never_rejected() {
        let mut limiter = Limiter::new(25, DateTime::UNIX_EPOCH);
        for number in 0..1_000 {
            let now = DateTime::UNIX_EPOCH + TimeDelta::milliseconds(number * 40);
            assert_eq!(limiter.take(now), Ok(()), "request {number}");
        }
    }
}
