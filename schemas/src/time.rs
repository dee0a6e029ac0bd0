//! Times as Digital River writes them.

use chrono::{DateTime, SubsecRound, Utc};

/// Digits of a second that are kept: PostgreSQL stores microseconds, and a fact must be the same before and after it is stored.
const FRACTION_DIGITS: u16 = 6;

/// Reads an ISO-8601 UTC time with or without a fraction of any length. Finer than microseconds is cut off.
///
/// Years outside 0001 to 9999 are refused: nothing else in the system can hold them.
///
/// Source: Digital River writes `2021-11-01T18:23:06.272054Z` and `2021-11-01T18:23:06Z`.
#[must_use]
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    use chrono::Datelike;
    let time = DateTime::parse_from_rfc3339(text).ok()?.to_utc().trunc_subsecs(FRACTION_DIGITS);
    (1..=9999).contains(&time.year()).then_some(time)
}

/// Cuts a time to what PostgreSQL keeps.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(FRACTION_DIGITS)
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
        ] {
            assert_eq!(parse_time(text).unwrap().timestamp_subsec_micros(), micros, "{text}");
        }
        assert!(parse_time("yesterday").is_none());
        assert!(parse_time("").is_none());
    }
}
