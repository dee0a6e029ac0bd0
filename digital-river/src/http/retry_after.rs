//! The `Retry-After` header: seconds, or an HTTP date.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

/// Shortest wait: 0 or a date in the past still means that a request is not possible now.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The requested wait: at least a second, and at most `max`. `None` if the value is neither seconds nor a date.
///
/// Source: RFC 9110, sections 10.2.3 and 5.6.7; Digital River writes whole seconds.
#[must_use]
pub fn parse(value: &str, now: DateTime<Utc>, max: Duration) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is longer than any limit.
        value.parse().map_or(max, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(SystemTime::from(now)).unwrap_or_default()
    };
    Some(wait.max(WAIT_MIN).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_parsed_within_bounds() {
        let now = DateTime::parse_from_rfc3339("1994-11-06T08:49:00Z").unwrap().to_utc();
        let max = Duration::from_secs(3600);
        for (value, seconds) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("3600", Some(3600)),
            ("999999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Sun Nov  6 08:49:37 1994", Some(37)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(1)),
            ("Sat, 06 Nov 9999 08:00:00 GMT", Some(3600)),
            ("Sat, 06 Nov 2094 08:00:00 GMT", Some(3600)),
            ("-5", None),
            ("1.5", None),
            ("+3", None),
            ("1e3", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(parse(value, now, max), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
