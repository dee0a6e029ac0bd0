//! The orders that a processor wrote last, so that they need not be read again.
//!
//! A cached order may be out of date: another process may have changed it, or the transaction that wrote it may have been
//! rolled back. Writing detects that by the version, and an order that does not change is checked by the version too.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::row::StoredOrder;
use crate::domain::{Facts, OrderKey};

/// Lines, shipments and payment operations of an order that is cached. Larger orders are rare, and a few of them would fill
/// the memory.
const PARTS_MAX: usize = 64;

/// A cache of orders, bounded by their number. The order that was added first is removed first.
pub(crate) struct OrderCache {
    orders_max: usize,
    orders: Mutex<Orders>,
}

impl fmt::Debug for OrderCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderCache").field("orders_max", &self.orders_max).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Orders {
    by_key: HashMap<OrderKey, (u64, StoredOrder)>,
    /// Keys in the order in which they were added, with the number of the addition. Entries of orders that were taken out or
    /// added again since have another number, and are skipped.
    added: VecDeque<(u64, OrderKey)>,
    additions: u64,
}

impl OrderCache {
    /// A cache of at most `orders_max` orders; 0 caches none.
    pub(crate) fn new(orders_max: usize) -> Self {
        Self { orders_max, orders: Mutex::default() }
    }

    /// Takes those of these orders out that are cached.
    pub(crate) fn take<'a>(&self, keys: impl Iterator<Item = &'a OrderKey>) -> HashMap<OrderKey, StoredOrder> {
        let mut cached = self.lock();
        keys.filter_map(|key| cached.by_key.remove_entry(key)).map(|(key, (_, order))| (key, order)).collect()
    }

    /// Removes all orders.
    pub(crate) fn clear(&self) {
        *self.lock() = Orders::default();
    }

    /// Adds orders as they were written.
    pub(crate) fn add(&self, orders: impl IntoIterator<Item = (OrderKey, StoredOrder)>) {
        let mut cached = self.lock();
        for (key, order) in orders {
            if self.orders_max == 0 || parts(&order.facts) > PARTS_MAX {
                continue;
            }
            cached.additions += 1;
            let number = cached.additions;
            cached.added.push_back((number, key.clone()));
            cached.by_key.insert(key, (number, order));
        }
        // Bounds the list too, which has entries for orders that were taken out.
        while cached.by_key.len() > self.orders_max || cached.added.len() > self.orders_max.saturating_mul(4) {
            let Some((number, key)) = cached.added.pop_front() else { break };
            if cached.by_key.get(&key).is_some_and(|(newest, _)| *newest == number) {
                cached.by_key.remove(&key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        // A panic while it was locked leaves at worst an order that is not cached.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parts(facts: &Facts) -> usize {
    facts.lines.len() + facts.shipments.len() + facts.operations.len()
}

#[cfg(test)]
mod tests {
    use riverlock_schemas::{LineId, Mode, OrderId};

    use super::*;
    use crate::domain::LineFacts;

    fn key(number: usize) -> OrderKey {
        OrderKey { order_id: OrderId::parse(number.to_string()).unwrap(), mode: Mode::Test }
    }

    fn order(version: i32) -> StoredOrder {
        StoredOrder { version, ..StoredOrder::default() }
    }

    fn versions(cache: &OrderCache, numbers: &[usize]) -> Vec<Option<i32>> {
        let keys: Vec<OrderKey> = numbers.iter().map(|number| key(*number)).collect();
        let mut found = cache.take(keys.iter());
        keys.iter().map(|key| found.remove(key).map(|order| order.version)).collect()
    }

    #[test]
    fn the_orders_that_were_added_last_are_cached_until_they_are_taken() {
        let cache = OrderCache::new(3);
        cache.add((1..=4).map(|number| (key(number), order(1))));
        assert_eq!(versions(&cache, &[1, 2]), [None, Some(1)]);
        assert_eq!(versions(&cache, &[2]), [None], "it was taken");
        cache.add([(key(2), order(2)), (key(3), order(2))]);
        cache.add([(key(5), order(1))]);
        assert_eq!(versions(&cache, &[2, 3, 4, 5]), [Some(2), Some(2), None, Some(1)]);
        cache.add([(key(6), order(1))]);
        cache.clear();
        assert_eq!(versions(&cache, &[6]), [None]);
    }

    #[test]
    fn the_cache_stays_bounded() {
        let cache = OrderCache::new(3);
        for round in 0..1_000 {
            cache.add([(key(7), order(round))]);
            assert_eq!(versions(&cache, &[7]), [Some(round)]);
        }
        assert!(cache.lock().added.len() <= 12);
        let mut large = order(1);
        for line in 0..=PARTS_MAX {
            large.facts.lines.insert(LineId::parse(line.to_string()).unwrap(), LineFacts::default());
        }
        cache.add([(key(8), large)]);
        assert_eq!(versions(&cache, &[8]), [None], "it is too large");
        let none = OrderCache::new(0);
        none.add([(key(1), order(1))]);
        assert_eq!(versions(&none, &[1]), [None]);
    }
}
