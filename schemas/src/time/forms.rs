//! Formats of times other than RFC 3339.

use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc, Weekday};

use crate::decimal::exact;

/// Maximum length of a text that is parsed, in bytes. The longest format has 45 characters without fractions.
const BYTES_MAX: usize = 80;

/// The minus sign, which ISO 8601 prefers to a hyphen in offsets.
const MINUS: char = '\u{2212}';

/// A time with its precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: DateTime<Utc>,
    /// Precision: the actual time is at least `at` and less than `at + unit`. One day for a date, zero if seconds are written.
    pub(crate) unit: TimeDelta,
}

impl From<DateTime<Utc>> for Moment {
    fn from(at: DateTime<Utc>) -> Self {
        Self { at, unit: TimeDelta::zero() }
    }
}

/// A date and a time of day with an offset from UTC, as numbers. Absent parts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) nano: i64,
    /// Offset from UTC, positive east of Greenwich.
    pub(crate) offset_seconds: i64,
    /// The smallest written unit in seconds, 0 if that is the second.
    pub(crate) unit_seconds: i64,
}

const SECOND_NANOS: i64 = 1_000_000_000;
const MINUTE_SECONDS: i64 = 60;
const HOUR_SECONDS: i64 = 3_600;
pub(crate) const DAY_SECONDS: i64 = 86_400;

impl Parts {
    /// The time with the precision of the smallest written unit.
    pub(crate) fn read(self) -> Option<Moment> {
        Some(Moment { at: self.moment()?, unit: TimeDelta::seconds(self.unit_seconds) })
    }

    /// The time; `None` if the date or the time of day does not exist. 24:00:00 is midnight of the next day.
    pub(crate) fn moment(self) -> Option<DateTime<Utc>> {
        let number = |value: i64| u32::try_from(value).ok();
        let date = NaiveDate::from_ymd_opt(i32::try_from(self.year).ok()?, number(self.month)?, number(self.day)?)?;
        let midnight = self.hour == 24 && self.minute == 0 && self.second == 0 && self.nano == 0;
        let hour = if midnight { 0 } else { number(self.hour)? };
        // A leap second is read as the first second of the next minute.
        let (second, leap) = if self.second == 60 { (59, 1) } else { (number(self.second)?, 0) };
        let time = NaiveTime::from_hms_nano_opt(hour, number(self.minute)?, second, number(self.nano)?)?;
        let offset = FixedOffset::east_opt(i32::try_from(self.offset_seconds).ok()?)?;
        let later = TimeDelta::days(i64::from(midnight)) + TimeDelta::seconds(leap);
        let local = date.and_time(time).checked_add_signed(later)?;
        let utc = local.checked_sub_offset(offset)?;
        Some(utc.and_utc())
    }
}

/// The time of a number since 1970. Its unit is derived from its length: 9 or 10 digits are seconds (since 1973), 13
/// milliseconds, 16 microseconds and 19 nanoseconds (since 2001). Other lengths are ambiguous.
pub(crate) fn epoch(number: u64) -> Option<DateTime<Utc>> {
    let digits = number.checked_ilog10()? + 1;
    let number = i64::try_from(number).ok()?;
    match digits {
        9 | 10 => DateTime::from_timestamp(number, 0),
        13 => DateTime::from_timestamp_millis(number),
        16 => DateTime::from_timestamp_micros(number),
        19 => Some(DateTime::from_timestamp_nanos(number)),
        _ => None,
    }
}

/// Parses any of the formats.
pub(super) fn parse(text: &str) -> Option<Moment> {
    if text.len() > BYTES_MAX {
        return None;
    }
    if text.contains(MINUS) {
        return parse(&text.replace(MINUS, "-"));
    }
    if text.is_empty() || !text.is_ascii() {
        return None;
    }
    if !text.as_bytes()[0].is_ascii_digit() || text.contains(' ') {
        return named(text).map(Moment::from).or_else(|| iso(text));
    }
    digits(text).or_else(|| iso(text))
}

/// Formats with names of days and months: RFC 1123, and those of Java's `Date` and C's `ctime`.
fn named(text: &str) -> Option<DateTime<Utc>> {
    let in_utc = |form| NaiveDateTime::parse_from_str(text, form).ok().map(|time| time.and_utc());
    DateTime::parse_from_rfc2822(text)
        .ok()
        .map(|time| time.to_utc())
        .or_else(|| in_utc("%a %b %e %H:%M:%S UTC %Y"))
        .or_else(|| in_utc("%a %b %e %H:%M:%S GMT %Y"))
}

/// A number since 1970, or a date and a time of day without separators.
fn digits(text: &str) -> Option<Moment> {
    if text.contains(['e', 'E']) {
        // The format of a Java `Double`: 1.795773605E9.
        return digits(&exact(text)?.to_string());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    if matches!(whole.len(), 8 | 12 | 14) && fraction.is_empty() {
        let mut rest = Remainder(whole);
        let date = Parts { year: rest.number(4)?, month: rest.number(2)?, day: rest.number(2)?, ..Parts::default() };
        return time_of_day(&mut rest, date)?.read();
    }
    let since = epoch(whole.parse().ok()?)?;
    if fraction.is_empty() {
        return Some(since.into());
    }
    let nanos = matches!(whole.len(), 9 | 10).then(|| nanos(fraction))??;
    Some(since.checked_add_signed(TimeDelta::nanoseconds(nanos))?.into())
}

/// ISO 8601 in its basic or extended format: a calendar date, a week date or an ordinal date, with or without a time of day.
fn iso(text: &str) -> Option<Moment> {
    let (text, zone) = match text.split_once('[') {
        Some((text, zone)) => (text, Some(zone.strip_suffix(']')?)),
        None => (text, None),
    };
    let mut rest = Remainder(text);
    let mut parts = date(&mut rest)?;
    if rest.take(b"Tt ") && rest.starts_with_digit() {
        parts = time_of_day(&mut rest, parts)?;
    }
    let offset = match (rest.0.trim_start(), zone) {
        // A zone's name without an offset is accepted only if it means UTC.
        ("", Some(zone)) => is_utc(zone).then_some(0)?,
        ("", None) => 0,
        (offset, _) => offset_seconds(offset)?,
    };
    Parts { offset_seconds: offset, ..parts }.read()
}

/// A calendar date (`2026-11-27`), a week date (`2026-W48-5`) or an ordinal date (`2026-331`). Years with more than four digits
/// have six digits and a sign, as in JavaScript.
fn date(rest: &mut Remainder<'_>) -> Option<Parts> {
    let year = if rest.take(b"+") { rest.number(6)? } else { rest.number(4)? };
    let extended = rest.take(b"-");
    let of_date = |date: NaiveDate| {
        let (year, month, day) = (date.year().into(), date.month().into(), date.day().into());
        Parts { year, month, day, unit_seconds: DAY_SECONDS, ..Parts::default() }
    };
    if rest.take(b"W") {
        let week = u32::try_from(rest.number(2)?).ok()?;
        if extended && !rest.take(b"-") {
            return None;
        }
        let weekday = Weekday::try_from(u8::try_from(rest.number(1)? - 1).ok()?).ok()?;
        return NaiveDate::from_isoywd_opt(i32::try_from(year).ok()?, week, weekday).map(of_date);
    }
    if rest.digits_count() == 3 {
        let day = u32::try_from(rest.number(3)?).ok()?;
        return NaiveDate::from_yo_opt(i32::try_from(year).ok()?, day).map(of_date);
    }
    let month = rest.number(2)?;
    if extended && !rest.take(b"-") {
        return None;
    }
    Some(Parts { year, month, day: rest.number(2)?, unit_seconds: DAY_SECONDS, ..Parts::default() })
}

/// Hours, minutes and seconds. Trailing parts can be left out, and the last written part can have a fraction.
fn time_of_day(rest: &mut Remainder<'_>, date: Parts) -> Option<Parts> {
    let mut parts = Parts { unit_seconds: DAY_SECONDS, ..date };
    if rest.0.is_empty() {
        return Some(parts);
    }
    (parts.hour, parts.unit_seconds) = (rest.number(2)?, HOUR_SECONDS);
    let separated = rest.take(b":");
    if separated || rest.starts_with_digit() {
        (parts.minute, parts.unit_seconds) = (rest.number(2)?, MINUTE_SECONDS);
        if if separated { rest.take(b":") } else { rest.starts_with_digit() } {
            (parts.second, parts.unit_seconds) = (rest.number(2)?, 0);
        }
    }
    if rest.take(b".,") {
        let nanos = nanos(rest.split(rest.digits_count())?)? * parts.unit_seconds.max(1);
        parts.nano = nanos % SECOND_NANOS;
        parts.second += nanos / SECOND_NANOS % MINUTE_SECONDS;
        parts.minute += nanos / SECOND_NANOS / MINUTE_SECONDS;
    }
    Some(parts)
}

fn is_utc(zone: &str) -> bool {
    let utc = ["UTC", "GMT", "Z", "UT", "Etc/UTC", "Etc/GMT", "Etc/UCT", "Zulu", "Universal"];
    utc.iter().any(|name| name.eq_ignore_ascii_case(zone))
}

/// `Z`, `UTC`, `+00:00`, `+0000`, `+00` or `+00:00:00`.
fn offset_seconds(text: &str) -> Option<i64> {
    if ["Z", "UTC", "GMT"].iter().any(|name| name.eq_ignore_ascii_case(text)) {
        return Some(0);
    }
    let mut rest = Remainder(text);
    let sign = if rest.take(b"+") { 1 } else { rest.take(b"-").then_some(-1)? };
    let hours = rest.number(2)?;
    let mut next = || if rest.take(b":") || rest.starts_with_digit() { rest.number(2) } else { Some(0) };
    let (minutes, seconds) = (next()?, next()?);
    let valid = rest.0.is_empty() && hours < 24 && minutes < 60 && seconds < 60;
    valid.then_some(sign * (hours * HOUR_SECONDS + minutes * MINUTE_SECONDS + seconds))
}

/// The digits after a decimal point as nanoseconds; further digits are truncated.
fn nanos(fraction: &str) -> Option<i64> {
    let digits = fraction.get(..fraction.len().min(9))?;
    let scale = 9 - u32::try_from(digits.len()).ok()?;
    Some(digits.parse::<i64>().ok()? * 10_i64.pow(scale))
}

/// The unparsed rest of an ASCII text.
struct Remainder<'a>(&'a str);

impl<'a> Remainder<'a> {
    fn split(&mut self, length: usize) -> Option<&'a str> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    /// Parses a number of exactly `digits` digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let head = self.split(digits)?;
        head.bytes().all(|byte| byte.is_ascii_digit()).then(|| head.parse().ok())?
    }

    /// Skips the next byte if it is one of these.
    fn take(&mut self, any_of: &[u8]) -> bool {
        let found = self.0.as_bytes().first().is_some_and(|byte| any_of.contains(byte));
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn starts_with_digit(&self) -> bool {
        self.digits_count() > 0
    }

    /// The number of digits at the beginning.
    fn digits_count(&self) -> usize {
        self.0.bytes().take_while(u8::is_ascii_digit).count()
    }
}
