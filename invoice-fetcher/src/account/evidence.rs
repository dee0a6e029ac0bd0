//! When answers about single documents raise the suspicion that something is wrong for all of them.
//!
//! Pure: the time is an argument. One document's trouble is its own: a file that answers 403 or 500 for ever must not stop
//! the others. So a suspicion needs answers about several distinct documents with none that worked in between, and it is
//! only a reason to ask: what is true for all is found by a request that has nothing to do with the documents that failed
//! (see `check.rs`).
//!
//! Content and metadata are judged apart: Digital River's file store may be down while its API answers.

use std::time::{Duration, Instant};

use riverlock_schemas::FileId;

/// Distinct documents in a row that must be forbidden (403) before the key is suspected.
pub(crate) const FORBIDDEN_FILES_MIN: usize = 3;

/// Distinct documents in a row that must fail before an outage is suspected.
pub(crate) const FAILED_FILES_MIN: usize = 3;

/// Failures in a row, of whichever documents, before an outage is suspected.
pub(crate) const FAILURES_MIN: u32 = 10;

/// What of a file is asked for. What works for the content works for the metadata; not the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    /// `GET /files/{id}`
    Metadata,
    /// `GET /files/{id}/content`
    Content,
}

/// What an answer about one document says about the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Digital River answers, and takes the key.
    Works,
    /// 401: this should be the key, and may be the file.
    Unauthorized,
    /// 403: this should be the file, and may be the key.
    Forbidden,
    /// Digital River did not answer, or answered that it is in trouble.
    Failed,
}

/// What may be wrong for all documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// The key is refused.
    Key,
    /// Digital River is down.
    Outage,
    /// There are too many requests; nothing is wanted for this long.
    Limit(Duration),
}

/// What the answers so far say about the account.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    metadata: Streak,
    content: Streak,
}

/// Bad answers since the last good one.
#[derive(Debug, Default)]
struct Streak {
    /// Distinct documents that were forbidden; not more than are needed.
    forbidden: Vec<FileId>,
    /// Distinct documents that failed; not more than are needed.
    failed: Vec<FileId>,
    failures: u32,
    /// When the latest request was sent that worked.
    worked: Option<Instant>,
}

impl Evidence {
    /// Learns from the answer to a request that was sent at a time.
    pub(crate) fn learn(&mut self, endpoint: Endpoint, file_id: FileId, answer: Answer, sent: Instant) {
        match answer {
            Answer::Works => self.works(endpoint, sent),
            Answer::Unauthorized => {}
            Answer::Forbidden => note(&mut self.streak_mut(endpoint).forbidden, file_id, FORBIDDEN_FILES_MIN),
            Answer::Failed => {
                let streak = self.streak_mut(endpoint);
                streak.failures = streak.failures.saturating_add(1);
                note(&mut streak.failed, file_id, FAILED_FILES_MIN);
            }
        }
    }

    /// A request that was sent at a time worked.
    pub(crate) fn works(&mut self, endpoint: Endpoint, sent: Instant) {
        for of in [Endpoint::Metadata, Endpoint::Content].into_iter().filter(|of| *of <= endpoint) {
            let streak = self.streak_mut(of);
            *streak = Streak { worked: streak.worked.max(Some(sent)), ..Streak::default() };
        }
    }

    /// What the answer to a request that was sent at a time leads to suspect, given everything that is known by now.
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

    /// What the last of these answers about a file's content leads to suspect.
    fn suspicion(answers: impl IntoIterator<Item = (u128, Answer)>) -> Option<Suspicion> {
        let (mut evidence, mut sent, mut last) = (Evidence::default(), Instant::now(), None);
        for (number, answer) in answers {
            sent += Duration::from_secs(1);
            evidence.learn(CONTENT, file(number), answer, sent);
            last = evidence.suspicion(CONTENT, answer, sent);
        }
        last
    }

    #[test]
    fn one_document_that_is_forbidden_for_ever_says_nothing_about_the_key_and_several_do() {
        assert_eq!(suspicion((0..1_000).map(|_| (1, Answer::Forbidden))), None);
        assert_eq!(suspicion([(1, Answer::Forbidden), (2, Answer::Forbidden), (1, Answer::Forbidden)]), None);
        assert_eq!(suspicion((1..=3).map(|number| (number, Answer::Forbidden))), Some(Suspicion::Key));
    }

    #[test]
    fn a_document_that_works_in_between_clears_the_account() {
        let between = [(1, Answer::Forbidden), (2, Answer::Forbidden), (9, Answer::Works), (3, Answer::Forbidden)];
        assert_eq!(suspicion(between), None);
        let failures = (0..9).map(|number| (number, Answer::Failed));
        let again = failures.clone().chain([(20, Answer::Works)]).chain(failures);
        assert_eq!(suspicion(again), None);
    }

    #[test]
    fn an_outage_takes_several_failures_of_several_documents() {
        assert_eq!(suspicion((0..1_000).map(|number| (number % 2, Answer::Failed))), None);
        assert_eq!(suspicion((0..9).map(|number| (number, Answer::Failed))), None);
        assert_eq!(suspicion((0..10).map(|number| (number % 3, Answer::Failed))), Some(Suspicion::Outage));
    }

    #[test]
    fn a_401_suspects_the_key_at_once_unless_a_later_request_worked() {
        assert_eq!(suspicion([(1, Answer::Works), (2, Answer::Unauthorized)]), Some(Suspicion::Key));
        let (mut evidence, sent) = (Evidence::default(), Instant::now());
        evidence.works(CONTENT, sent + Duration::from_millis(1));
        assert_eq!(evidence.suspicion(CONTENT, Answer::Unauthorized, sent), None);
    }

    #[test]
    fn metadata_that_can_be_had_say_nothing_about_the_content() {
        let (mut evidence, sent) = (Evidence::default(), Instant::now());
        for number in 0..10 {
            evidence.learn(Endpoint::Metadata, file(number), Answer::Works, sent);
            evidence.learn(CONTENT, file(number), Answer::Failed, sent);
        }
        assert_eq!(evidence.suspicion(CONTENT, Answer::Failed, sent), Some(Suspicion::Outage));
        evidence.works(CONTENT, sent);
        assert_eq!(evidence.suspicion(CONTENT, Answer::Failed, sent), None);
    }
}
