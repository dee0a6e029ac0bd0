use super::*;

const PARTITION: Partition = (1, 2);

fn state(workers: usize) -> State {
    State { buffers: (0..workers).map(|_| Buffer::default()).collect(), ..State::default() }
}

#[test]
fn a_record_is_skipped_only_when_reading_again_does_not_find_it() {
    let mut state = state(1);
    for offset in [7, 8] {
        assert_eq!(state.arrive(PARTITION, offset), Arrival::Next);
    }
    assert_eq!(state.arrive(PARTITION, 8), Arrival::Stale);
    for _ in 0..GAP_REREADS_MAX {
        assert_eq!(state.arrive(PARTITION, 11), Arrival::Gap { missing: 9 });
        state.reread(PARTITION, 9);
    }
    assert_eq!(state.arrive(PARTITION, 11), Arrival::LastingGap { missing: 9 });
    assert_eq!(state.arrive(PARTITION, 12), Arrival::Next);
    assert!(state.gaps.is_empty());
    assert_eq!(state.arrive(PARTITION, 14), Arrival::Gap { missing: 13 });
    state.reread(PARTITION, 13);
    assert_eq!(state.arrive(PARTITION, 14), Arrival::LastingGap { missing: 13 }, "it is known to have gaps");
}

#[test]
fn a_gap_that_was_a_fault_of_the_transport_is_closed_by_reading_it_again() {
    let mut state = state(1);
    state.expected.insert(PARTITION, 0);
    assert_eq!(state.arrive(PARTITION, 5), Arrival::Gap { missing: 0 });
    state.reread(PARTITION, 0);
    for offset in 0..6 {
        assert_eq!(state.arrive(PARTITION, offset), Arrival::Next);
    }
    // The next gap has all its tries again.
    assert_eq!(state.arrive(PARTITION, 9), Arrival::Gap { missing: 6 });
    state.reread(PARTITION, 6);
    assert_eq!(state.gaps[&PARTITION], (6, 1));
}

#[test]
fn a_worker_starves_when_it_has_partitions_and_nothing_of_them() {
    let mut state = state(2);
    state.positions.extend([((1, 0), Some(0)), ((1, 1), Some(0))]);
    assert!(state.starves(0) && state.starves(1));
    state.in_flight.insert((1, 1), 1);
    assert!(state.starves(0) && !state.starves(1));
    state.positions.remove(&(1, 0));
    assert!(!state.starves(0), "it has no partition");
}
