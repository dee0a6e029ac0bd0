//! The `Retry-After` header: seconds, or a date in any of HTTP's three formats.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// Minimum wait. 0 or a date in the past still means that the server rejected the request.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// Parses the wait that a server asks for, at least a second and at most `max`. `None` if the value is invalid.
///
/// Source: RFC 9110, sections 10.2.3 and 5.6.7; Digital River writes whole seconds.
pub(crate) fn parse(value: &str, now: DateTime<Utc>, max: Duration) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(max, Duration::from_secs)
    } else {
        (date(value)? - now).to_std().unwrap_or_default()
    };
    Some(wait.max(WAIT_MIN).min(max))
}

fn date(value: &str) -> Option<DateTime<Utc>> {
    if let Ok(date) = DateTime::parse_from_rfc2822(value) {
        return Some(date.to_utc());
    }
    let obsolete = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    obsolete.iter().find_map(|form| NaiveDateTime::parse_from_str(value, form).ok()).map(|date| date.and_utc())
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
            let wait = parse(value, now, max);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
