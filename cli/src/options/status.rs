//! The option that selects orders by their status.

use riverlock_processor::domain::Status;

/// A status by its name.
pub(crate) fn status(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| format!("expected one of {}", Status::ALL.map(Status::as_str).join(", ")))
}
