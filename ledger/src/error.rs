//! Database errors, and how to handle them.

use sqlx::postgres::PgDatabaseError;

use crate::detail::{DeadReason, safe};

/// A transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL failed or is unavailable.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// Another transaction changed a row between reading and writing it.
    #[error("lost a race for {0}")]
    LostRace(&'static str),
    /// This version cannot interpret a stored row.
    #[error("row {id} of {table} cannot be interpreted: {reason}")]
    Inconsistent {
        /// Name of the table.
        table: &'static str,
        /// Key of the row.
        id: String,
        /// The problem.
        reason: String,
    },
    /// The database lacks data that it had confirmed: it was restored from a backup, or a failover lost commits.
    #[error("the offsets in PostgreSQL are before those that it had confirmed: the database regressed")]
    Regressed,
    /// A newer version has changed the tables while this one was running. What this version writes could be rejected,
    /// and valid events would become dead letters.
    #[error("a newer version has changed the tables ({0} migrations are unknown to this one)")]
    Newer(usize),
    /// PostgreSQL did not answer in time; the connection was dropped.
    #[error("PostgreSQL did not answer within {0} s")]
    TimedOut(u64),
    /// PostgreSQL has ended the session without closing the connection.
    #[error("PostgreSQL no longer has session {0}: the connection was cut")]
    SessionLost(i32),
}

/// How to handle an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The same transaction may succeed later: wait and retry it.
    Retry,
    /// The data of a record is rejected: find the record, store it as a dead letter, continue with the others.
    Isolate,
}

impl Error {
    /// How to handle the error.
    ///
    /// A record becomes a dead letter only if its *data* is the cause: PostgreSQL rejects it (SQLSTATE class 22, data
    /// exception; class 23, integrity; 54, limits), or a stored row cannot be interpreted, which retrying does not
    /// change. All other errors, even a missing table, are faults of the install and are retried.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => match error.code().as_deref() {
                // 53xxx (resources) is not caused by the data, although 54xxx (limits) is.
                Some(code) if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Disposition::Isolate,
                _ => Disposition::Retry,
            },
            Self::Inconsistent { .. } => Disposition::Isolate,
            Self::Sql(_)
            | Self::LostRace(_)
            | Self::Regressed
            | Self::Newer(_)
            | Self::TimedOut(_)
            | Self::SessionLost(_) => Disposition::Retry,
        }
    }

    /// Whether the transaction timed out, so that a smaller one may succeed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => error.code().as_deref() == Some("57014"),
            Self::TimedOut(_) => true,
            _ => false,
        }
    }

    /// The reason of the dead letter of a record whose transaction fails permanently with this error.
    #[must_use]
    pub fn dead(&self) -> DeadReason {
        let reason = match self {
            // The stored row is at fault, not the record: refold the order, then redrive the dead letter.
            Self::Inconsistent { .. } => "unreadable_row",
            _ => "database",
        };
        // PostgreSQL's own text would contain the rejected values.
        DeadReason { reason, detail: explain(self) }
    }

    /// A short, stable name for labels.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => match error.code().as_deref() {
                Some("40001") => "serialization",
                Some("40P01") => "deadlock",
                Some("55P03") => "lock_timeout",
                Some("57014") => "statement_timeout",
                _ => "refused",
            },
            Self::Sql(_) | Self::SessionLost(_) => "connection",
            Self::LostRace(_) => "lost_race",
            Self::Inconsistent { .. } => "inconsistent",
            Self::Regressed => "regressed",
            Self::Newer(_) => "newer",
            Self::TimedOut(_) => "timeout",
        }
    }

    /// Whether the connection can be used again.
    #[must_use]
    pub fn leaves_connection_usable(&self) -> bool {
        match self {
            // 57Pxx: the server is ending the connection or shutting down.
            Self::Sql(sqlx::Error::Database(error)) => error.code().is_none_or(|code| !code.starts_with("57P")),
            Self::Sql(_) | Self::TimedOut(_) | Self::SessionLost(_) => false,
            Self::LostRace(_) | Self::Inconsistent { .. } | Self::Regressed | Self::Newer(_) => true,
        }
    }
}

/// Returns why the database rejected a record, without values.
#[must_use]
pub fn explain(error: &Error) -> String {
    let Error::Sql(sqlx::Error::Database(rejection)) = error else { return safe(&error.to_string()) };
    let mut text = safe(rejection.message());
    let mut names = Vec::new();
    names.extend(rejection.code().map(|code| format!("SQLSTATE {code}")));
    names.extend(rejection.table().map(|table| format!("table {table}")));
    let column = rejection.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::column);
    names.extend(column.map(|column| format!("column {column}")));
    names.extend(rejection.constraint().map(|constraint| format!("constraint {constraint}")));
    if !names.is_empty() {
        text.push_str(&format!(" ({})", names.join(", ")));
    }
    text
}
