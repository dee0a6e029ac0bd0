//! A bounded number of slots for what anyone can occupy: connections, and requests whose body is still arriving.
//!
//! When all slots are taken, a newcomer is not refused: it evicts the oldest holder with the lowest [`Rank`]. A normal
//! request holds its slot for milliseconds, so a client that occupies slots in order to block others only evicts its own.
//! There are two further bounds: each client address has a maximum, at which its own oldest slot is evicted, and unknown
//! clients together cannot use a share that is reserved for known ones.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// What is known of the holder of a slot, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Nothing.
    Unknown,
    /// An authentic request came from its address recently, or the address is one of Digital River's.
    KnownAddress,
    /// An authentic request came over this very connection, or a trusted proxy is at its other end. Never evicted.
    Authenticated,
}

/// Standings whose slots can be evicted, in the order in which they are.
const EVICTABLE: [Rank; 2] = [Rank::Unknown, Rank::KnownAddress];

/// How many slots there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All slots.
    pub(crate) max: usize,
    /// Slots of one client address, not counting those of [`Rank::Authenticated`].
    pub(crate) per_address_max: usize,
    /// Slots that [`Rank::Unknown`] may have together.
    pub(crate) unknown_max: usize,
}

/// No slot can be evicted for this newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotsExhausted;

/// What a slot's holder and the list of all slots share.
#[derive(Default)]
struct SlotSignal {
    evicted: Notify,
    /// Bytes that the holder occupies, counted in [`Slots::bytes`].
    bytes: AtomicUsize,
}

#[derive(Default)]
struct SlotTable {
    next: u64,
    /// Held slots by standing and number: the lowest number is the oldest.
    held: [BTreeMap<u64, Holder>; 3],
    /// Numbers of the slots that an address can lose.
    by_address: HashMap<u64, BTreeMap<u64, Rank>>,
    /// Slots that were lost, but whose holders have not left yet.
    leaving: usize,
}

struct Holder {
    address: Option<u64>,
    shared: Arc<SlotSignal>,
}

impl SlotTable {
    fn count(&self) -> usize {
        self.held.iter().map(BTreeMap::len).sum()
    }

    fn remove(&mut self, number: u64, standing: Rank) -> Option<Holder> {
        let holder = self.held[standing as usize].remove(&number)?;
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

    fn insert(&mut self, number: u64, standing: Rank, holder: Holder) {
        if let Some(address) = holder.address.filter(|_| standing != Rank::Authenticated) {
            self.by_address.entry(address).or_default().insert(number, standing);
        }
        self.held[standing as usize].insert(number, holder);
    }

    /// The oldest slot of a standing.
    fn oldest(&self, standing: Rank) -> Option<u64> {
        self.held[standing as usize].first_key_value().map(|(number, _)| *number)
    }
}

/// All slots of one kind.
pub(crate) struct Slots {
    bounds: Bounds,
    state: Mutex<SlotTable>,
    /// Bytes that requests occupy while they arrive, with or without a slot.
    bytes: AtomicUsize,
    /// Counts the slots that were lost.
    evicted: metrics::Counter,
}

impl Slots {
    pub(crate) fn new(bounds: Bounds, evicted: metrics::Counter) -> Arc<Self> {
        Arc::new(Self { bounds, state: Mutex::default(), bytes: AtomicUsize::new(0), evicted })
    }

    fn state(&self) -> MutexGuard<'_, SlotTable> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// Takes a slot, and evicts another holder if there is no free one. `address` is the client's network; `None` for one that shares its address
    /// with others, such as a trusted proxy, and has no maximum of its own.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<u64>, standing: Rank) -> Result<Slot, SlotsExhausted> {
        let Bounds { max, per_address_max, unknown_max } = self.bounds;
        let mut state = self.state();
        // An evicted holder frees its memory only when its task runs again. This is the limit in case none of them runs.
        if state.leaving >= max {
            return Err(SlotsExhausted);
        }
        if standing != Rank::Authenticated
            && let Some(own) = address.and_then(|address| state.by_address.get(&address))
            && own.len() >= per_address_max
            && let Some((&number, &lowest)) = own.first_key_value()
        {
            self.evict(&mut state, number, lowest);
        }
        if standing == Rank::Unknown && state.held[Rank::Unknown as usize].len() >= unknown_max {
            let oldest = state.oldest(Rank::Unknown).ok_or(SlotsExhausted)?;
            self.evict(&mut state, oldest, Rank::Unknown);
        }
        if state.count() >= max {
            let mut losers = EVICTABLE.into_iter().filter(|loser| *loser <= standing);
            let (number, loser) = losers.find_map(|loser| Some((state.oldest(loser)?, loser))).ok_or(SlotsExhausted)?;
            self.evict(&mut state, number, loser);
        }
        let number = state.next;
        state.next += 1;
        let shared = Arc::<SlotSignal>::default();
        state.insert(number, standing, Holder { address, shared: Arc::clone(&shared) });
        drop(state);
        Ok(Slot { slots: Arc::clone(self), number, standing: Mutex::new(standing), shared })
    }

    fn evict(&self, state: &mut SlotTable, number: u64, standing: Rank) {
        if let Some(holder) = state.remove(number, standing) {
            state.leaving += 1;
            self.bytes.fetch_sub(holder.shared.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            holder.shared.evicted.notify_one();
            self.evicted.increment(1);
        }
    }

    /// Counts bytes. Beyond `bytes_max` the oldest holders that have any lose their slots, unknown ones first.
    pub(crate) fn add_bytes(&self, count: usize, bytes_max: usize) -> Result<(), SlotsExhausted> {
        if self.bytes.fetch_add(count, Ordering::Relaxed) + count <= bytes_max {
            return Ok(());
        }
        let mut state = self.state();
        for standing in EVICTABLE {
            while self.bytes.load(Ordering::Relaxed) > bytes_max {
                let mut holders = state.held[standing as usize].iter();
                let occupant = holders.find(|(_, holder)| holder.shared.bytes.load(Ordering::Relaxed) > 0);
                let Some((&number, _)) = occupant else { break };
                self.evict(&mut state, number, standing);
            }
        }
        if self.bytes.load(Ordering::Relaxed) <= bytes_max {
            return Ok(());
        }
        self.bytes.fetch_sub(count, Ordering::Relaxed);
        Err(SlotsExhausted)
    }

    /// Counts bytes that are not occupied any more.
    pub(crate) fn remove_bytes(&self, count: usize) {
        self.bytes.fetch_sub(count, Ordering::Relaxed);
    }
}

/// A slot that is held, until it is dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    standing: Mutex<Rank>,
    shared: Arc<SlotSignal>,
}

impl Slot {
    /// Ends when the slot is lost: its holder has to go.
    pub(crate) async fn evicted(&self) {
        self.shared.evicted.notified().await;
    }

    /// From now on the slot cannot be lost.
    pub(crate) fn authenticate(&self) {
        let mut standing = self.standing();
        let mut state = self.slots.state();
        if *standing != Rank::Authenticated
            && let Some(holder) = state.remove(self.number, *standing)
        {
            state.insert(self.number, Rank::Authenticated, holder);
            *standing = Rank::Authenticated;
        }
    }

    fn standing(&self) -> MutexGuard<'_, Rank> {
        self.standing.lock().expect("no code panics while it holds the standing")
    }

    /// The slot's holder occupies so many bytes more, which are counted already.
    pub(crate) fn note_bytes(&self, count: usize) {
        self.shared.bytes.fetch_add(count, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let standing = *self.standing();
        let mut state = self.slots.state();
        if state.remove(self.number, standing).is_none() {
            state.leaving -= 1;
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

    /// Whether a slot was lost.
    fn lost(slot: &Slot) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(slot.evicted()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_newcomer_evicts_the_oldest_with_the_lowest_standing() {
        let slots = slots(3, 9, 9);
        let known = slots.enter(Some(1), Rank::KnownAddress).unwrap();
        let first = slots.enter(Some(2), Rank::Unknown).unwrap();
        let second = slots.enter(Some(3), Rank::Unknown).unwrap();
        let third = slots.enter(Some(4), Rank::Unknown).unwrap();
        assert_eq!((lost(&known), lost(&first), lost(&second), lost(&third)), (false, true, false, false));
        drop(first);
        let also_known = slots.enter(Some(5), Rank::KnownAddress).unwrap();
        let yet_another = slots.enter(Some(6), Rank::KnownAddress).unwrap();
        assert!(lost(&second) && lost(&third) && !lost(&known));
        drop((second, third));
        assert_eq!(slots.enter(Some(7), Rank::Unknown).err(), Some(SlotsExhausted), "unknown ones evict no known ones");
        let newest = slots.enter(Some(8), Rank::KnownAddress).unwrap();
        assert!(lost(&known) && !lost(&also_known) && !lost(&yet_another) && !lost(&newest));
    }

    #[test]
    fn an_authenticated_slot_is_never_lost() {
        let slots = slots(2, 1, 2);
        let kept = slots.enter(Some(1), Rank::Unknown).unwrap();
        kept.authenticate();
        let other = slots.enter(Some(1), Rank::Unknown).unwrap();
        other.authenticate();
        assert_eq!(slots.enter(Some(1), Rank::KnownAddress).err(), Some(SlotsExhausted));
        drop(other);
        let stranger = slots.enter(Some(1), Rank::Unknown).unwrap();
        let next = slots.enter(Some(1), Rank::Unknown).unwrap();
        assert!(lost(&stranger) && !lost(&next) && !lost(&kept));
    }

    #[test]
    fn an_address_at_its_maximum_loses_its_own_oldest_slot() {
        let slots = slots(9, 2, 9);
        let other = slots.enter(Some(7), Rank::Unknown).unwrap();
        let own: Vec<Slot> = (0..4).map(|_| slots.enter(Some(1), Rank::Unknown).unwrap()).collect();
        assert_eq!(own.iter().map(lost).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!lost(&other));
        let shared: Vec<Slot> = (0..5).map(|_| slots.enter(None, Rank::Unknown).unwrap()).collect();
        assert!(!shared.iter().any(lost), "a shared address has no maximum of its own");
    }

    #[test]
    fn unknown_clients_leave_a_share_to_known_ones() {
        let slots = slots(4, 9, 2);
        let unknown: Vec<Slot> = (0..5).map(|i| slots.enter(Some(i), Rank::Unknown).unwrap()).collect();
        assert_eq!(unknown.iter().filter(|slot| lost(slot)).count(), 3);
        let known: Vec<Slot> = (0..2).map(|i| slots.enter(Some(i), Rank::KnownAddress).unwrap()).collect();
        assert!(!lost(&unknown[3]) && !lost(&unknown[4]) && !known.iter().any(lost));
    }

    #[test]
    fn those_that_were_evicted_and_have_not_left_are_bounded_as_well() {
        let slots = slots(2, 9, 9);
        let mut held: Vec<Slot> = (0..4).map(|i| slots.enter(Some(i), Rank::Unknown).unwrap()).collect();
        assert_eq!(slots.enter(Some(9), Rank::Unknown).err(), Some(SlotsExhausted), "nobody has left");
        held.remove(0);
        assert!(slots.enter(Some(9), Rank::Unknown).is_ok());
    }

    #[test]
    fn too_many_bytes_evict_the_oldest_of_those_that_hold_some() {
        const MAX: usize = 100;
        let slots = slots(9, 9, 9);
        let enter = |standing, bytes| {
            let slot = slots.enter(None, standing).unwrap();
            slots.add_bytes(bytes, MAX).unwrap();
            slot.note_bytes(bytes);
            slot
        };
        let known = enter(Rank::KnownAddress, 30);
        let empty = enter(Rank::Unknown, 0);
        let (first, second) = (enter(Rank::Unknown, 30), enter(Rank::Unknown, 30));
        let newcomer = enter(Rank::Unknown, 20);
        assert!(lost(&first) && !lost(&empty) && !lost(&second) && !lost(&known));
        drop(first);
        assert_eq!(slots.bytes.load(Ordering::Relaxed), 80);
        assert_eq!(slots.add_bytes(MAX + 1, MAX), Err(SlotsExhausted));
        assert!(lost(&second) && lost(&known) && lost(&newcomer));
        drop((known, empty, second, newcomer));
        assert_eq!(slots.bytes.load(Ordering::Relaxed), 0);
    }
}
