//! Recomputes orders from bodies. Does not use the database.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_ledger::{
    Decision, Projection as _,
    reading::{positions::PositionReader, ranges::RangeError},
};
use riverlock_schemas::{hash::Sha256Hash, kafka::record::Position};

use super::{Obstacle, store::AuditedRecord};
use crate::{
    Orders,
    domain::{Facts, OrderKey},
};

/// Attempts to read a page while Kafka deletes records of it.
const ATTEMPTS_MAX: usize = 3;

/// A recomputed order.
#[derive(Debug, Default)]
pub(super) struct RecomputedOrder {
    pub(super) facts: Facts,
    /// Records that were ignored when they arrived and contribute now.
    pub(super) newly_applied: Vec<AuditedRecord>,
    /// The reason why the order cannot be recomputed.
    pub(super) obstacle: Option<Obstacle>,
    /// Whether any record contributed.
    is_known: bool,
}

impl RecomputedOrder {
    /// An order that cannot be recomputed.
    pub(super) fn blocked(obstacle: Obstacle) -> Self {
        Self { obstacle: Some(obstacle), ..Self::default() }
    }

    fn block(&mut self, obstacle: Obstacle) {
        self.obstacle.get_or_insert(obstacle);
    }

    /// Whether any record contributes to the order with the current code.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }
}

/// Recomputes orders from their records. At most one body is in memory at a time.
pub(super) fn recompute(
    reader: &mut PositionReader,
    orders: &Orders,
    audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RangeError> {
    let mut attempt = 1;
    loop {
        match recompute_once(reader, orders, audited) {
            Err(RangeError::Gone { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            result => return result,
        }
    }
}

fn recompute_once(
    reader: &mut PositionReader,
    orders: &Orders,
    audited: &BTreeMap<OrderKey, Vec<AuditedRecord>>,
) -> Result<BTreeMap<OrderKey, RecomputedOrder>, RangeError> {
    let mut recomputed: BTreeMap<OrderKey, RecomputedOrder> = BTreeMap::new();
    let mut owners: BTreeMap<&Position, (&OrderKey, &AuditedRecord)> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for (key, records) in audited {
        let order = recomputed.entry(key.clone()).or_default();
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
        take(recomputed.entry((*key).clone()).or_default(), orders, key, record, body);
    })?;
    for position in gone {
        let Some((key, record)) = owners.get(&position) else { continue };
        // A deleted record that was ignored never contributed to the order.
        if record.outcome != "ignored" {
            recomputed.entry((*key).clone()).or_default().block(Obstacle::Gone(position));
        }
    }
    Ok(recomputed)
}

/// Applies one record if the current code applies it.
fn take(order: &mut RecomputedOrder, orders: &Orders, key: &OrderKey, record: &AuditedRecord, body: &[u8]) {
    if Sha256Hash::of(body).as_bytes().as_slice() != record.body_sha256 {
        return order.block(Obstacle::OtherBody(record.position.clone()));
    }
    let decision = match orders.read(body, record.received_at) {
        Ok(reading) => reading.decision,
        Err(error) => {
            return order.block(Obstacle::NotApplied(record.position.clone(), format!("it is not an event: {error}")));
        }
    };
    let not_applied = |why: String| Obstacle::NotApplied(record.position.clone(), why);
    match decision {
        Decision::Apply(event) => {
            let (event_key, facts) = Facts::of(event, record.is_contradicted);
            if event_key != *key {
                return order.block(not_applied(format!("it would belong to order {}", event_key.order_id)));
            }
            order.facts.join(facts);
            order.is_known = true;
            if record.outcome == "ignored" {
                order.newly_applied.push(AuditedRecord { kept: None, ..record.clone() });
            }
        }
        // A further body of an event contributes only if it can be applied.
        _ if record.outcome != "applied" => {}
        Decision::Ignore(reason) => order.block(not_applied(format!("it would be ignored ({reason})"))),
        Decision::Dead(dead) => {
            order.block(not_applied(format!("it would become a dead letter ({}: {})", dead.reason, dead.detail)));
        }
    }
}
