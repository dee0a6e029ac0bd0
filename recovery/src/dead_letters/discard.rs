//! Discards a dead letter. Its record keeps the outcome `dead`; the history records by whom and why it was discarded.

use sqlx::{Connection as _, PgConnection};

use super::{
    LetterPosition, LetterState, Request, Run, SkipReason,
    redrive::{Action, add_action, lock, set_state},
};
use riverlock_ledger::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
};

/// Discards one open dead letter, or returns why it was skipped.
///
/// # Errors
/// When PostgreSQL fails. Nothing is changed then.
pub async fn discard(
    connection: &mut PgConnection,
    position: &LetterPosition,
    request: &Request,
) -> Result<Result<(), SkipReason>, Error> {
    bounded(TRANSACTION_LIMIT, attempt(connection, position, request)).await
}

async fn attempt(
    connection: &mut PgConnection,
    position: &LetterPosition,
    request: &Request,
) -> Result<Result<(), SkipReason>, Error> {
    let mut transaction = connection.begin().await?;
    let Some(letter) = lock(&mut transaction, position).await? else { return Ok(Err(SkipReason::Unknown)) };
    if letter.state == LetterState::Redriven.as_str() {
        return Ok(Err(SkipReason::Redriven));
    }
    if letter.state == LetterState::Discarded.as_str() {
        return Ok(Err(SkipReason::Discarded));
    }
    set_state(&mut transaction, position, &letter, LetterState::Discarded).await?;
    let action =
        Action { action: "discard", outcome: letter.outcome.as_str(), reason: Some(&letter.reason), detail: None };
    add_action(&mut transaction, position, &letter, request, &action).await?;
    match request.run {
        Run::Dry => transaction.rollback().await?,
        Run::Apply => transaction.commit().await?,
    }
    Ok(Ok(()))
}
