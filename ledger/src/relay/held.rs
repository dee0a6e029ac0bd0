//! Groups with a message that failed; they wait while others are published.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use riverlock_runtime::Backoff;
use tokio::time::Instant;

/// Shortest and longest wait before a group is retried.
const WAIT: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(30);
/// Most groups that are held. If there are more, the problem is not specific to groups.
const GROUPS_MAX: usize = 5_000;

/// The held groups, and until when they wait.
pub(super) struct HeldGroups {
    groups: BTreeSet<String>,
    until: Option<Instant>,
    backoff: Backoff,
}

impl HeldGroups {
    pub(super) const fn new() -> Self {
        Self { groups: BTreeSet::new(), until: None, backoff: Backoff::new(WAIT) }
    }

    /// Returns the held groups. All of them are released when the wait is over.
    pub(super) fn current(&mut self, now: Instant) -> Vec<String> {
        if self.until.is_some_and(|until| until <= now) {
            self.groups.clear();
            self.until = None;
        }
        self.groups.iter().cloned().collect()
    }

    /// Holds a group because one of its messages failed.
    pub(super) fn hold(&mut self, group: &str, now: Instant) {
        if self.until.is_none() {
            self.until = Some(now + self.backoff.next_wait());
        }
        self.groups.insert(group.to_owned());
    }

    /// Records that everything was published.
    pub(super) fn succeeded(&mut self) {
        if self.groups.is_empty() {
            self.backoff.reset();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.groups.len() >= GROUPS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_retried_and_waits_longer_after_each_failure() {
        let (mut held, start) = (HeldGroups::new(), Instant::now());
        held.hold("a", start);
        held.hold("b", start);
        assert_eq!(held.current(start + Duration::from_millis(400)), ["a", "b"]);
        let later = start + Duration::from_secs(2);
        assert!(held.current(later).is_empty(), "the wait is over");
        held.hold("a", later);
        assert_eq!(held.current(later + Duration::from_millis(900)), ["a"], "twice as long");
        assert!(held.current(later + Duration::from_secs(4)).is_empty());
        held.succeeded();
        assert!(held.is_empty() && !held.is_full());
    }
}
