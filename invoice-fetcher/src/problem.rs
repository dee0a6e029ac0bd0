//! Problems of one attempt to download a document.

use std::time::Duration;

use riverlock_schemas::hash::Sha256Hash;

use crate::account::{evidence::Answer, pause::PauseReason};

/// The reason why an attempt did not end with a stored document. Its message is stored in the document's row for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The key is rejected, for this file and for others.
    #[error("Digital River rejects the API key")]
    KeyRefused,
    /// 401 for this file, with a key that is accepted for others.
    #[error("Digital River does not accept the API key for this file (401)")]
    Unauthorized,
    /// 403 for this file, with a key that is accepted for others.
    #[error("Digital River forbids this file (403)")]
    Forbidden,
    /// 429: too many requests.
    #[error("too many requests (429); asked to wait {} s", .wait.as_secs())]
    Throttled {
        /// How long all requests must wait; capped.
        wait: Duration,
    },
    /// 429 for this file again, while requests for others succeed.
    #[error("too many requests (429) for this file alone; asked to wait {} s", .wait.as_secs())]
    ThrottledAlone {
        /// How long requests for this file must wait; capped.
        wait: Duration,
    },
    /// 404: the file does not exist, or not yet.
    #[error("Digital River does not have the file (404)")]
    NotFound,
    /// 410: the file existed, but does not any more.
    #[error("Digital River no longer has the file (410)")]
    Gone,
    /// 3xx: never followed.
    #[error("redirected ({0}), which is never followed")]
    Redirect(u16),
    /// 5xx.
    #[error("Digital River has a server error ({status})")]
    ServerError {
        /// The HTTP status.
        status: u16,
        /// How long it asked to wait; capped.
        wait: Option<Duration>,
    },
    /// Any other status.
    #[error("unexpected status {0}")]
    Status(u16),
    /// The connection failed, or broke before the response.
    #[error("no response: {0}")]
    Transport(String),
    /// The response was too late, or the attempt took too long.
    #[error("took too long while {0}")]
    Deadline(&'static str),
    /// The body was received more slowly than the minimum rate.
    #[error("too slow: {received} bytes in {} s", .elapsed.as_secs())]
    TooSlow {
        /// Bytes received so far.
        received: u64,
        /// Time so far.
        elapsed: Duration,
    },
    /// The connection broke while the body was received.
    #[error("the connection broke after {received} bytes of the body: {reason}")]
    Broken {
        /// Bytes received so far.
        received: u64,
        /// The error of the transport.
        reason: String,
    },
    /// The content type is not that of a PDF.
    #[error("the content type is {0}, not application/pdf")]
    ContentType(String),
    /// The body is compressed although no compression was requested.
    #[error("the body has the encoding {0}, which was not requested")]
    Encoded(String),
    /// The body is empty.
    #[error("the body is empty")]
    Empty,
    /// The body does not begin like a PDF.
    #[error("the body is not a PDF: it does not begin with %PDF-")]
    NotPdf,
    /// The body does not end like a PDF.
    #[error("the PDF is incomplete: there is no %%EOF near its end")]
    NoEndMarker,
    /// The body is larger than `document_bytes_max`.
    #[error("larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit, bytes.
        bytes_max: u64,
    },
    /// The body has another length than announced.
    #[error("received {received} bytes, but {source_name} says {expected}")]
    Length {
        /// The source of the expected length.
        source_name: &'static str,
        /// The expected length, bytes.
        expected: u64,
        /// The received length, bytes.
        received: u64,
    },
    /// The file's metadata is invalid.
    #[error("invalid metadata of the file: {0}")]
    Metadata(String),
    /// According to its metadata the file is not a PDF.
    #[error("the file is of type {0}, not pdf")]
    FileType(String),
    /// The archive returned an error.
    #[error("the archive: {0}")]
    Store(String),
    /// Other objects are stored under both possible keys of the document. Nothing was overwritten.
    #[error(
        "another object is stored under the document's key, with SHA-256 {stored}; the received document has {received}"
    )]
    Conflict {
        /// The hash of the stored object.
        stored: Sha256Hash,
        /// The received length, bytes.
        received: Sha256Hash,
    },
    /// No request was sent, because the account is paused or the rate limit was reached.
    #[error("not requested: {}", .why.map_or("the rate limit is reached", PauseReason::as_str))]
    Closed {
        /// Why the account is paused; `None` for the rate limit.
        why: Option<PauseReason>,
        /// How long to wait.
        wait: Duration,
    },
    /// The process is shutting down.
    #[error("the process is shutting down")]
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

    /// A short, stable code, for metric labels and lists.
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

    /// What the response implies about the account. Rate limits are handled separately: see [`Self::Throttled`].
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
    fn every_problem_has_its_own_reason_in_the_list() {
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
