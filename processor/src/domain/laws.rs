//! Tests of the laws: the same events produce the same facts, status and effects in every order, duplication and batching, and
//! a terminal status stays terminal.

mod several;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use riverlock_schemas::{
    EventId, FulfillmentId, LineId, Mode, OrderId,
    events::{
        charge_event::{Operation, OperationDetails, OperationKey, OperationKind, OperationState},
        event_type::{FULFILLMENT_CREATED, ORDER_CHARGEBACK, ORDER_DISPUTE_RESOLVED, ORDER_SNAPSHOTS},
        fulfillment_event::{Fulfillment, ReportedQuantities, Tracking},
        order_event::{LineDetails, LineSnapshot, OrderDetails, OrderEvent, OrderSnapshot},
        order_state::{LineState, OrderState},
    },
    oddity::Oddities,
};

use super::{
    EfnStatus, Facts, OrderKey, Status,
    effects::{Effect, effects},
};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// An event of an order that has reached `states` by `minute`. If `listed`, the snapshot lists them with their times, as
/// Digital River does; otherwise only the last one is named, as in older payloads.
fn event(id: usize, event_type: &str, states: &[(OrderState, i64)], minute: i64, listed: bool) -> OrderEvent {
    let line = |line_id: &str, quantity| LineSnapshot {
        line_id: LineId::parse(line_id).unwrap(),
        transitions: vec![(LineState::Created, Some(at(0))), (LineState::Fulfilled, Some(at(minute)))],
        details: LineDetails {
            sku_id: Some(format!("sku of {id}")),
            quantity: Some(quantity),
            ..LineDetails::default()
        },
    };
    let order = OrderSnapshot {
        updated_time: Some(at(minute)),
        state: states.last().map(|(state, _)| *state),
        transitions: if listed { states.iter().map(|(s, m)| (*s, Some(at(*m)))).collect() } else { Vec::new() },
        unknown_states: BTreeSet::new(),
        details: OrderDetails { currency: Some(format!("C{id}")), ..OrderDetails::default() },
        lines: vec![line("line-1", i64::from(u8::try_from(id).unwrap())), line(&format!("line-{id}"), 1)],
    };
    OrderEvent { order: Some(order), ..bare(id, event_type, minute) }
}

/// An event without payload.
fn bare(id: usize, event_type: &str, minute: i64) -> OrderEvent {
    OrderEvent {
        event_id: EventId::parse(format!("event-{id}")).unwrap(),
        event_type: event_type.to_owned(),
        created_time: Some(at(minute)),
        as_of: at(minute),
        order_id: OrderId::parse("order").unwrap(),
        mode: Mode::Test,
        order: None,
        operations: Vec::new(),
        fulfillment: None,
        oddities: Oddities::default(),
    }
}

/// An event with the state of one operation of a charge.
fn charge(
    id: usize,
    event_type: &str,
    operation: (OperationKind, usize),
    state: OperationState,
    minute: i64,
) -> OrderEvent {
    let (kind, number) = operation;
    let key = OperationKey {
        kind,
        charge_id: "charge".to_owned(),
        operation_id: if kind == OperationKind::Charge { String::new() } else { format!("{kind}-{number}") },
    };
    let details = OperationDetails {
        amount: Some((i64::try_from(id).unwrap() % 3).into()),
        fulfillment_id: id.is_multiple_of(2).then(|| format!("ful-{id}")),
        ..OperationDetails::default()
    };
    let operations = vec![Operation { key, reached: Some((state, at(minute))), details }];
    OrderEvent { operations, ..bare(id, event_type, minute) }
}

/// A fulfillment event: some units of two lines were shipped and some will not be.
fn report(id: usize, fulfillment: usize, units: (i64, i64), minute: i64) -> OrderEvent {
    let line =
        |name: String| (LineId::parse(name).unwrap(), ReportedQuantities { fulfilled: units.0, cancelled: units.1 });
    let fulfillment = Fulfillment {
        fulfillment_id: FulfillmentId::parse(format!("ful-{fulfillment}")).unwrap(),
        created_time: id.is_multiple_of(2).then(|| at(minute)),
        tracking: Tracking { number: Some(format!("T{id}")), ..Tracking::default() },
        lines: BTreeMap::from([line("line-1".to_owned()), line(format!("line-{fulfillment}"))]),
    };
    OrderEvent { fulfillment: Some(fulfillment), ..bare(id, FULFILLMENT_CREATED, minute) }
}

/// The events of an order that reaches contradicting states: reviewed, accepted, fulfilled, complete, cancelled and blocked.
fn lifecycle() -> Vec<OrderEvent> {
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

/// A realistic order with problems: the first charge fails, another succeeds, two events contain the same fulfillment, a
/// capture fails and the next succeeds, and finally there are a dispute and a chargeback.
fn problematic() -> Vec<OrderEvent> {
    use OperationKind::{Capture, Charge, Reauthorization, Refund};
    use OperationState::{Complete, Failed, Pending};
    let reached =
        [(OrderState::Accepted, 3), (OrderState::Fulfilled, 8), (OrderState::Complete, 9), (OrderState::Dispute, 11)];
    vec![
        charge(0, "order.charge.failed", (Charge, 0), Failed, 2),
        event(1, "order.accepted", &reached[..1], 3, true),
        report(2, 1, (1, 0), 4),
        report(3, 1, (1, 0), 5),
        charge(4, "order.charge.capture.pending", (Capture, 1), Pending, 5),
        charge(5, "order.charge.capture.failed", (Capture, 1), Failed, 6),
        charge(6, "order.charge.reauth.failed", (Reauthorization, 1), Failed, 6),
        charge(7, "order.charge.capture.complete", (Capture, 2), Complete, 7),
        event(8, "order.complete", &reached[..3], 9, true),
        charge(9, "order.charge.failed", (Charge, 0), Failed, 10),
        event(10, "order.dispute", &reached, 11, false),
        bare(11, ORDER_DISPUTE_RESOLVED, 12),
        bare(12, ORDER_CHARGEBACK, 13),
        charge(13, "order.charge.refund.complete", (Refund, 1), Complete, 14),
    ]
}

/// Checks what must hold whenever an order's facts grow.
fn check_step(before: &Facts, after: &Facts) {
    let (was, is) = (before.status(), after.status());
    assert!(was.may_become(is), "{was} changed to {is}");
    assert!(!was.is_terminal() || is.is_terminal() || is == Status::Disputed, "{was} changed to {is}");
    let fired = effects(after);
    assert!(fired.is_superset(&effects(before)), "an effect disappeared");
    assert!(!fired.contains(&Effect::Request) || !after.lines.is_empty(), "fulfillment was requested without lines");
    assert!(
        !fired.contains(&Effect::Halt) || fired.contains(&Effect::Request),
        "fulfillment was halted without a request"
    );
}

/// Applies events one at a time, checks each step, and returns the facts and the effects in the order in which they occurred.
fn facts_of<'a>(events: impl IntoIterator<Item = &'a OrderEvent>) -> (Facts, Vec<Effect>) {
    let (mut facts, mut fired) = (Facts::default(), Vec::new());
    for event in events {
        let before = facts.clone();
        facts.join(Facts::of(event.clone(), false).1);
        check_step(&before, &facts);
        fired.extend(effects(&facts).difference(&effects(&before)).cloned());
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
fn every_permutation_of_up_to_six_events_with_duplicates_gives_the_same_result() {
    let problematic = problematic();
    let problematic = [0, 1, 3, 5, 8, 9, 12].map(|i| problematic[i].clone()).to_vec();
    let mut sequences = 0_u32;
    for events in [lifecycle(), problematic] {
        for subset in 1_u32..(1 << events.len()) {
            if subset.count_ones() > 6 {
                continue;
            }
            let chosen = events.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0);
            let mut chosen: Vec<OrderEvent> = chosen.map(|(_, event)| event.clone()).collect();
            let (facts, fired) = facts_of(&chosen);
            let (status, fired) = (facts.status(), sorted(fired));
            permutations(&mut chosen, 0, &mut |events| {
                let plain = facts_of(events);
                // Each event twice in a row, and the whole history again at the end.
                let twice = facts_of(events.iter().flat_map(|event| [event, event]).chain(events));
                for (found, found_fired) in [plain, twice] {
                    assert_eq!(found, facts);
                    assert_eq!(found.status(), status);
                    assert_eq!(sorted(found_fired), fired, "an effect occurred twice or not at all");
                    sequences += 1;
                }
            });
        }
    }
    assert!(sequences > 30_000, "{sequences} sequences were tried");
}

/// Every permutation of every subset is a path through the lattice of subsets. If every step ends in the facts of the subset
/// that it leads to, so does every path, and a repetition is a step that stays at its subset. This covers all 14! permutations
/// of all events.
#[test]
fn every_path_through_the_subsets_of_fourteen_events_gives_the_same_facts() {
    for events in [lifecycle(), problematic()] {
        let single: Vec<Facts> = events.iter().map(|event| Facts::of(event.clone(), false).1).collect();
        let mut known: Vec<Facts> = vec![Facts::default()];
        for subset in 1_usize..(1 << single.len()) {
            let steps = || (0..single.len()).filter(|event| subset & (1 << event) != 0);
            let step = |event: usize| {
                let before: &Facts = &known[subset & !(1 << event)];
                let mut after = before.clone();
                after.join(single[event].clone());
                let mut added = before.clone();
                added.add(events[event].clone(), false);
                assert_eq!(added, after, "adding event {event} to {subset:b} differs from joining it");
                check_step(before, &after);
                after
            };
            let facts = step(steps().next().unwrap());
            for event in steps() {
                assert_eq!(step(event), facts, "the result of {subset:b} differs if event {event} is last");
                let mut again = facts.clone();
                again.join(single[event].clone());
                assert_eq!(again, facts, "the result of {subset:b} differs if event {event} is repeated");
            }
            known.push(facts);
        }
    }
}

#[test]
fn the_status_follows_from_all_events() {
    let lifecycle = lifecycle();
    let status = |range: &[usize]| facts_of(range.iter().map(|i| &lifecycle[*i])).0.status();
    assert_eq!(status(&[]), Status::OnHold);
    assert_eq!(status(&[0, 1]), Status::OnHold);
    assert_eq!(status(&[0, 1, 2]), Status::Ready);
    assert_eq!(status(&[3]), Status::Fulfilled);
    assert_eq!(status(&[4]), Status::Complete, "a complete order needs no accepted event");
    assert_eq!(status(&[4, 0]), Status::Complete, "a late event does not reopen the order");
    assert_eq!(status(&[2, 5]), Status::Cancelled);
    assert_eq!(status(&[2, 6]), Status::Blocked);
    assert_eq!(status(&[4, 5]), Status::Cancelled, "the later of complete and cancelled counts");
}

#[test]
fn a_complete_order_contains_the_time_of_its_missing_accepted_event() {
    let (facts, fired) = facts_of([&lifecycle()[4]]);
    assert_eq!(facts.reached(OrderState::Accepted), Some(at(3)));
    assert_eq!(sorted(fired), [Effect::Request, Effect::Complete]);
}

#[test]
fn contradicting_facts_are_an_anomaly() {
    use super::Anomaly;
    let lifecycle = lifecycle();
    assert_eq!(facts_of([&lifecycle[4], &lifecycle[5]]).0.anomalies(), [Anomaly::CompleteAndEnded]);
    assert!(facts_of([&lifecycle[2], &lifecycle[5]]).0.anomalies().is_empty());
    assert_eq!(Facts::of(lifecycle[2].clone(), true).1.anomalies(), [Anomaly::Conflict]);
}

#[test]
fn fulfillment_is_requested_once_there_are_lines_to_fulfil() {
    use super::Anomaly;
    let accepted = &lifecycle()[2];
    let without_lines = spelled(accepted.clone(), [false, false, false, false, true, true]);
    let (facts, fired) = facts_of([&without_lines, &problematic()[9]]);
    assert_eq!((fired, facts.anomalies()), (vec![], vec![Anomaly::NoLines]), "neither requested nor halted");
    let (facts, fired) = facts_of([&without_lines, &problematic()[9], accepted]);
    assert_eq!((sorted(fired), facts.anomalies()), (vec![Effect::Request, Effect::Halt], vec![]));
}

#[test]
fn spellings_of_one_event_are_joined() {
    let accepted = &lifecycle()[2];
    let with = |parts| spelled(accepted.clone(), parts);
    let (one, other) = (with([true, false, true, false, true, true]), with([true, true, false, true, true, true]));
    for events in [[&one, &other], [&other, &one]] {
        let (facts, _) = facts_of(events);
        let details = &facts.snapshot.content;
        assert_eq!((details.upstream_id.as_deref(), details.service_level.as_deref()), (Some("U"), Some("express")));
        assert!(facts.lines.values().all(|line| line.snapshot.content.physical == Some(true)));
    }
}

#[test]
fn a_snapshot_without_updated_time_is_as_new_as_its_event() {
    let older = event(3, "order.updated", &[(OrderState::Accepted, 3)], 10, true);
    let newer = event(4, "order.updated", &[(OrderState::Accepted, 3)], 130, true);
    let newer = spelled(newer, [true, false, false, false, false, false]);
    for events in [[&older, &newer], [&newer, &older]] {
        let (facts, _) = facts_of(events);
        assert_eq!(facts.snapshot.content.currency.as_deref(), Some("C4"));
    }
}

#[test]
fn a_failed_charge_halts_the_order_unless_it_is_accepted_later() {
    let problematic = problematic();
    let fired = |range: &[usize]| {
        let (facts, fired) = facts_of(range.iter().map(|i| &problematic[*i]));
        (facts.status(), sorted(fired))
    };
    assert_eq!(fired(&[0]), (Status::PaymentFailed, vec![]));
    assert_eq!(fired(&[0, 1]), (Status::Ready, vec![Effect::Request]), "accepted with another charge");
    assert_eq!(fired(&[1, 0]), fired(&[0, 1]));
    assert_eq!(fired(&[1, 9]), (Status::PaymentFailed, vec![Effect::Request, Effect::Halt]));
    assert_eq!(fired(&[9, 1]), fired(&[1, 9]));
}

#[test]
fn a_failed_capture_has_one_effect_and_is_an_anomaly_until_the_order_is_complete() {
    use super::Anomaly;
    let problematic = problematic();
    let (facts, fired) =
        facts_of([&problematic[1], &problematic[4], &problematic[5], &problematic[6], &problematic[5]]);
    assert_eq!(fired.iter().filter(|effect| matches!(effect, Effect::Recall(_))).count(), 2, "{fired:?}");
    assert_eq!((facts.status(), facts.anomalies()), (Status::Ready, vec![Anomaly::CaptureFailed]));
    let (facts, _) = facts_of(&problematic[1..9]);
    assert!(!facts.anomalies().contains(&Anomaly::CaptureFailed));
    assert_eq!(facts.moved(OperationKind::Capture), 1.into(), "only completed captures count");
}

#[test]
fn a_fulfillment_in_two_events_counts_once() {
    let problematic = problematic();
    let (facts, fired) = facts_of([&problematic[2], &problematic[3], &report(20, 2, (0, 2), 6)]);
    let line = LineId::parse("line-1").unwrap();
    let quantities = facts.quantities()[&line];
    assert_eq!((quantities.fulfilled, quantities.cancelled), (1, 2));
    assert_eq!(fired.len(), 2, "one effect for each fulfillment: {fired:?}");
    assert_eq!(facts.efn_status(), EfnStatus::Pending);
    assert_eq!(facts.status(), Status::OnHold, "an order without an accepted state is not ready");
}

#[test]
fn a_dispute_counts_until_it_is_resolved_and_a_chargeback_always() {
    let problematic = problematic();
    let status = |range: &[usize]| facts_of(range.iter().map(|i| &problematic[*i])).0.status();
    assert_eq!(status(&[8, 10]), Status::Disputed);
    assert_eq!(status(&[8, 10, 11]), Status::Complete);
    assert_eq!(status(&[11, 8, 10]), Status::Complete);
    assert_eq!(status(&[8, 10, 11, 12]), Status::Disputed);
}

#[test]
fn ofi_and_ocn_follow_from_events_and_efn_from_lines() {
    let problematic = problematic();
    let app = |range: &[usize]| {
        let facts = facts_of(range.iter().map(|i| &problematic[*i])).0;
        (facts.ofi_received(), facts.efn_status(), facts.ocn_received())
    };
    assert_eq!(app(&[]), (false, EfnStatus::Open, false));
    assert_eq!(app(&[2]), (false, EfnStatus::Pending, false));
    assert_eq!(app(&[8]), (false, EfnStatus::Completed, true), "accepted, but the event is missing");
    assert_eq!(app(&[1, 8]), (true, EfnStatus::Completed, true));
}

#[test]
fn test_and_live_orders_have_different_keys() {
    let mut live = lifecycle()[2].clone();
    live.mode = Mode::Live;
    let keys: BTreeSet<OrderKey> = [Facts::of(live, false).0, Facts::of(lifecycle()[2].clone(), false).0].into();
    assert_eq!(keys.len(), 2);
}

prop_compose! {
    /// Any snapshot: any states at any times, listed or not, including several bodies with one event id.
    fn any_snapshot()(
        id in 0_usize..12,
        event_type in prop::sample::select(ORDER_SNAPSHOTS.to_vec()),
        states in prop::collection::vec((prop::sample::select(OrderState::ALL.to_vec()), 0_i64..50), 0..5),
        minute in 0_i64..50,
        listed: bool,
        spelling in any::<[bool; 6]>(),
    ) -> OrderEvent {
        spelled(event(id, event_type, &states, minute, listed), spelling)
    }
}

/// Another spelling of the same event, with only the parts that `parts` selects.
fn spelled(mut event: OrderEvent, parts: [bool; 6]) -> OrderEvent {
    let [has_lines, has_physical, has_upstream_id, has_service_level, has_times, has_own_time] = parts;
    let Some(order) = &mut event.order else { return event };
    order.details.upstream_id = has_upstream_id.then(|| "U".to_owned());
    order.details.service_level = has_service_level.then(|| "express".to_owned());
    for line in &mut order.lines {
        line.details.physical = has_physical.then_some(true);
    }
    if !has_lines {
        order.lines.clear();
    }
    if !has_times {
        order.transitions.iter_mut().for_each(|(_, time)| *time = None);
    }
    if !has_own_time {
        order.updated_time = None;
    }
    event
}

prop_compose! {
    /// Any event of a charge.
    fn any_charge()(
        id in 12_usize..20,
        kind in prop::sample::select(OperationKind::ALL.to_vec()),
        number in 0_usize..3,
        state in prop::sample::select(vec![OperationState::Pending, OperationState::Complete, OperationState::Failed]),
        minute in 0_i64..50,
    ) -> OrderEvent {
        charge(id, "order.charge.any", (kind, number), state, minute)
    }
}

prop_compose! {
    /// Any fulfillment event, including contradicting ones with one fulfillment id; and events without payload.
    fn any_other()(
        id in 20_usize..30,
        number in 0_usize..4,
        units in (0_i64..5, 0_i64..5),
        minute in 0_i64..50,
        bare_type in prop::option::of(prop::sample::select(vec![ORDER_DISPUTE_RESOLVED, ORDER_CHARGEBACK])),
    ) -> OrderEvent {
        bare_type.map_or_else(|| report(id, number, units, minute), |event_type| bare(id, event_type, minute))
    }
}

fn any_event() -> impl Strategy<Value = OrderEvent> {
    prop_oneof![3 => any_snapshot(), 2 => any_charge(), 2 => any_other()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_long_history_gives_the_same_result_in_any_order_and_batching(
        (history, shuffled) in prop::collection::vec(any_event(), 1..40)
            .prop_flat_map(|history| (Just(history.clone()), Just(history).prop_shuffle())),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let (facts, fired) = facts_of(&history);
        let again = shuffled.iter().chain(repeated.iter().map(|index| index.get(&history)));
        let (found, found_fired) = facts_of(again);
        prop_assert_eq!(&found, &facts);
        prop_assert_eq!(sorted(found_fired), sorted(fired));

        // Two batches, each joined separately first.
        let (left, right) = shuffled.split_at(cut.index(shuffled.len()));
        let (mut left, right) = (facts_of(left).0, facts_of(right).0);
        left.join(right);
        prop_assert_eq!(left, facts);
    }
}
