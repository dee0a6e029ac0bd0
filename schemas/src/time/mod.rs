//! Parsing of times in the formats of Digital River and of systems that forward its events.

mod forms;

use chrono::{DateTime, Datelike as _, Utc};

pub(crate) use self::forms::{DAY_SECONDS, Moment, Parts, epoch};

/// Parses a time with or without a fraction of any length, truncated to microseconds.
///
/// Accepts RFC 3339, other formats of ISO 8601 with a day (basic format, week and ordinal dates, no seconds, fractions of
/// minutes and hours, hour 24, date only, a zone as `+0000`, `+00`, `[UTC]` or absent, which means UTC), RFC 1123, and seconds,
/// milliseconds, microseconds or nanoseconds since 1970 as a number.
///
/// Years outside 0001 to 9999 are rejected, because the database and JSON formats cannot represent them.
///
/// Source: Digital River writes `2021-11-01T18:23:06.272054Z` and `2021-11-01T18:23:06Z`.
#[must_use]
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    parse_rfc3339(text).or_else(|| Some(parse_other_form(text)?.at))
}

/// Parses a time in the format that Digital River documents.
pub(crate) fn parse_rfc3339(text: &str) -> Option<DateTime<Utc>> {
    checked(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

/// Parses a time in any other format.
pub(crate) fn parse_other_form(text: &str) -> Option<Moment> {
    let moment = forms::parse(text.trim())?;
    Some(Moment { at: checked(moment.at)?, ..moment })
}

/// Truncates a time and rejects years outside 0001 to 9999.
pub(crate) fn checked(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let time = to_micros(time);
    (1..=9999).contains(&time.year()).then_some(time)
}

/// Truncates a time to PostgreSQL's precision, because facts must be equal before and after they are stored: microseconds, and
/// no leap seconds; 23:59:60 becomes the first second of the next day.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// A time as it is printed for people: RFC 3339 in UTC with milliseconds, `2026-01-31T08:00:00.000Z`.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_any_length_are_truncated_to_microseconds() {
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
    }

    #[test]
    fn a_leap_second_is_the_next_second() {
        for (text, stored) in
            [("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"), ("2016-12-31T23:59:60.25Z", "2017-01-01T00:00:00.25Z")]
        {
            assert_eq!(parse_time(text), parse_time(stored), "{text}");
        }
        assert!(parse_time("9999-12-31T23:59:60Z").is_none());
    }

    #[test]
    fn every_usual_format_is_parsed_to_the_same_time() {
        let expected = parse_rfc3339("2026-11-27T10:00:05Z").unwrap();
        for text in [
            "2026-11-27T10:00:05+00:00",
            "2026-11-27T10:00:05+0000",
            "2026-11-27T10:00:05+00",
            "2026-11-27T10:00:05-00:00",
            "2026-11-27T10:00:05",
            "2026-11-27t10:00:05z",
            "2026-11-27 10:00:05",
            "2026-11-27 10:00:05 UTC",
            "2026-11-27 10:00:05 GMT",
            "2026-11-27 10:00:05 +0000",
            " 2026-11-27T10:00:05Z ",
            "2026-11-27T10:00:05Z[UTC]",
            "2026-11-27T10:00:05[UTC]",
            "2026-11-27T10:00:05Z[Etc/UTC]",
            "2026-11-27T11:00:05+01:00[Europe/Berlin]",
            "2026-11-27T12:00:05+02:00",
            "2026-11-27T12:00:05+0200",
            "2026-11-27T12:00:05+02",
            "2026-11-27T15:30:05+05:30",
            "20261127T100005Z",
            "20261127T100005",
            "20261127100005",
            "2026-W48-5T10:00:05Z",
            "2026W485T100005Z",
            "2026-331T10:00:05Z",
            "2026331T100005+0000",
            "+002026-11-27T10:00:05.000Z",
            "2026-11-27T12:00:05+02:00:00",
            "2026-11-27T08:00:05\u{2212}02:00",
            "20261127T080005\u{2212}0200",
            "1.795773605E9",
            "1.795773605e+12",
            "Fri, 27 Nov 2026 10:00:05 GMT",
            "Fri, 27 Nov 2026 10:00:05 +0000",
            "27 Nov 2026 10:00:05 GMT",
            "Fri Nov 27 10:00:05 UTC 2026",
            "1795773605",
            "1795773605000",
            "1795773605000000",
            "1795773605000000000",
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn missing_parts_are_zero_and_fractions_can_have_a_comma() {
        for (text, same) in [
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("20261127", "2026-11-27T00:00:00Z"),
            ("2026-11-27Z", "2026-11-27T00:00:00Z"),
            ("2026-11-27T10:00Z", "2026-11-27T10:00:00Z"),
            ("2026-11-27T10:00", "2026-11-27T10:00:00Z"),
            ("2026-11-27T1000Z", "2026-11-27T10:00:00Z"),
            ("202611271000", "2026-11-27T10:00:00Z"),
            ("2026-11-27T10", "2026-11-27T10:00:00Z"),
            ("2026-W48-5", "2026-11-27T00:00:00Z"),
            ("2026W485", "2026-11-27T00:00:00Z"),
            ("2020-W53-7", "2021-01-03T00:00:00Z"),
            ("2026-W01-1", "2025-12-29T00:00:00Z"),
            ("2026-331", "2026-11-27T00:00:00Z"),
            ("2026331", "2026-11-27T00:00:00Z"),
            ("2024-366", "2024-12-31T00:00:00Z"),
            ("2026-11-27T10:00.5Z", "2026-11-27T10:00:30Z"),
            ("2026-11-27T1000,25", "2026-11-27T10:00:15Z"),
            ("2026-11-27T10.5Z", "2026-11-27T10:30:00Z"),
            ("2026-11-27T10,5041", "2026-11-27T10:30:14.76Z"),
            ("2026-11-27T24:00:00Z", "2026-11-28T00:00:00Z"),
            ("2026-12-31T24:00Z", "2027-01-01T00:00:00Z"),
            ("2026-11-27T10:00:05,25Z", "2026-11-27T10:00:05.25Z"),
            ("2026-11-27T10:00:05.123456789+0000", "2026-11-27T10:00:05.123456Z"),
            ("1795773605.25", "2026-11-27T10:00:05.25Z"),
            ("1795773605250", "2026-11-27T10:00:05.25Z"),
        ] {
            assert_eq!(parse_time(text), Some(parse_rfc3339(same).unwrap()), "{text}");
        }
    }

    #[test]
    fn invalid_and_ambiguous_times_are_rejected() {
        for text in [
            "",
            " ",
            "yesterday",
            "2026",
            "2026-11",
            "2026-W48",
            "2026-W54-1",
            "2026-W48-0",
            "2026-W48-8",
            "2026-366",
            "2026-000",
            "2026-11-27T24.5Z",
            "2026-11-27T10:00.Z",
            "+2026-11-27T10:00:05Z",
            "1e400",
            "1.5e9x",
            "2026-13-01",
            "2026-02-30T00:00:00Z",
            "2026-11-27T25:00:00Z",
            "2026-11-27T24:00:01Z",
            "2026-11-27T10:61:00Z",
            "2026-11-27T10:00:61Z",
            "2026-11-27T10:00:05+25:00",
            "2026-11-27T10:00:05 CET",
            "2026-11-27T10:00:05[Europe/Berlin]",
            "2026-11-27T10:00:05Zulu",
            "+12026-11-27T10:00:05Z",
            "10000-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "27/11/2026 10:00",
            "11/27/2026",
            "0",
            "7",
            "12345678901",
            "99999999999999999999999",
            "-1795773605",
            "1e8x",
            "1e3",
            "2026-11-27T\u{663}0:00:00Z",
            "é026-11-27T10:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = parse_time(&text);
        }

        #[test]
        fn every_parsed_time_can_be_stored(text in "[0-9TtZz:.,+ -]{0,32}") {
            if let Some(time) = parse_time(&text) {
                proptest::prop_assert_eq!(checked(time), Some(time));
            }
        }
    }
}
