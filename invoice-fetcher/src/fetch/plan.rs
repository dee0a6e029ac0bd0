//! Decisions after a response and after a failed attempt.
//!
//! Pure: times, ages and randomness are arguments. A document is stored, retried at a time, or discarded for a reason.
//! Operators can see and retry discarded documents; no document is deleted.
//!
//! Problems that are not caused by the document (a rejected key, a rate limit, a full disk, shutdown) never discard it, and do
//! not count as an attempt if no request was sent.

use std::time::Duration;

use riverlock_runtime::backoff::wait_after;

use crate::{
    config::{DURATION_MAX, RetryConfig},
    problem::Problem,
};

/// Minimum attempts before a document can be discarded because of its age. After a long downtime of this service, the age alone
/// proves nothing.
const ATTEMPTS_MIN: i32 = 8;

/// Jitter for documents that wait for the same time.
const SPREAD: Duration = Duration::from_secs(2);

/// The document's attempts and age at the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// Attempts, including this one.
    pub(crate) attempts: i32,
    /// Time since the document was queued, or since an operator requested a retry.
    pub(crate) age: Duration,
}

/// The decision about a document after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// It is retried.
    RetryAfter {
        /// The wait before the next attempt.
        wait: Duration,
        /// The new number of attempts.
        attempts: i32,
    },
    /// It is discarded.
    Discard,
}

/// What a problem implies about the document.
enum Verdict {
    /// Nothing: retry after this wait without counting the attempt.
    NotAttempted(Duration),
    /// Nothing, but an immediate retry is useless: backoff without a limit.
    Backoff,
    /// Possibly temporary: backoff until the document has been retried for this long.
    BackoffFor(Duration),
    /// Permanent.
    Hopeless,
}

/// Decides what follows a failed attempt. `random` is in `0.0..1.0`.
pub(crate) fn plan(problem: &Problem, history: History, config: &RetryConfig, random: f64) -> NextStep {
    let wait = backoff(history.attempts, config).mul_f64(0.5 + random);
    let retry = |wait: Duration, attempts| NextStep::RetryAfter { wait: wait.min(DURATION_MAX), attempts };
    match verdict(problem, config) {
        Verdict::Hopeless => NextStep::Discard,
        Verdict::NotAttempted(wait) => retry(wait + SPREAD.mul_f64(random), history.attempts.saturating_sub(1).max(0)),
        Verdict::Backoff => retry(wait, history.attempts),
        Verdict::BackoffFor(limit) => {
            if history.age >= limit && history.attempts >= ATTEMPTS_MIN {
                return NextStep::Discard;
            }
            let retry_after = match problem {
                Problem::ServerError { wait, .. } => wait.unwrap_or_default(),
                Problem::ThrottledAlone { wait } => *wait,
                _ => Duration::ZERO,
            };
            retry(wait.max(retry_after), history.attempts)
        }
    }
}

fn verdict(problem: &Problem, config: &RetryConfig) -> Verdict {
    match problem {
        Problem::Gone | Problem::TooLarge { .. } | Problem::FileType(_) => Verdict::Hopeless,
        // The key is rejected: the document waits until the account's pause ends.
        Problem::KeyRefused | Problem::Stopping => Verdict::NotAttempted(Duration::ZERO),
        Problem::Throttled { wait } | Problem::Closed { wait, .. } => Verdict::NotAttempted(*wait),
        Problem::Store(_) | Problem::Conflict { .. } => Verdict::Backoff,
        Problem::NotFound => Verdict::BackoffFor(config.not_found_for),
        Problem::Unauthorized
        | Problem::Forbidden
        | Problem::ThrottledAlone { .. }
        | Problem::Redirect(_)
        | Problem::ServerError { .. }
        | Problem::Status(_)
        | Problem::Transport(_)
        | Problem::Deadline(_)
        | Problem::TooSlow { .. }
        | Problem::Broken { .. }
        | Problem::ContentType(_)
        | Problem::Encoded(_)
        | Problem::Empty
        | Problem::NotPdf
        | Problem::NoEndMarker
        | Problem::Length { .. }
        | Problem::Metadata(_) => Verdict::BackoffFor(config.retry_for),
    }
}

/// The wait after `attempts` attempts, before jitter.
fn backoff(attempts: i32, config: &RetryConfig) -> Duration {
    wait_after(u32::try_from(attempts).unwrap_or_default(), &(config.wait_first..config.wait_max))
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::hash::Sha256Hash;

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::client::status::{THROTTLED_WAIT, check_status, patience};

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    /// The next wait in seconds and the new attempts; `None` if the document is discarded.
    fn next(problem: &Problem, attempts: i32, age: Duration) -> Option<(u64, i32)> {
        match plan(problem, History { attempts, age }, &RetryConfig::default(), 0.5) {
            NextStep::RetryAfter { wait, attempts } => Some((wait.as_secs(), attempts)),
            NextStep::Discard => None,
        }
    }

    #[test]
    fn every_status_has_a_meaning() {
        for (status, retry_after, reason) in [
            (200, None, ""),
            (201, None, "status"),
            (204, None, "status"),
            (206, None, "status"),
            (301, None, "redirect"),
            (302, None, "redirect"),
            (303, None, "redirect"),
            (304, None, "redirect"),
            (307, None, "redirect"),
            (308, None, "redirect"),
            (400, None, "status"),
            (401, None, "unauthorized"),
            (403, None, "forbidden"),
            (404, None, "not_found"),
            (409, None, "status"),
            (410, None, "gone"),
            (429, Some("3"), "throttled"),
            (500, None, "server_error"),
            (503, Some("3"), "server_error"),
            (999, None, "status"),
        ] {
            let result = check_status(status, retry_after, &RetryConfig::default(), start());
            assert_eq!(result.map_or_else(|problem| problem.reason(), |()| ""), reason, "{status}");
        }
    }

    #[test]
    fn a_rate_limit_respects_retry_after_within_bounds() {
        for (retry_after, wait) in [
            (None, THROTTLED_WAIT),
            (Some("7"), Duration::from_secs(7)),
            (Some("-7"), THROTTLED_WAIT),
            (Some("99999999999"), HOUR),
            (Some("Tue, 14 Nov 2023 22:14:00 GMT"), Duration::from_secs(40)),
        ] {
            let result = check_status(429, retry_after, &RetryConfig::default(), start());
            assert_eq!(result, Err(Problem::Throttled { wait }), "{retry_after:?}");
        }
    }

    #[test]
    fn problems_not_caused_by_the_document_never_discard_it() {
        let wait = Duration::from_secs(60);
        for (problem, seconds) in [
            (Problem::KeyRefused, 1),
            (Problem::Stopping, 1),
            (Problem::Throttled { wait }, 61),
            (Problem::Closed { why: None, wait }, 61),
        ] {
            assert_eq!(next(&problem, 100, 10_000 * HOUR), Some((seconds, 99)), "{problem}");
        }
        let (stored, received) = (Sha256Hash::of(b"a"), Sha256Hash::of(b"b"));
        for problem in [Problem::Store("disk full".to_owned()), Problem::Conflict { stored, received }] {
            assert_eq!(next(&problem, 100, 10_000 * HOUR), Some((6 * 3600, 100)), "{problem}");
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let waits: Vec<u64> =
            (0..16).map(|attempts| next(&Problem::NotFound, attempts, Duration::ZERO).unwrap().0).collect();
        assert_eq!(waits[..6], [5, 5, 10, 20, 40, 80]);
        assert_eq!(waits[13..], [5 << 12, 6 * 3600, 6 * 3600]);
        assert_eq!(next(&Problem::NotFound, i32::MAX, Duration::ZERO).unwrap().0, 6 * 3600);
        assert_eq!(next(&Problem::NotFound, i32::MIN, Duration::ZERO).unwrap().0, 5);
    }

    #[test]
    fn the_wait_has_a_jitter_of_half() {
        let history = History { attempts: 3, age: Duration::ZERO };
        let planned = |random| plan(&Problem::NotPdf, history, &RetryConfig::default(), random);
        let after = |seconds| NextStep::RetryAfter { wait: Duration::from_secs(seconds), attempts: 3 };
        assert_eq!((planned(0.0), planned(0.5), planned(1.0)), (after(10), after(20), after(30)));
    }

    #[test]
    fn retry_after_of_a_server_error_is_respected() {
        let wait = Some(Duration::from_secs(900));
        assert_eq!(next(&Problem::ServerError { status: 503, wait }, 1, Duration::ZERO), Some((900, 1)));
        assert_eq!(next(&Problem::ServerError { status: 503, wait: None }, 1, Duration::ZERO), Some((5, 1)));
        assert_eq!(next(&Problem::ThrottledAlone { wait: HOUR }, 1, Duration::ZERO), Some((3600, 1)));
    }

    #[test]
    fn a_document_is_discarded_for_its_age_only_after_enough_attempts() {
        for (problem, hours) in [
            (Problem::NotFound, 72),
            (Problem::NotPdf, 168),
            (Problem::Redirect(302), 168),
            (Problem::Forbidden, 168),
            (Problem::Unauthorized, 168),
            (Problem::ServerError { status: 500, wait: None }, 168),
            (Problem::ThrottledAlone { wait: HOUR }, 168),
        ] {
            assert!(next(&problem, ATTEMPTS_MIN, HOUR * (hours - 1)).is_some(), "{problem}");
            assert_eq!(next(&problem, ATTEMPTS_MIN, HOUR * hours), None, "{problem}");
            assert!(next(&problem, ATTEMPTS_MIN - 1, HOUR * hours).is_some(), "{problem}");
        }
    }

    #[test]
    fn permanent_problems_discard_a_document_at_once() {
        for problem in [Problem::Gone, Problem::TooLarge { bytes_max: 1 }, Problem::FileType("zip".to_owned())] {
            assert_eq!(next(&problem, 1, Duration::ZERO), None, "{problem}");
        }
    }

    #[test]
    fn patience_grows_with_the_received_bytes() {
        let grace = Duration::from_secs(5);
        for (received, seconds) in [(0, 5), (5_000, 5), (10_000, 10), (u64::MAX, u64::MAX / 1_000_000)] {
            assert_eq!(patience(received, 1_000, grace).as_secs(), seconds);
        }
    }
}
