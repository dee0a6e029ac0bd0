//! Finds out whether something is wrong for all documents: the key, Digital River, the rate.
//!
//! No verdict on all documents is drawn from the documents that failed. What is asked for instead is a file that could be
//! fetched before, and, where there is none or it is refused, a file id that nobody has: an account that works answers 404.

use std::time::{Duration, Instant};

use riverlock_schemas::FileId;
use uuid::Uuid;

use crate::{
    account::{
        Account, FileRequest, Key, Verdict,
        evidence::{Answer, Endpoint, Suspicion},
    },
    client::{address::Spelling, download::Client},
    problem::Problem,
};

/// How long a check may take in all. An attempt that checks must end well before its lease does.
const CHECK_TIME: Duration = Duration::from_secs(10);

impl Client {
    /// Finds out whether the suspicion is right that the answer to a request has raised, unless somebody else has.
    pub(crate) async fn check(&self, account: &Account, suspicion: Suspicion, asked: &FileRequest, problem: &Problem) {
        let Some(_turn) = account.begin_check(asked, problem).await else { return };
        let sent = Instant::now();
        let verdict = self.verdict(account, &asked.key, asked.endpoint).await;
        tracing::debug!(
            file.id = %asked.file_id,
            "file {} failed ({problem}); a request about another file: {verdict:?}", asked.file_id
        );
        account.conclude(Some(suspicion), verdict, asked.endpoint, &asked.key, sent);
    }

    /// Looks whether the trouble is over that has closed an account's gate.
    pub(crate) async fn probe(&self, account: &Account, endpoint: Endpoint) {
        let (key, sent) = (account.key(), Instant::now());
        let verdict = self.verdict(account, &key, endpoint).await;
        account.conclude(None, verdict, endpoint, &key, sent);
    }

    async fn verdict(&self, account: &Account, key: &Key, endpoint: Endpoint) -> Verdict {
        let (spelling, deadline) = (account.spelling(), Instant::now() + CHECK_TIME);
        if let Some(file_id) = account.good_file() {
            let verdict = self.ask_about(key, endpoint, (file_id, spelling), deadline).await;
            // A refusal may be about this file alone, if it is not what it was.
            if verdict != Verdict::Refused {
                return verdict;
            }
        }
        self.ask_about(key, endpoint, (FileId::from(Uuid::new_v4()), spelling), deadline).await
    }

    async fn ask_about(&self, key: &Key, endpoint: Endpoint, file: (FileId, Spelling), deadline: Instant) -> Verdict {
        match self.head_of(key, endpoint, file, deadline).await {
            Ok(_) => Verdict::Works,
            Err(Problem::Throttled { wait }) => Verdict::Throttled(wait),
            Err(problem) => match problem.answer() {
                Answer::Works => Verdict::Works,
                Answer::Unauthorized | Answer::Forbidden => Verdict::Refused,
                Answer::Failed => Verdict::Failed,
            },
        }
    }
}
