//! The laws for bodies with the same event id that are about several orders or contradict each other.
//!
//! Contents decide whether bodies contradict each other; the ledger compares every pair and marks the orders of both
//! (`riverlock_ledger::spellings`). [`Model::take`] is the same rule on facts only.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use riverlock_schemas::{
    EventId, Mode, OrderId,
    events::{
        content::Content,
        event_type::{ORDER_ACCEPTED, ORDER_COMPLETE},
        order_event::OrderEvent,
        order_state::OrderState,
    },
};

use super::{any_event, event, permutations};
use crate::domain::{
    Facts, OrderKey,
    effects::{Effect, effects},
};

/// All orders, all received bodies, and the effects in the order in which they occurred.
#[derive(Clone, Debug, Default)]
struct Model {
    orders: BTreeMap<OrderKey, Facts>,
    bodies: Vec<(EventId, Content, OrderKey)>,
    fired: Vec<(OrderKey, Effect)>,
}

fn content(event: &OrderEvent) -> Content {
    let mut content = Content::of_parts(&event.event_type, Some(event.mode), Some(event.order_id.as_str()));
    content.add_order_event(event);
    content
}

impl Model {
    fn take(&mut self, event: &OrderEvent) {
        let (content, key) = (content(event), OrderKey::of(event));
        let contradicted: Vec<OrderKey> = self
            .bodies
            .iter()
            .filter(|(id, other, _)| *id == event.event_id && other.contradicts(&content).is_some())
            .map(|(_, _, key)| key.clone())
            .collect();
        let news = Facts::of(event.clone(), !contradicted.is_empty()).1;
        self.join(&key, news);
        for other in contradicted {
            self.join(&other, Facts { conflicted: true, ..Facts::default() });
        }
        self.bodies.push((event.event_id.clone(), content, key));
    }

    fn join(&mut self, key: &OrderKey, news: Facts) {
        let facts = self.orders.entry(key.clone()).or_default();
        let known = effects(facts);
        facts.join(news);
        let fired = effects(facts);
        self.fired.extend(fired.difference(&known).map(|effect| (key.clone(), effect.clone())));
    }

    fn of<'a>(events: impl IntoIterator<Item = &'a OrderEvent>) -> Self {
        let mut model = Self::default();
        events.into_iter().for_each(|event| model.take(event));
        model
    }

    /// The result that must not depend on the order of the bodies: the orders and the effects with their numbers.
    fn outcome(mut self) -> (BTreeMap<OrderKey, Facts>, Vec<(OrderKey, Effect)>) {
        self.fired.sort();
        (self.orders, self.fired)
    }
}

fn moved(mut event: OrderEvent, id: usize, order: &str, mode: Mode) -> OrderEvent {
    event.event_id = EventId::parse(format!("event-{id}")).unwrap();
    (event.order_id, event.mode) = (OrderId::parse(order).unwrap(), mode);
    event
}

#[test]
fn a_conflict_marks_both_orders_and_no_other_in_every_permutation() {
    let accepted = event(1, ORDER_ACCEPTED, &[(OrderState::Accepted, 3)], 3, true);
    let complete = event(2, ORDER_COMPLETE, &[(OrderState::Accepted, 3), (OrderState::Complete, 9)], 9, true);
    let mut bodies = vec![
        moved(accepted.clone(), 1, "a", Mode::Test),
        moved(accepted.clone(), 1, "b", Mode::Test),
        moved(accepted.clone(), 1, "a", Mode::Live),
        moved(complete.clone(), 2, "a", Mode::Test),
        moved(complete, 3, "c", Mode::Test),
        moved(accepted, 4, "c", Mode::Test),
    ];
    let expected = Model::of(&bodies).outcome();
    let marked: BTreeSet<(&str, Mode)> = expected
        .0
        .iter()
        .filter(|(_, facts)| facts.conflicted)
        .map(|(key, _)| (key.order_id.as_str(), key.mode))
        .collect();
    assert_eq!(marked, BTreeSet::from([("a", Mode::Test), ("b", Mode::Test), ("a", Mode::Live)]));
    permutations(&mut bodies, 0, &mut |bodies| {
        assert_eq!(Model::of(bodies).outcome(), expected);
        let twice = Model::of(bodies.iter().chain(bodies)).outcome();
        assert_eq!(twice, expected, "the same bodies again");
    });
}

/// Any event, with one of a few ids and orders, in either mode.
fn any_body() -> impl Strategy<Value = OrderEvent> {
    let order = prop::sample::select(vec!["a", "a", "a", "b"]);
    (any_event(), 0_usize..6, order, prop::bool::weighted(0.2))
        .prop_map(|(event, id, order, is_live)| moved(event, id, order, Mode::from_live(is_live)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bodies_give_the_same_result_in_any_order(
        (bodies, shuffled) in prop::collection::vec(any_body(), 1..25)
            .prop_flat_map(|bodies| (Just(bodies.clone()), Just(bodies).prop_shuffle())),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let expected = Model::of(&bodies).outcome();
        let again = shuffled.iter().chain(repeated.iter().map(|index| index.get(&bodies)));
        let found = Model::of(again).outcome();
        prop_assert_eq!(&found, &expected);
        let all: BTreeSet<_> = found.1.iter().cloned().collect();
        prop_assert_eq!(all.len(), found.1.len(), "an effect occurred twice");
        // Exactly the orders with contradicting bodies are marked.
        for (key, facts) in &found.0 {
            let contradicts = |one: &&OrderEvent| {
                let of_other = |other: &OrderEvent| {
                    one.event_id == other.event_id && content(one).contradicts(&content(other)).is_some()
                };
                OrderKey::of(one) == *key && bodies.iter().any(of_other)
            };
            prop_assert_eq!(facts.conflicted, bodies.iter().any(|body| contradicts(&body)), "{:?}", key);
        }
    }
}
