//! Counts and digests of what a replay would do, or did.

use std::collections::BTreeMap;

use riverlock_ledger::metrics::OUTCOMES;
use riverlock_schemas::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use crate::replay::model::{Effect, RecordedOutcome};

/// Counts of what a replay would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Selected records.
    pub records: u64,
    /// Records that have an outcome already and are skipped.
    pub known: u64,
    /// Records without an outcome, by the outcome they get.
    pub outcomes: BTreeMap<String, u64>,
    /// Orders that would change, including new ones.
    pub orders: u64,
    /// Messages that would be sent.
    pub effects: u64,
    /// Documents that would be queued.
    pub documents: u64,
}

impl Report {
    /// Number of records without an outcome.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        self.outcomes.values().sum()
    }

    pub(super) fn add(&mut self, records: usize, result: &ChunkResult) {
        self.records += records as u64;
        self.known += (records - result.outcomes.len()) as u64;
        for recorded in &result.outcomes {
            *self.outcomes.entry(recorded.outcome.clone()).or_default() += 1;
        }
    }
}

/// Formats outcomes with their counts, in a fixed order.
pub(super) fn outcomes_text(count: impl Fn(&str) -> u64) -> String {
    let texts: Vec<String> = OUTCOMES.iter().map(|outcome| format!("{outcome}={}", count(outcome))).collect();
    texts.join(" ")
}

/// A hash over items in their order, independent of how they are grouped.
pub(super) struct Chain(Sha256Hash);

impl Chain {
    pub(super) fn new(what: &str) -> Self {
        Self(Sha256Hash::of(what.as_bytes()))
    }

    fn add(&mut self, fields: &[&[u8]]) {
        let mut bytes = self.0.as_bytes().to_vec();
        for field in fields {
            // With its length, so that different lists of fields never have the same bytes.
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(*field);
        }
        self.0 = Sha256Hash::of(&bytes);
    }

    pub(super) fn add_outcome(&mut self, recorded: &RecordedOutcome) {
        let RecordedOutcome { topic, partition, offset, event_id, outcome, reason, body_sha256, order_id: _ } =
            recorded;
        self.add(&[
            topic.as_bytes(),
            &partition.to_be_bytes(),
            &offset.to_be_bytes(),
            event_id.as_bytes(),
            outcome.as_bytes(),
            reason.as_deref().unwrap_or_default().as_bytes(),
            body_sha256,
        ]);
    }

    pub(super) fn add_effect(&mut self, effect: &Effect) {
        let live_mode = [u8::from(effect.live_mode)];
        self.add(&[effect.order_id.as_bytes(), &live_mode, effect.kind.as_bytes(), effect.effect_key.as_bytes()]);
    }

    pub(super) fn add_hash(&mut self, hash: Sha256Hash) {
        self.add(&[hash.as_bytes()]);
    }

    pub(super) fn end(self) -> Sha256Hash {
        self.0
    }
}

/// Outcomes and messages of a chunk.
#[derive(Debug, Default)]
pub(crate) struct ChunkResult {
    /// Sorted by topic, partition and offset.
    pub(crate) outcomes: Vec<RecordedOutcome>,
    /// Sorted.
    pub(crate) effects: Vec<Effect>,
}

impl ChunkResult {
    /// Digest of all outcomes and messages; `None` if there are none.
    pub(crate) fn digest(&self) -> Option<Sha256Hash> {
        if self.outcomes.is_empty() && self.effects.is_empty() {
            return None;
        }
        let mut chain = Chain::new("chunk");
        self.outcomes.iter().for_each(|recorded| chain.add_outcome(recorded));
        self.effects.iter().for_each(|effect| chain.add_effect(effect));
        Some(chain.end())
    }

    /// Counts of outcomes and messages, as text.
    pub(crate) fn summary(&self) -> String {
        let count = |outcome: &str| self.outcomes.iter().filter(|recorded| recorded.outcome == outcome).count() as u64;
        format!("{} messages={}", outcomes_text(count), self.effects.len())
    }
}
