//! Evidence from single documents that the account itself fails.
//!
//! Pure: the time is an argument. One document that always answers 403 or 500 must not stop the others. So a suspicion needs
//! responses for several distinct documents without a success in between, and it only leads to a check with a request that is
//! independent of the failed documents (see `check.rs`).
//!
//! Content and metadata are evaluated separately, because Digital River's file store may be down while its API works.

use std::time::{Duration, Instant};

use riverlock_schemas::FileId;

/// Distinct documents in a row that must be forbidden (403) before the key is suspected.
pub(crate) const FORBIDDEN_FILES_MIN: usize = 3;

/// Distinct documents in a row that must fail before an outage is suspected.
pub(crate) const FAILED_FILES_MIN: usize = 3;

/// Failures in a row, of any documents, before an outage is suspected.
pub(crate) const FAILURES_MIN: u32 = 10;

/// The requested resource of a file. A success for the content implies that metadata can be requested, but not vice versa.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    /// `GET /files/{id}`
    Metadata,
    /// `GET /files/{id}/content`
    Content,
}

/// What a response about one document implies about the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Digital River answers and accepts the key.
    Works,
    /// 401: probably the key, possibly the file.
    Unauthorized,
    /// 403: probably the file, possibly the key.
    Forbidden,
    /// Digital River did not answer, or with a server error.
    Failed,
}

/// A suspected problem of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// The key is rejected.
    Key,
    /// Digital River is down.
    Outage,
    /// The rate limit is reached; requests must wait this long.
    Limit(Duration),
}

/// The evidence about an account from the responses so far.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    metadata: Streak,
    content: Streak,
}

/// Failures since the last success.
#[derive(Debug, Default)]
struct Streak {
    /// Distinct documents that were forbidden, up to [`FORBIDDEN_FILES_MIN`].
    forbidden: Vec<FileId>,
    /// Distinct documents that failed, up to [`FAILED_FILES_MIN`].
    failed: Vec<FileId>,
    failures: u32,
    /// When the latest successful request was sent.
    worked: Option<Instant>,
}

impl Evidence {
    /// Records the response to a request that was sent at `sent`.
    pub(crate) fn record(&mut self, endpoint: Endpoint, file_id: FileId, answer: Answer, sent: Instant) {
        match answer {
            Answer::Works => self.record_success(endpoint, sent),
            Answer::Unauthorized => {}
            Answer::Forbidden => note(&mut self.streak_mut(endpoint).forbidden, file_id, FORBIDDEN_FILES_MIN),
            Answer::Failed => {
                let streak = self.streak_mut(endpoint);
                streak.failures = streak.failures.saturating_add(1);
                note(&mut streak.failed, file_id, FAILED_FILES_MIN);
            }
        }
    }

    /// Records a successful request that was sent at `sent`.
    pub(crate) fn record_success(&mut self, endpoint: Endpoint, sent: Instant) {
        for of in [Endpoint::Metadata, Endpoint::Content].into_iter().filter(|of| *of <= endpoint) {
            let streak = self.streak_mut(of);
            *streak = Streak { worked: streak.worked.max(Some(sent)), ..Streak::default() };
        }
    }

    /// The suspicion that follows from a response to a request sent at `sent` and from the recorded evidence.
    pub(crate) fn suspicion(&self, endpoint: Endpoint, answer: Answer, sent: Instant) -> Option<Suspicion> {
        let streak = self.streak(endpoint);
        match answer {
            Answer::Works => None,
            Answer::Unauthorized => streak.worked.is_none_or(|worked| worked < sent).then_some(Suspicion::Key),
            Answer::Forbidden => (streak.forbidden.len() >= FORBIDDEN_FILES_MIN).then_some(Suspicion::Key),
            Answer::Failed => {
                let is_outage = streak.failures >= FAILURES_MIN && streak.failed.len() >= FAILED_FILES_MIN;
                is_outage.then_some(Suspicion::Outage)
            }
        }
    }

    fn streak(&self, endpoint: Endpoint) -> &Streak {
        match endpoint {
            Endpoint::Metadata => &self.metadata,
            Endpoint::Content => &self.content,
        }
    }

    fn streak_mut(&mut self, endpoint: Endpoint) -> &mut Streak {
        match endpoint {
            Endpoint::Metadata => &mut self.metadata,
            Endpoint::Content => &mut self.content,
        }
    }
}

fn note(files: &mut Vec<FileId>, file_id: FileId, most: usize) {
    if files.len() < most && !files.contains(&file_id) {
        files.push(file_id);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const CONTENT: Endpoint = Endpoint::Content;

    fn file(number: u128) -> FileId {
        FileId::from(Uuid::from_u128(number))
    }

    /// The suspicion after the last of these responses about content.
    fn suspicion(answers: impl IntoIterator<Item = (u128, Answer)>) -> Option<Suspicion> {
        let (mut evidence, mut sent, mut last) = (Evidence::default(), Instant::now(), None);
        for (number, answer) in answers {
            sent += Duration::from_secs(1);
            evidence.record(CONTENT, file(number), answer, sent);
            last = evidence.suspicion(CONTENT, answer, sent);
        }
        last
    }

    #[test]
    fn one_document_that_is_always_forbidden_does_not_make_the_key_suspect_but_several_do() {
        assert_eq!(suspicion((0..1_000).map(|_| (1, Answer::Forbidden))), None);
        assert_eq!(suspicion([(1, Answer::Forbidden), (2, Answer::Forbidden), (1, Answer::Forbidden)]), None);
        assert_eq!(suspicion((1..=3).map(|number| (number, Answer::Forbidden))), Some(Suspicion::Key));
    }

    #[test]
    fn a_success_in_between_clears_the_account() {
        let between = [(1, Answer::Forbidden), (2, Answer::Forbidden), (9, Answer::Works), (3, Answer::Forbidden)];
        assert_eq!(suspicion(between), None);
        let failures = (0..9).map(|number| (number, Answer::Failed));
        let again = failures.clone().chain([(20, Answer::Works)]).chain(failures);
        assert_eq!(suspicion(again), None);
    }

    #[test]
    fn an_outage_is_suspected_after_failures_of_several_documents() {
        assert_eq!(suspicion((0..1_000).map(|number| (number % 2, Answer::Failed))), None);
        assert_eq!(suspicion((0..9).map(|number| (number, Answer::Failed))), None);
        assert_eq!(suspicion((0..10).map(|number| (number % 3, Answer::Failed))), Some(Suspicion::Outage));
    }

    #[test]
    fn a_401_makes_the_key_suspect_unless_a_later_request_succeeded() {
        assert_eq!(suspicion([(1, Answer::Works), (2, Answer::Unauthorized)]), Some(Suspicion::Key));
        let (mut evidence, sent) = (Evidence::default(), Instant::now());
        evidence.record_success(CONTENT, sent + Duration::from_millis(1));
        assert_eq!(evidence.suspicion(CONTENT, Answer::Unauthorized, sent), None);
    }

    #[test]
    fn successful_metadata_requests_prove_nothing_about_content() {
        let (mut evidence, sent) = (Evidence::default(), Instant::now());
        for number in 0..10 {
            evidence.record(Endpoint::Metadata, file(number), Answer::Works, sent);
            evidence.record(CONTENT, file(number), Answer::Failed, sent);
        }
        assert_eq!(evidence.suspicion(CONTENT, Answer::Failed, sent), Some(Suspicion::Outage));
        evidence.record_success(CONTENT, sent);
        assert_eq!(evidence.suspicion(CONTENT, Answer::Failed, sent), None);
    }
}
