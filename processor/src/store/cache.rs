//! The orders that a processor wrote last, so that they need not be read again.
//!
//! A cached order may be out of date: another process may have changed it, or the transaction that wrote it may have been
//! rolled back. Writing detects that by the version, and an order that does not change is checked by the version too.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;

use super::row::StoredOrder;
use crate::domain::{Facts, OrderKey};

/// Lines, shipments and payment operations of an order that is cached. Larger orders are rare, and a few of them would fill
/// the memory.
const PARTS_MAX: usize = 64;

type Cached = LruCache<OrderKey, StoredOrder>;

/// A cache of the orders that were written last, bounded by their number.
pub(crate) struct OrderCache(Option<Mutex<Cached>>);

impl fmt::Debug for OrderCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderCache").finish_non_exhaustive()
    }
}

impl OrderCache {
    /// A cache of at most `orders_max` orders; 0 caches none.
    pub(crate) fn new(orders_max: usize) -> Self {
        Self(NonZeroUsize::new(orders_max).map(|orders_max| Mutex::new(LruCache::new(orders_max))))
    }

    /// Takes those of these orders out that are cached.
    pub(crate) fn take<'a>(&self, keys: impl Iterator<Item = &'a OrderKey>) -> HashMap<OrderKey, StoredOrder> {
        self.with(|cached| keys.filter_map(|key| cached.pop_entry(key)).collect())
    }

    /// Adds orders as they were written.
    pub(crate) fn add(&self, orders: impl IntoIterator<Item = (OrderKey, StoredOrder)>) {
        let small = orders.into_iter().filter(|(_, order)| parts(&order.facts) <= PARTS_MAX);
        self.with(|cached| {
            for (key, order) in small {
                cached.put(key, order);
            }
        });
    }

    /// Removes all orders.
    pub(crate) fn clear(&self) {
        self.with(LruCache::clear);
    }

    fn with<T: Default>(&self, access: impl FnOnce(&mut Cached) -> T) -> T {
        // A panic while it was locked leaves at worst an order that is not cached.
        let cached = self.0.as_ref().map(|cached| cached.lock().unwrap_or_else(PoisonError::into_inner));
        cached.map(|mut cached| access(&mut cached)).unwrap_or_default()
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
    fn large_orders_are_not_cached() {
        let cache = OrderCache::new(3);
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
