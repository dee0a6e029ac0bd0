//! A bounded number of slots for resources that anyone can occupy: connections, and requests whose body is still arriving.
//!
//! When all slots are taken, a newcomer is not rejected: it evicts the oldest holder with the lowest [`Rank`]. A normal
//! request holds its slot for milliseconds, so a client that occupies slots in order to block others only evicts its own.
//! There are two further limits: each client address has a maximum, at which its own oldest slot is evicted, and unknown
//! clients together cannot use a share that is reserved for known ones.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::config::limits::Bounds;

/// How much is known about the holder of a slot, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Nothing is known.
    Unknown,
    /// An authenticated request was received from its address recently, or the address is one of Digital River's.
    KnownAddress,
    /// An authenticated request was received over this connection, or its peer is a trusted proxy. Never evicted.
    Authenticated,
}

/// Ranks whose slots can be evicted, in the order of eviction.
const EVICTABLE: [Rank; 2] = [Rank::Unknown, Rank::KnownAddress];

/// No slot can be evicted for the newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotsExhausted;

/// State that a slot's holder and the table of slots share.
#[derive(Default)]
struct SlotSignal {
    evicted: Notify,
    /// Bytes that the holder occupies, included in [`Slots::bytes`].
    bytes: AtomicUsize,
}

#[derive(Default)]
struct SlotTable {
    next: u64,
    /// Held slots by rank and number: the lowest number is the oldest.
    held: [BTreeMap<u64, Holder>; 3],
    /// Numbers of the slots of each address that can be evicted.
    by_address: HashMap<u64, BTreeMap<u64, Rank>>,
    /// Slots that were evicted, but not yet released by their holders.
    unreleased: usize,
}

struct Holder {
    address: Option<u64>,
    shared: Arc<SlotSignal>,
}

impl SlotTable {
    fn count(&self) -> usize {
        self.held.iter().map(BTreeMap::len).sum()
    }

    fn remove(&mut self, number: u64, rank: Rank) -> Option<Holder> {
        let holder = self.held[rank as usize].remove(&number)?;
        if let Some(address) = holder.address
            && let Some(numbers) = self.by_address.get_mut(&address)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(holder)
    }

    fn insert(&mut self, number: u64, rank: Rank, holder: Holder) {
        if let Some(address) = holder.address.filter(|_| rank != Rank::Authenticated) {
            self.by_address.entry(address).or_default().insert(number, rank);
        }
        self.held[rank as usize].insert(number, holder);
    }

    /// The oldest slot with a rank.
    fn oldest(&self, rank: Rank) -> Option<u64> {
        self.held[rank as usize].first_key_value().map(|(number, _)| *number)
    }
}

/// All slots of one kind.
pub(crate) struct Slots {
    bounds: Bounds,
    state: Mutex<SlotTable>,
    /// Bytes that requests occupy while they arrive, with or without a slot.
    bytes: AtomicUsize,
    /// Counts evicted slots.
    evicted: metrics::Counter,
}

impl Slots {
    pub(crate) fn new(bounds: Bounds, evicted: metrics::Counter) -> Arc<Self> {
        Arc::new(Self { bounds, state: Mutex::default(), bytes: AtomicUsize::new(0), evicted })
    }

    fn state(&self) -> MutexGuard<'_, SlotTable> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Takes a slot, and evicts another holder if none is free. `address` is the client's network; `None` for a client that
    /// shares its address with others, such as a trusted proxy, and has no maximum of its own.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<u64>, rank: Rank) -> Result<Slot, SlotsExhausted> {
        let Bounds { max, per_address_max, unknown_max } = self.bounds;
        let mut state = self.state();
        // An evicted holder frees its memory only when its task runs again. This limit applies if none of them runs.
        if state.unreleased >= max {
            return Err(SlotsExhausted);
        }
        if rank != Rank::Authenticated
            && let Some(own) = address.and_then(|address| state.by_address.get(&address))
            && own.len() >= per_address_max
            && let Some((&number, &lowest)) = own.first_key_value()
        {
            self.evict(&mut state, number, lowest);
        }
        if rank == Rank::Unknown && state.held[Rank::Unknown as usize].len() >= unknown_max {
            let oldest = state.oldest(Rank::Unknown).ok_or(SlotsExhausted)?;
            self.evict(&mut state, oldest, Rank::Unknown);
        }
        if state.count() >= max {
            let mut candidates = EVICTABLE.into_iter().filter(|candidate| *candidate <= rank);
            let (number, candidate) =
                candidates.find_map(|candidate| Some((state.oldest(candidate)?, candidate))).ok_or(SlotsExhausted)?;
            self.evict(&mut state, number, candidate);
        }
        let number = state.next;
        state.next += 1;
        let shared = Arc::<SlotSignal>::default();
        state.insert(number, rank, Holder { address, shared: Arc::clone(&shared) });
        drop(state);
        Ok(Slot { slots: Arc::clone(self), number, rank: Mutex::new(rank), shared })
    }

    fn evict(&self, state: &mut SlotTable, number: u64, rank: Rank) {
        if let Some(holder) = state.remove(number, rank) {
            state.unreleased += 1;
            self.bytes.fetch_sub(holder.shared.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            holder.shared.evicted.notify_one();
            self.evicted.increment(1);
        }
    }

    /// Counts bytes. Beyond `bytes_max`, the oldest holders of bytes are evicted, unknown ones first.
    pub(crate) fn add_bytes(&self, count: usize, bytes_max: usize) -> Result<(), SlotsExhausted> {
        if self.bytes.fetch_add(count, Ordering::Relaxed) + count <= bytes_max {
            return Ok(());
        }
        let mut state = self.state();
        for rank in EVICTABLE {
            while self.bytes.load(Ordering::Relaxed) > bytes_max {
                let mut holders = state.held[rank as usize].iter();
                let occupant = holders.find(|(_, holder)| holder.shared.bytes.load(Ordering::Relaxed) > 0);
                let Some((&number, _)) = occupant else { break };
                self.evict(&mut state, number, rank);
            }
        }
        if self.bytes.load(Ordering::Relaxed) <= bytes_max {
            return Ok(());
        }
        self.bytes.fetch_sub(count, Ordering::Relaxed);
        Err(SlotsExhausted)
    }

    /// Subtracts bytes that are no longer occupied.
    pub(crate) fn remove_bytes(&self, count: usize) {
        self.bytes.fetch_sub(count, Ordering::Relaxed);
    }
}

/// A held slot; dropping it releases the slot.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    rank: Mutex<Rank>,
    shared: Arc<SlotSignal>,
}

impl Slot {
    /// Completes when the slot is evicted: its holder must release it.
    pub(crate) async fn evicted(&self) {
        self.shared.evicted.notified().await;
    }

    /// Protects the slot from eviction.
    pub(crate) fn authenticate(&self) {
        let mut rank = self.rank();
        let mut state = self.slots.state();
        if *rank != Rank::Authenticated
            && let Some(holder) = state.remove(self.number, *rank)
        {
            state.insert(self.number, Rank::Authenticated, holder);
            *rank = Rank::Authenticated;
        }
    }

    fn rank(&self) -> MutexGuard<'_, Rank> {
        self.rank.lock().expect("no code panics while it holds the rank")
    }

    /// Notes that the holder occupies `count` more bytes, which are already counted.
    pub(crate) fn note_bytes(&self, count: usize) {
        self.shared.bytes.fetch_add(count, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let rank = *self.rank();
        let mut state = self.slots.state();
        if state.remove(self.number, rank).is_none() {
            state.unreleased -= 1;
        }
        drop(state);
        self.slots.remove_bytes(self.shared.bytes.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use super::*;

    fn slots(max: usize, per_address_max: usize, unknown_max: usize) -> Arc<Slots> {
        Slots::new(Bounds { max, per_address_max, unknown_max }, metrics::Counter::noop())
    }

    /// Whether a slot was evicted.
    fn is_evicted(slot: &Slot) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(slot.evicted()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_newcomer_evicts_the_oldest_holder_with_the_lowest_rank() {
        let slots = slots(3, 9, 9);
        let known = slots.enter(Some(1), Rank::KnownAddress).unwrap();
        let first = slots.enter(Some(2), Rank::Unknown).unwrap();
        let second = slots.enter(Some(3), Rank::Unknown).unwrap();
        let third = slots.enter(Some(4), Rank::Unknown).unwrap();
        assert_eq!(
            (is_evicted(&known), is_evicted(&first), is_evicted(&second), is_evicted(&third)),
            (false, true, false, false)
        );
        drop(first);
        let also_known = slots.enter(Some(5), Rank::KnownAddress).unwrap();
        let yet_another = slots.enter(Some(6), Rank::KnownAddress).unwrap();
        assert!(is_evicted(&second) && is_evicted(&third) && !is_evicted(&known));
        drop((second, third));
        assert_eq!(
            slots.enter(Some(7), Rank::Unknown).err(),
            Some(SlotsExhausted),
            "unknown clients do not evict known ones"
        );
        let newest = slots.enter(Some(8), Rank::KnownAddress).unwrap();
        assert!(is_evicted(&known) && !is_evicted(&also_known) && !is_evicted(&yet_another) && !is_evicted(&newest));
    }

    #[test]
    fn an_authenticated_slot_is_never_evicted() {
        let slots = slots(2, 1, 2);
        let kept = slots.enter(Some(1), Rank::Unknown).unwrap();
        kept.authenticate();
        let other = slots.enter(Some(1), Rank::Unknown).unwrap();
        other.authenticate();
        assert_eq!(slots.enter(Some(1), Rank::KnownAddress).err(), Some(SlotsExhausted));
        drop(other);
        let unknown = slots.enter(Some(1), Rank::Unknown).unwrap();
        let next = slots.enter(Some(1), Rank::Unknown).unwrap();
        assert!(is_evicted(&unknown) && !is_evicted(&next) && !is_evicted(&kept));
    }

    #[test]
    fn an_address_at_its_maximum_evicts_its_own_oldest_slot() {
        let slots = slots(9, 2, 9);
        let other = slots.enter(Some(7), Rank::Unknown).unwrap();
        let own: Vec<Slot> = (0..4).map(|_| slots.enter(Some(1), Rank::Unknown).unwrap()).collect();
        assert_eq!(own.iter().map(is_evicted).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!is_evicted(&other));
        let shared: Vec<Slot> = (0..5).map(|_| slots.enter(None, Rank::Unknown).unwrap()).collect();
        assert!(!shared.iter().any(is_evicted), "a shared address has no maximum of its own");
    }

    #[test]
    fn a_share_of_slots_is_reserved_for_known_clients() {
        let slots = slots(4, 9, 2);
        let unknown: Vec<Slot> = (0..5).map(|i| slots.enter(Some(i), Rank::Unknown).unwrap()).collect();
        assert_eq!(unknown.iter().filter(|slot| is_evicted(slot)).count(), 3);
        let known: Vec<Slot> = (0..2).map(|i| slots.enter(Some(i), Rank::KnownAddress).unwrap()).collect();
        assert!(!is_evicted(&unknown[3]) && !is_evicted(&unknown[4]) && !known.iter().any(is_evicted));
    }

    #[test]
    fn evicted_slots_that_are_not_released_yet_are_bounded() {
        let slots = slots(2, 9, 9);
        let mut held: Vec<Slot> = (0..4).map(|i| slots.enter(Some(i), Rank::Unknown).unwrap()).collect();
        assert_eq!(slots.enter(Some(9), Rank::Unknown).err(), Some(SlotsExhausted), "none was released");
        held.remove(0);
        assert!(slots.enter(Some(9), Rank::Unknown).is_ok());
    }

    #[test]
    fn too_many_bytes_evict_the_oldest_holders_of_bytes() {
        const MAX: usize = 100;
        let slots = slots(9, 9, 9);
        let enter = |rank, bytes| {
            let slot = slots.enter(None, rank).unwrap();
            slots.add_bytes(bytes, MAX).unwrap();
            slot.note_bytes(bytes);
            slot
        };
        let known = enter(Rank::KnownAddress, 30);
        let empty = enter(Rank::Unknown, 0);
        let (first, second) = (enter(Rank::Unknown, 30), enter(Rank::Unknown, 30));
        let newcomer = enter(Rank::Unknown, 20);
        assert!(is_evicted(&first) && !is_evicted(&empty) && !is_evicted(&second) && !is_evicted(&known));
        drop(first);
        assert_eq!(slots.bytes.load(Ordering::Relaxed), 80);
        assert_eq!(slots.add_bytes(MAX + 1, MAX), Err(SlotsExhausted));
        assert!(is_evicted(&second) && is_evicted(&known) && is_evicted(&newcomer));
        drop((known, empty, second, newcomer));
        assert_eq!(slots.bytes.load(Ordering::Relaxed), 0);
    }
}
