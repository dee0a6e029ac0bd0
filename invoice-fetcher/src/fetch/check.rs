//! Checks of an account: whether the key is rejected, Digital River is down, or the rate limit is reached for all documents.
//!
//! The documents that failed prove nothing about the account. Instead, a check requests a file that was downloaded before and,
//! if there is none or it is rejected, a random file id, for which a working account answers 404.

use std::time::{Duration, Instant};

use riverlock_schemas::FileId;
use uuid::Uuid;

use crate::{
    account::{
        Account, FileRequest, Key, Verdict,
        evidence::{Answer, Endpoint, Suspicion},
        spelling::Spelling,
    },
    client::download::Client,
    problem::Problem,
};

/// Time limit of a check. An attempt with a check must end well before its lease.
const CHECK_TIME: Duration = Duration::from_secs(10);

impl Client {
    /// Checks a suspicion that the response to a request raised, unless another worker has checked it already.
    pub(crate) async fn check(
        &self,
        account: &Account,
        suspicion: Suspicion,
        request: &FileRequest,
        problem: &Problem,
    ) {
        let Some(_turn) = account.begin_check(request, problem).await else { return };
        let sent = Instant::now();
        let verdict = self.verdict(account, &request.key, request.endpoint).await;
        tracing::debug!(
            file.id = %request.file_id,
            "file {} failed ({problem}); request for another file: {verdict:?}", request.file_id
        );
        account.conclude(Some(suspicion), verdict, request.endpoint, &request.key, sent);
    }

    /// Checks whether the reason for an account's pause is over.
    pub(crate) async fn probe(&self, account: &Account, endpoint: Endpoint) {
        let (key, sent) = (account.key(), Instant::now());
        let verdict = self.verdict(account, &key, endpoint).await;
        account.conclude(None, verdict, endpoint, &key, sent);
    }

    async fn verdict(&self, account: &Account, key: &Key, endpoint: Endpoint) -> Verdict {
        let (spelling, deadline) = (account.spelling(), Instant::now() + CHECK_TIME);
        if let Some(file_id) = account.good_file() {
            let verdict = self.request_other(key, endpoint, (file_id, spelling), deadline).await;
            // This file alone may be rejected now, although it was downloaded before.
            if verdict != Verdict::Rejected {
                return verdict;
            }
        }
        self.request_other(key, endpoint, (FileId::from(Uuid::new_v4()), spelling), deadline).await
    }

    async fn request_other(
        &self,
        key: &Key,
        endpoint: Endpoint,
        file: (FileId, Spelling),
        deadline: Instant,
    ) -> Verdict {
        match self.response_head(key, endpoint, file, deadline).await {
            Ok(_) => Verdict::Works,
            Err(Problem::Throttled { wait }) => Verdict::Throttled(wait),
            Err(problem) => match problem.answer() {
                Answer::Works => Verdict::Works,
                Answer::Unauthorized | Answer::Forbidden => Verdict::Rejected,
                Answer::Failed => Verdict::Failed,
            },
        }
    }
}
