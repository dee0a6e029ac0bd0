//! A time on the command line.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

/// An absolute time, or a duration before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This time.
    At(DateTime<Utc>),
    /// This long before now.
    Ago(TimeDelta),
}

impl Moment {
    /// The time; 1970 if a duration leads further back than times can be represented.
    #[must_use]
    pub fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.checked_at(now).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// The time; `None` if a duration leads further back than times can be represented.
    #[must_use]
    pub fn checked_at(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::At(time) => Some(time),
            Self::Ago(ago) => now.checked_sub_signed(ago),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(time.to_utc()));
        }
        let ago = humantime::parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
        ago.map(Self::Ago)
            .ok_or_else(|| "expected a time such as 2026-01-31T08:00:00Z, or a duration such as 36h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_duration_before_now() {
        let now = DateTime::parse_from_rfc3339("2026-01-31T08:00:00Z").unwrap().to_utc();
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.at(now).to_rfc3339());
        assert_eq!(at("2026-01-01T01:00:00+01:00").unwrap(), "2026-01-01T00:00:00+00:00");
        assert_eq!(at("36h").unwrap(), "2026-01-29T20:00:00+00:00");
        assert!(at("yesterday").is_err() && at("").is_err());
    }
}
