//! The laws of the fold: every order, duplication and batching of the same events ends in the same facts, status and
//! effects, and what is over stays over.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use riverlock_schemas::{
    EventId, LineId, Mode, OrderId,
    order_event::{LineDetails, LineSnapshot, OrderDetails, OrderEvent, OrderSnapshot},
    order_state::{LineState, OrderState},
};

use super::{
    Facts, OrderKey, Status,
    effects::{Effect, effects},
};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// An event of an order that has reached `states` by `minute`. With `listed` the snapshot lists them with their times, as
/// Digital River does; without, only the last one is named, as in older payloads.
fn event(id: usize, event_type: &str, states: &[(OrderState, i64)], minute: i64, listed: bool) -> OrderEvent {
    let line = |line_id: &str, quantity| LineSnapshot {
        line_id: LineId::parse(line_id).unwrap(),
        transitions: vec![(LineState::Created, at(0)), (LineState::Fulfilled, at(minute))],
        details: LineDetails {
            sku_id: Some(format!("sku of {id}")),
            quantity: Some(quantity),
            ..LineDetails::default()
        },
    };
    OrderEvent {
        event_id: EventId::parse(format!("event-{id}")).unwrap(),
        event_type: event_type.to_owned(),
        created_time: Some(at(minute)),
        as_of: at(minute),
        order_id: OrderId::parse("order").unwrap(),
        mode: Mode::Test,
        order: OrderSnapshot {
            updated_time: Some(at(minute)),
            state: states.last().map(|(state, _)| *state),
            transitions: if listed { states.iter().map(|(s, m)| (*s, at(*m))).collect() } else { Vec::new() },
            unknown_states: BTreeSet::new(),
            details: OrderDetails { currency: Some(format!("C{id}")), ..OrderDetails::default() },
            lines: vec![line("line-1", i64::from(u8::try_from(id).unwrap())), line(&format!("line-{id}"), 1)],
        },
    }
}

/// The events of a life that goes wrong in every way: reviewed, accepted, fulfilled, complete, cancelled and blocked.
fn life() -> Vec<OrderEvent> {
    use OrderState::{Accepted, Blocked, Cancelled, Complete, Fulfilled, InReview, PendingPayment};
    let reached = [
        (PendingPayment, 1),
        (InReview, 2),
        (Accepted, 3),
        (Fulfilled, 4),
        (Complete, 5),
        (Cancelled, 6),
        (Blocked, 7),
    ];
    vec![
        event(0, "order.pending_payment", &reached[..1], 1, true),
        event(1, "order.review_opened", &reached[..2], 2, true),
        event(2, "order.accepted", &reached[..3], 3, false),
        event(3, "order.fulfilled", &reached[..4], 4, true),
        event(4, "order.complete", &reached[..5], 5, true),
        event(5, "order.cancelled", &reached[5..6], 6, true),
        event(6, "order.blocked", &reached[6..7], 7, false),
    ]
}

/// Folds events one at a time; collects the effects as they fire, and checks on the way what must hold at every step.
fn fold<'a>(events: impl IntoIterator<Item = &'a OrderEvent>) -> (Facts, Vec<Effect>) {
    let (mut facts, mut fired) = (Facts::default(), Vec::new());
    for event in events {
        let (before, status) = (effects(&facts), facts.status());
        facts.join(Facts::of(event.clone(), false).1);
        assert!(!status.is_terminal() || facts.status().is_terminal(), "{status} was left for {}", facts.status());
        let after = effects(&facts);
        assert!(after.is_superset(&before), "an effect was taken back");
        fired.extend(after.difference(&before));
    }
    (facts, fired)
}

fn sorted(mut effects: Vec<Effect>) -> Vec<Effect> {
    effects.sort();
    effects
}

/// Calls `visit` with every ordering of `items`.
fn permutations<T: Clone>(items: &mut Vec<T>, from: usize, visit: &mut impl FnMut(&[T])) {
    if from == items.len() {
        return visit(items);
    }
    for i in from..items.len() {
        items.swap(from, i);
        permutations(items, from + 1, visit);
        items.swap(from, i);
    }
}

#[test]
fn every_subset_of_up_to_six_events_in_every_order_with_duplicates_ends_the_same() {
    let life = life();
    let mut folds = 0_u32;
    for subset in 1_u32..(1 << life.len()) {
        if subset.count_ones() > 6 {
            continue;
        }
        let mut chosen: Vec<OrderEvent> =
            life.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0).map(|(_, event)| event.clone()).collect();
        let (facts, fired) = fold(&chosen);
        let (status, fired) = (facts.status(), sorted(fired));
        permutations(&mut chosen, 0, &mut |events| {
            let plain = fold(events);
            // Each event again at once, and the whole history again at the end.
            let twice = fold(events.iter().flat_map(|event| [event, event]).chain(events));
            for (found, found_fired) in [plain, twice] {
                assert_eq!(found, facts);
                assert_eq!(found.status(), status);
                assert_eq!(sorted(found_fired), fired, "an effect fired twice or not at all");
                folds += 1;
            }
        });
    }
    assert!(folds > 15_000, "{folds} folds were tried");
}

#[test]
fn the_status_is_that_of_the_history() {
    let life = life();
    let status = |range: &[usize]| fold(range.iter().map(|i| &life[*i])).0.status();
    assert_eq!(status(&[]), Status::OnHold);
    assert_eq!(status(&[0, 1]), Status::OnHold);
    assert_eq!(status(&[0, 1, 2]), Status::Ready);
    assert_eq!(status(&[3]), Status::Fulfilled);
    assert_eq!(status(&[4]), Status::Complete, "complete before accepted is complete");
    assert_eq!(status(&[4, 0]), Status::Complete, "a late event reopens nothing");
    assert_eq!(status(&[2, 5]), Status::Cancelled);
    assert_eq!(status(&[2, 6]), Status::Blocked);
    assert_eq!(status(&[4, 5]), Status::Cancelled, "of complete and cancelled the later counts");
}

#[test]
fn a_complete_order_tells_when_it_was_accepted_although_that_event_never_came() {
    let (facts, fired) = fold([&life()[4]]);
    assert_eq!(facts.reached(OrderState::Accepted), Some(at(3)));
    assert_eq!(sorted(fired), [Effect::Request, Effect::Complete]);
}

#[test]
fn facts_that_do_not_go_together_are_an_anomaly() {
    use super::Anomaly;
    let life = life();
    assert_eq!(fold([&life[4], &life[5]]).0.anomalies(), [Anomaly::CompleteAndEnded]);
    assert!(fold([&life[2], &life[5]]).0.anomalies().is_empty());
    assert_eq!(Facts::of(life[2].clone(), true).1.anomalies(), [Anomaly::Conflict]);
}

#[test]
fn test_and_live_data_have_different_keys() {
    let mut live = life()[2].clone();
    live.mode = Mode::Live;
    let keys: BTreeSet<OrderKey> = [Facts::of(live, false).0, Facts::of(life()[2].clone(), false).0].into();
    assert_eq!(keys.len(), 2);
}

prop_compose! {
    /// Any event at all: any states at any times, listed or not, two bodies under one id included.
    fn any_event()(
        id in 0_usize..12,
        event_type in prop::sample::select(riverlock_schemas::event_type::ORDER_SNAPSHOTS.to_vec()),
        states in prop::collection::vec((prop::sample::select(OrderState::ALL.to_vec()), 0_i64..50), 0..5),
        minute in 0_i64..50,
        listed: bool,
    ) -> OrderEvent {
        event(id, event_type, &states, minute, listed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_long_history_ends_the_same_in_any_order_and_any_batching(
        (history, shuffled) in prop::collection::vec(any_event(), 1..40)
            .prop_flat_map(|history| (Just(history.clone()), Just(history).prop_shuffle())),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let (facts, fired) = fold(&history);
        let again = shuffled.iter().chain(repeated.iter().map(|index| index.get(&history)));
        let (found, found_fired) = fold(again);
        prop_assert_eq!(&found, &facts);
        prop_assert_eq!(sorted(found_fired), sorted(fired));

        // In two batches, each joined on its own first.
        let (left, right) = shuffled.split_at(cut.index(shuffled.len()));
        let (mut left, right) = (fold(left).0, fold(right).0);
        left.join(right);
        prop_assert_eq!(left, facts);
    }
}
