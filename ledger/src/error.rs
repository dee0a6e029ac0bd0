//! What can go wrong with the database, and what to do about it.

use sqlx::postgres::PgDatabaseError;

use crate::detail::{DeadReason, safe};

/// A transaction did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL refused, or could not be reached.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// Another transaction changed a row between our reading and our writing.
    #[error("lost a race for {0}")]
    LostRace(&'static str),
    /// A stored row means nothing to this version.
    #[error("row {id} of {table} cannot be understood: {reason}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database lacks what it once had: it was restored from a backup, or a failover lost commits.
    #[error("the offsets in PostgreSQL lie before what was stored already: the database went back")]
    WentBack,
    /// A newer version has changed the tables while this one ran: what it would write could be refused, and good events be
    /// taken for poison.
    #[error("a newer version has changed the tables ({0} migrations are unknown to this one)")]
    Newer(usize),
    /// PostgreSQL did not answer in time; the connection was given up.
    #[error("PostgreSQL did not answer within {0} s")]
    TimedOut(u64),
    /// PostgreSQL has ended the session, and the connection did not say so.
    #[error("PostgreSQL no longer has session {0}: the connection was cut")]
    SessionLost(i32),
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The same transaction may succeed later: wait and run it again.
    Retry,
    /// Something in the data is refused: find the record, set it aside, go on with the others.
    Isolate,
}

impl Error {
    /// What to do.
    ///
    /// Only what the *data* is to blame for may cost a record its effect: what PostgreSQL refuses (SQLSTATE class 22, data
    /// exception; class 23, integrity; 54, limits), and a stored row that cannot be read, which no waiting mends. Everything
    /// else, a missing table included, is the installation's and is waited for.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => match error.code().as_deref() {
                // 53xxx (resources) is not the data's fault, although 54xxx (limits) is.
                Some(code) if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Disposition::Isolate,
                _ => Disposition::Retry,
            },
            Self::Inconsistent { .. } => Disposition::Isolate,
            Self::Sql(_)
            | Self::LostRace(_)
            | Self::WentBack
            | Self::Newer(_)
            | Self::TimedOut(_)
            | Self::SessionLost(_) => Disposition::Retry,
        }
    }

    /// Whether the transaction did not come to its end in time, so that a smaller one may.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => error.code().as_deref() == Some("57014"),
            Self::TimedOut(_) => true,
            _ => false,
        }
    }

    /// What becomes of a record whose transaction fails with this for good.
    #[must_use]
    pub fn dead(&self) -> DeadReason {
        let reason = match self {
            // The stored row is at fault, not the record: refolding the order and redriving the letter mends it.
            Self::Inconsistent { .. } => "unreadable_row",
            _ => "database",
        };
        // Without values: PostgreSQL's own text repeats what it refuses.
        DeadReason { reason, detail: explain(self) }
    }

    /// A short, stable name, for labels.
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
            Self::WentBack => "went_back",
            Self::Newer(_) => "newer",
            Self::TimedOut(_) => "timeout",
        }
    }

    /// Whether the connection may be used again.
    #[must_use]
    pub fn leaves_connection_usable(&self) -> bool {
        match self {
            // 57Pxx: the server ends the connection, or itself.
            Self::Sql(sqlx::Error::Database(error)) => error.code().is_none_or(|code| !code.starts_with("57P")),
            Self::Sql(_) | Self::TimedOut(_) | Self::SessionLost(_) => false,
            Self::LostRace(_) | Self::Inconsistent { .. } | Self::WentBack | Self::Newer(_) => true,
        }
    }
}

/// Why the database refused a record, in its own terms and without values.
#[must_use]
pub fn explain(error: &Error) -> String {
    let Error::Sql(sqlx::Error::Database(refusal)) = error else { return safe(&error.to_string()) };
    let mut text = safe(refusal.message());
    let mut names = Vec::new();
    names.extend(refusal.code().map(|code| format!("SQLSTATE {code}")));
    names.extend(refusal.table().map(|table| format!("table {table}")));
    let column = refusal.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::column);
    names.extend(column.map(|column| format!("column {column}")));
    names.extend(refusal.constraint().map(|constraint| format!("constraint {constraint}")));
    if !names.is_empty() {
        text.push_str(&format!(" ({})", names.join(", ")));
    }
    text
}
