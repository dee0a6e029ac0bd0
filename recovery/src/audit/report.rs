//! The audit's report.

use std::collections::BTreeMap;

use riverlock_ledger::metrics::OUTCOMES;
use serde::Serialize;

/// Mismatches that are listed; all are counted.
pub(crate) const FINDINGS_MAX: usize = 20;

/// Result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records in the raw topics that the consumers have read. Each was acknowledged.
    pub acknowledged: u64,
    /// Rows by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Records that the consumers have not reached yet.
    pub pending: u64,
    /// Rows whose records Kafka has deleted, before the audit or while it was reading.
    pub expired: u64,
    /// Rows of earlier Kafka clusters: stored, and not provable from the current cluster.
    pub earlier: u64,
    /// Number of mismatches. Zero means that nothing was lost and nothing was invented.
    pub wrong: u64,
    /// The first mismatches, at most 20.
    pub findings: Vec<String>,
    /// What cannot be proved any more, and why. These are not mismatches.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether the number of acknowledged records equals the sum of their outcomes, and no record has a mismatch.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.wrong == 0 && self.acknowledged == self.outcomes.values().sum::<u64>()
    }

    pub(crate) fn wrong(&mut self, count: u64, finding: impl FnOnce() -> String) {
        self.wrong += count;
        if count > 0 && self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding());
        }
    }

    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < FINDINGS_MAX {
            self.notes.push(note);
        }
    }

    /// Notes that Kafka deleted records before they could be proved.
    pub(crate) fn note_deleted(&mut self, name: &str, from: i64, to: i64) {
        self.note(format!("{name}@{from}..{to} was deleted by Kafka before it could be proved"));
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "audit: acknowledged={}", self.acknowledged)?;
        for outcome in OUTCOMES {
            write!(f, " {outcome}={}", self.outcomes.get(outcome).copied().unwrap_or_default())?;
        }
        if self.pending > 0 {
            write!(f, " pending={}", self.pending)?;
        }
        if self.expired > 0 {
            write!(f, " expired={}", self.expired)?;
        }
        if self.earlier > 0 {
            write!(f, " earlier={}", self.earlier)?;
        }
        write!(f, " {}", if self.balances() { "OK" } else { "FAILED" })
    }
}
