//! Metrics of dead letters and conflicts.

use std::{convert::Infallible, time::Duration};

use metrics::gauge;
use riverlock_runtime::Context;

use super::{LetterState, view};
use riverlock_ledger::{Error, PostgresConfig, postgres::bounded};

use crate::metrics as names;

/// Time between two counts.
const INTERVAL: Duration = Duration::from_secs(15);
/// Wait after an error, which is usually a broken connection.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Time without a heartbeat after which the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// Updates the metrics until the shutdown. Errors are logged and retried; it never returns an error.
pub async fn run(postgres: PostgresConfig, context: Context) -> Result<(), Infallible> {
    names::describe_dead_letters();
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("dead-letters", STUCK_AFTER);
    let mut connection = None;
    while !soft.is_cancelled() {
        component.beat();
        let wait = match bounded(postgres.answer_limit(), show(&postgres, &mut connection)).await {
            Ok(()) => {
                component.ready();
                INTERVAL
            }
            Err(error) => {
                connection = None;
                component.not_ready(format!("cannot count dead letters: {error}"));
                RETRY_WAIT
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

pub(crate) async fn show(postgres: &PostgresConfig, kept: &mut Option<sqlx::PgConnection>) -> Result<(), Error> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(postgres.connect_as("dead-letters").await?),
    };
    let counts = view::counts(connection).await?;
    for state in LetterState::ALL {
        let count = counts.by_state.get(state.as_str()).copied().unwrap_or_default();
        gauge!(names::DEAD_LETTERS, "state" => state.as_str()).set(count as f64);
    }
    gauge!(names::DEAD_LETTERS_OLDEST).set(counts.oldest_open_seconds.unwrap_or_default());
    gauge!(names::CONFLICTS).set(counts.conflicts as f64);
    Ok(())
}
