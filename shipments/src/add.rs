//! Stores shipments as reports.

use chrono::{DateTime, Utc};
use riverlock_schemas::hash::Sha256Hash;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{
    check::{RuleViolation, check},
    store,
};

pub use crate::report::NewReport;
pub use crate::report::Source;

/// Longest idempotency key, in characters.
pub const KEY_CHARS_MAX: usize = 200;

/// Longest text of the tracking data, in characters.
pub const TEXT_CHARS_MAX: usize = 500;

/// A stored shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReport {
    /// Id of its report.
    pub report_id: Uuid,
    /// Whether it had been stored before with the same key.
    pub repeated: bool,
}

/// Why a shipment is not stored.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It does not match the order's facts.
    #[error(transparent)]
    Refused(#[from] RuleViolation),
    /// The key is empty, too long, or has characters that are not visible ASCII.
    #[error("the idempotency key must be 1 to {KEY_CHARS_MAX} visible ASCII characters")]
    Key,
    /// The key was used for another shipment of this order.
    #[error("the idempotency key was used for another shipment of this order: report {0}")]
    KeyReused(Uuid),
    /// A text of the tracking data is too long or has control characters.
    #[error("{0} must be at most {TEXT_CHARS_MAX} characters without control characters")]
    Text(&'static str),
    /// The tracking URL is neither an HTTPS nor an HTTP URL.
    #[error("tracking_url must begin with https:// or http://")]
    Url,
    /// PostgreSQL failed.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
}

impl AddError {
    /// A stable name of the problem, as the order API names it. Empty if PostgreSQL failed.
    #[must_use]
    pub fn code_name(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::KeyReused(_) => "idempotency_key_reused",
            Self::Key | Self::Text(_) | Self::Url => "invalid_request",
            Self::Sql(_) => "",
        }
    }
}

/// Stores a shipment, after checking it against its order's facts.
///
/// # Errors
/// When it does not match the order, a text is invalid, or its key was used for another shipment.
pub async fn add(connection: &mut PgConnection, new: &NewReport, now: DateTime<Utc>) -> Result<StoredReport, AddError> {
    check_texts(new)?;
    let content = content(new);
    let mut transaction = connection.begin().await?;
    // Shipments of one order are stored one after the other, so that in total they never exceed the open quantity.
    store::lock_order(&mut transaction, &new.order_id, new.mode).await?;
    if let Some((report_id, stored)) = store::by_key(&mut transaction, new).await? {
        transaction.rollback().await?;
        return match stored == content.as_bytes() {
            true => Ok(StoredReport { report_id, repeated: true }),
            false => Err(AddError::KeyReused(report_id)),
        };
    }
    let known = store::known(&mut transaction, &new.order_id, new.mode).await?;
    let known = known.ok_or_else(|| RuleViolation::UnknownOrder(new.order_id.clone()))?;
    check(&known, &new.lines)?;
    let report_id = Uuid::now_v7();
    store::insert(&mut transaction, report_id, new, content.as_bytes(), now).await?;
    transaction.commit().await?;
    Ok(StoredReport { report_id, repeated: false })
}

fn check_texts(new: &NewReport) -> Result<(), AddError> {
    let key = &new.idempotency_key;
    if !(1..=KEY_CHARS_MAX).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AddError::Key);
    }
    for (name, text) in [
        ("tracking_company", &new.tracking_company),
        ("tracking_number", &new.tracking_number),
        ("tracking_url", &new.tracking_url),
    ] {
        let Some(text) = text else { continue };
        if text.is_empty() || text.chars().count() > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
            return Err(AddError::Text(name));
        }
    }
    match &new.tracking_url {
        Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => Err(AddError::Url),
        _ => Ok(()),
    }
}

/// Hashes everything that is sent to Digital River, independent of the order of the lines.
fn content(new: &NewReport) -> Sha256Hash {
    let mut lines: Vec<_> = new.lines.iter().map(|line| (&line.line_id, line.quantity, line.cancel_quantity)).collect();
    lines.sort();
    let content = serde_json::json!([lines, new.tracking_company, new.tracking_number, new.tracking_url]);
    Sha256Hash::of(content.to_string().as_bytes())
}
