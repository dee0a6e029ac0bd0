//! Folds orders from nothing: bodies in, facts out. No database.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_ledger::{
    Decision, Projection as _,
    reading::{positions::PositionReader, ranges::RangeError},
};
use riverlock_schemas::{hash::Sha256Hash, record::Position};

use super::{Refusal, store::AuditedRecord};
use crate::{
    Orders,
    domain::{Facts, OrderKey},
};

/// How often a page is read again when Kafka deletes records while they are read.
const ATTEMPTS_MAX: usize = 3;

/// An order, folded.
#[derive(Debug, Default)]
pub(super) struct RecomputedOrder {
    pub(super) facts: Facts,
    /// Records that were ignored when they came, and take part now.
    pub(super) newly_applied: Vec<AuditedRecord>,
    /// Why the order cannot be folded.
    pub(super) refusal: Option<Refusal>,
    /// Whether any record took part.
    is_known: bool,
}

impl RecomputedOrder {
    /// An order that is not folded.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    /// Whether today's code knows the order at all.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }
}

/// Folds orders from their records. Only facts are held, never more than one body.
pub(super) fn fold(
    reader: &mut PositionReader,
    orders: &Orders,
    audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RangeError> {
    let mut attempt = 1;
    loop {
        match fold_once(reader, orders, audited) {
            Err(RangeError::Gone { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            result => return result,
        }
    }
}

fn fold_once(
    reader: &mut PositionReader,
    orders: &Orders,
    audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RangeError> {
    let mut folded: BTreeMap<OrderKey, RecomputedOrder> = BTreeMap::new();
    let mut owners: BTreeMap<&Position, (&OrderKey, &AuditedRecord)> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for (key, records) in audited {
        let order = folded.entry(key.clone()).or_default();
        for record in records {
            if let Some(body) = &record.kept {
                take(order, orders, key, record, body);
            } else {
                owners.insert(&record.body_at, (key, record));
                wanted.insert(record.body_at.clone());
            }
        }
    }
    let gone = reader.read(wanted, |position, body| {
        let Some((key, record)) = owners.get(position) else { return };
        take(folded.entry((*key).clone()).or_default(), orders, key, record, body);
    })?;
    for position in gone {
        let Some((key, record)) = owners.get(&position) else { continue };
        // What was ignored and is gone cannot be asked again, and was never part of the order.
        if record.outcome != "ignored" {
            folded.entry((*key).clone()).or_default().refuse(Refusal::Gone(position));
        }
    }
    Ok(folded)
}

/// Lets one record take part, if it does with today's code.
fn take(order: &mut RecomputedOrder, orders: &Orders, key: &OrderKey, record: &AuditedRecord, body: &[u8]) {
    if Sha256Hash::of(body).as_bytes().as_slice() != record.body_sha256 {
        return order.refuse(Refusal::OtherBody(record.position.clone()));
    }
    let decision = match orders.read(body, record.received_at) {
        Ok(reading) => reading.decision,
        Err(error) => {
            return order.refuse(Refusal::NotApplied(record.position.clone(), format!("it is no event: {error}")));
        }
    };
    let not_applied = |why: String| Refusal::NotApplied(record.position.clone(), why);
    match decision {
        Decision::Apply(event) => {
            let (event_key, facts) = Facts::of(event, record.is_contradicted);
            if event_key != *key {
                return order.refuse(not_applied(format!("it would belong to order {}", event_key.order_id)));
            }
            order.facts.join(facts);
            order.is_known = true;
            if record.outcome == "ignored" {
                order.newly_applied.push(AuditedRecord { kept: None, ..record.clone() });
            }
        }
        // A second body of an event takes part only if it can.
        _ if record.outcome != "applied" => {}
        Decision::Ignore(reason) => order.refuse(not_applied(format!("it would be ignored ({reason})"))),
        Decision::Dead(dead) => {
            order.refuse(not_applied(format!("it would be dead ({}: {})", dead.reason, dead.detail)));
        }
    }
}
