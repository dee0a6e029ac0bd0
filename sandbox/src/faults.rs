//! How downloads go wrong, as the configuration and `POST /sandbox/faults` say it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What goes wrong. Empty: nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Decides which files a rule with a percentage meets.
    pub seed: u64,
    /// The first rule that fits decides.
    pub rules: Vec<FaultRule>,
}

/// One kind of misbehaviour and where it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// Only to this file; to all if absent.
    #[serde(default)]
    pub file_id: Option<Uuid>,
    /// To so many of a hundred files; default 100.
    #[serde(default = "hundred")]
    pub percent: u8,
    /// Only to a file's first so many requests, after which it is served; to all of them if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// What happens instead of a good answer.
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
    /// The right answer, late.
    Slow {
        /// How late, at most two minutes.
        milliseconds: u64,
    },
    /// The head promises the whole file, half of it comes, and the connection breaks.
    Truncated,
    /// 200 with a page of HTML, as a maintenance page does.
    Html,
    /// 302 to somewhere else.
    Redirect {
        /// The `Location` header.
        location: String,
    },
}

const fn hundred() -> u8 {
    100
}
