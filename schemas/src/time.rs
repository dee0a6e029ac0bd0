//! Times as Digital River writes them.

use chrono::{DateTime, Utc};

/// Reads an ISO-8601 UTC time with or without a fraction of any length. Finer than microseconds is cut off.
///
/// Years outside 0001 to 9999 are refused: nothing else in the system can hold them.
///
/// Source: Digital River writes `2021-11-01T18:23:06.272054Z` and `2021-11-01T18:23:06Z`.
#[must_use]
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    use chrono::Datelike;
    let time = to_micros(DateTime::parse_from_rfc3339(text).ok()?.to_utc());
    (1..=9999).contains(&time.year()).then_some(time)
}

/// Cuts a time to what PostgreSQL keeps, because a fact must be the same before and after it is stored: microseconds, and no
/// leap seconds; 23:59:60 is the next day's first second.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_any_length_are_read_and_cut_to_microseconds() {
        for (text, micros) in [
            ("2021-11-01T18:23:06Z", 0),
            ("2021-11-01T18:23:06.2Z", 200_000),
            ("2021-11-01T18:23:06.272054Z", 272_054),
            ("2021-11-01T18:23:06.272054999Z", 272_054),
            ("2021-11-01T18:23:06.272054999888Z", 272_054),
            ("1969-12-31T23:59:59.9999999Z", 999_999),
        ] {
            assert_eq!(parse_time(text).unwrap().timestamp_subsec_micros(), micros, "{text}");
        }
        assert!(parse_time("yesterday").is_none());
        assert!(parse_time("").is_none());
    }

    #[test]
    fn a_leap_second_is_read_as_it_is_stored() {
        for (text, stored) in
            [("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"), ("2016-12-31T23:59:60.25Z", "2017-01-01T00:00:00.25Z")]
        {
            assert_eq!(parse_time(text), parse_time(stored), "{text}");
        }
        assert!(parse_time("9999-12-31T23:59:60Z").is_none());
    }
}
