//! What can go wrong with one attempt.

use std::time::Duration;

use riverlock_schemas::hash::Sha256Hash;

use crate::account::{evidence::Answer, gate::PauseReason};

/// Why an attempt did not end with a stored document. The text is kept with the row, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The key is refused, for this file and for others.
    #[error("Digital River refuses the API key")]
    KeyRefused,
    /// 401 for this file, with a key that works for others.
    #[error("Digital River does not accept the API key for this file (401)")]
    Unauthorized,
    /// 403 for this file, with a key that works for others.
    #[error("Digital River forbids this file (403)")]
    Forbidden,
    /// 429: too many requests.
    #[error("too many requests (429); asked to wait {} s", .wait.as_secs())]
    Throttled {
        /// How long nothing gets through; capped.
        wait: Duration,
    },
    /// 429 for this file again, while others are answered.
    #[error("too many requests (429) for this file alone; asked to wait {} s", .wait.as_secs())]
    ThrottledAlone {
        /// How long it should not be asked for; capped.
        wait: Duration,
    },
    /// 404: not there, or not there yet.
    #[error("Digital River does not have the file (404)")]
    NotFound,
    /// 410: was there, and is not any more.
    #[error("Digital River does not have the file any more (410)")]
    Gone,
    /// 3xx: never followed.
    #[error("redirected ({0}), which is never followed")]
    Redirect(u16),
    /// 5xx.
    #[error("Digital River is in trouble ({status})")]
    ServerError {
        /// The status.
        status: u16,
        /// How long it asked to wait; capped.
        wait: Option<Duration>,
    },
    /// Any other status.
    #[error("unexpected status {0}")]
    Status(u16),
    /// No connection, or one that broke before there was an answer.
    #[error("no answer: {0}")]
    Transport(String),
    /// The answer began too late, or the attempt took too long.
    #[error("took too long while {0}")]
    Deadline(&'static str),
    /// The body came more slowly than it may.
    #[error("too slow: {received} bytes in {} s", .elapsed.as_secs())]
    TooSlow {
        /// Bytes so far.
        received: u64,
        /// Time so far.
        elapsed: Duration,
    },
    /// The body broke off.
    #[error("the body broke off after {received} bytes: {reason}")]
    Broken {
        /// Bytes so far.
        received: u64,
        /// What the transport says.
        reason: String,
    },
    /// The content type is not that of a PDF.
    #[error("the content type is {0}, not application/pdf")]
    ContentType(String),
    /// The body is compressed although it was asked for as it is.
    #[error("the body comes as {0}, which was not asked for")]
    Encoded(String),
    /// The body is empty.
    #[error("the body is empty")]
    Empty,
    /// The body does not begin as a PDF does.
    #[error("the body is no PDF: it does not begin with %PDF-")]
    NotPdf,
    /// The body does not end as a PDF does.
    #[error("the PDF is not whole: there is no %%EOF near its end")]
    NoEndMarker,
    /// The body is larger than it may be.
    #[error("larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The body has another length than was said.
    #[error("{received} bytes came, but {source_name} says {expected}")]
    Length {
        /// Who said how long it is.
        source_name: &'static str,
        /// What was said.
        expected: u64,
        /// What came.
        received: u64,
    },
    /// What Digital River knows of the file cannot be read.
    #[error("the file's metadata cannot be used: {0}")]
    Metadata(String),
    /// Digital River says that the file is no PDF.
    #[error("the file is of type {0}, not pdf")]
    FileType(String),
    /// The object store has trouble.
    #[error("the object store: {0}")]
    Store(String),
    /// Something else lies under both keys that the document may have. Nothing was overwritten.
    #[error("something else lies where the document belongs, with SHA-256 {stored}; what came has {received}")]
    Conflict {
        /// What is stored.
        stored: Sha256Hash,
        /// What came.
        received: Sha256Hash,
    },
    /// Nothing was asked, because nothing may be at the moment.
    #[error("not asked: {}", .why.map_or("the rate limit leaves no room", PauseReason::as_str))]
    Closed {
        /// Why; `None` for the rate limit alone.
        why: Option<PauseReason>,
        /// For how long.
        wait: Duration,
    },
    /// The process ends.
    #[error("the process ended meanwhile")]
    Stopping,
}

impl Problem {
    /// All values of [`Problem::reason`].
    pub(crate) const REASONS: [&'static str; 27] = [
        "broken",
        "closed",
        "conflict",
        "content_type",
        "deadline",
        "empty",
        "encoded",
        "file_type",
        "forbidden",
        "gone",
        "key_refused",
        "length",
        "metadata",
        "no_end_marker",
        "not_found",
        "not_pdf",
        "redirect",
        "server_error",
        "status",
        "stopping",
        "store",
        "throttled",
        "throttled_alone",
        "too_large",
        "too_slow",
        "transport",
        "unauthorized",
    ];

    /// A short, stable name, for labels and lists.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::KeyRefused => "key_refused",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled { .. } => "throttled",
            Self::ThrottledAlone { .. } => "throttled_alone",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Redirect(_) => "redirect",
            Self::ServerError { .. } => "server_error",
            Self::Status(_) => "status",
            Self::Transport(_) => "transport",
            Self::Deadline(_) => "deadline",
            Self::TooSlow { .. } => "too_slow",
            Self::Broken { .. } => "broken",
            Self::ContentType(_) => "content_type",
            Self::Encoded(_) => "encoded",
            Self::Empty => "empty",
            Self::NotPdf => "not_pdf",
            Self::NoEndMarker => "no_end_marker",
            Self::TooLarge { .. } => "too_large",
            Self::Length { .. } => "length",
            Self::Metadata(_) => "metadata",
            Self::FileType(_) => "file_type",
            Self::Store(_) => "store",
            Self::Conflict { .. } => "conflict",
            Self::Closed { .. } => "closed",
            Self::Stopping => "stopping",
        }
    }

    /// What the head of an answer says about the account. A rate limit is not among it: see [`Self::Throttled`].
    pub(crate) fn answer(&self) -> Answer {
        match self {
            Self::KeyRefused | Self::Unauthorized => Answer::Unauthorized,
            Self::Forbidden => Answer::Forbidden,
            Self::ServerError { .. } | Self::Transport(_) | Self::Deadline(_) => Answer::Failed,
            Self::Throttled { .. }
            | Self::ThrottledAlone { .. }
            | Self::NotFound
            | Self::Gone
            | Self::Redirect(_)
            | Self::Status(_)
            | Self::TooSlow { .. }
            | Self::Broken { .. }
            | Self::ContentType(_)
            | Self::Encoded(_)
            | Self::Empty
            | Self::NotPdf
            | Self::NoEndMarker
            | Self::TooLarge { .. }
            | Self::Length { .. }
            | Self::Metadata(_)
            | Self::FileType(_)
            | Self::Store(_)
            | Self::Conflict { .. }
            | Self::Closed { .. }
            | Self::Stopping => Answer::Works,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_reason_of_its_own_that_is_listed() {
        let (wait, text) = (Duration::from_secs(1), String::new);
        let hash = Sha256Hash::of(b"");
        let problems = [
            Problem::Broken { received: 1, reason: text() },
            Problem::Closed { why: None, wait },
            Problem::Conflict { stored: hash, received: hash },
            Problem::ContentType(text()),
            Problem::Deadline("testing"),
            Problem::Empty,
            Problem::Encoded(text()),
            Problem::FileType(text()),
            Problem::Forbidden,
            Problem::Gone,
            Problem::KeyRefused,
            Problem::Length { source_name: "", expected: 1, received: 2 },
            Problem::Metadata(text()),
            Problem::NoEndMarker,
            Problem::NotFound,
            Problem::NotPdf,
            Problem::Redirect(302),
            Problem::ServerError { status: 500, wait: None },
            Problem::Status(400),
            Problem::Stopping,
            Problem::Store(text()),
            Problem::Throttled { wait },
            Problem::ThrottledAlone { wait },
            Problem::TooLarge { bytes_max: 1 },
            Problem::TooSlow { received: 1, elapsed: wait },
            Problem::Transport(text()),
            Problem::Unauthorized,
        ];
        assert_eq!(problems.map(|problem| problem.reason()), Problem::REASONS);
    }
}
