//! Faults of downloads, as the configuration and `POST /sandbox/faults` define them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The faults; none if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Seed that selects the files of rules with a percentage.
    pub seed: u64,
    /// The first matching rule applies.
    pub rules: Vec<FaultRule>,
}

/// A fault, and the files that it affects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// Only this file; all files if absent.
    #[serde(default)]
    pub file_id: Option<Uuid>,
    /// Percentage of files; default 100.
    #[serde(default = "hundred")]
    pub percent: u8,
    /// The number of a file's first requests that fail; all if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// The answer of a failing request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// 404: the file is not there (yet).
    NotFound,
    /// 401, although the key is right.
    Unauthorized,
    /// 403: the key may not fetch this file.
    Forbidden,
    /// 429 with `Retry-After`.
    TooManyRequests {
        /// The header's value, seconds.
        retry_after_seconds: u32,
    },
    /// 500.
    ServerError,
    /// The correct answer, after a delay.
    Slow {
        /// The delay, at most two minutes.
        milliseconds: u64,
    },
    /// Half of the file, then the connection breaks.
    Truncated,
    /// 200 with a page of HTML, as a maintenance page does.
    Html,
    /// 302 to another address.
    Redirect {
        /// The `Location` header.
        location: String,
    },
}

const fn hundred() -> u8 {
    100
}
