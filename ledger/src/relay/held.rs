//! Groups of which a message failed, and which wait while the others go on.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use riverlock_runtime::Backoff;
use tokio::time::Instant;

/// Shortest and longest wait before a group is tried again.
const WAIT: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(30);
/// Most groups that are held. More of them mean that it is not the groups.
const GROUPS_MAX: usize = 5_000;

/// Which groups wait, and until when.
pub(super) struct HeldGroups {
    groups: BTreeSet<String>,
    until: Option<Instant>,
    backoff: Backoff,
}

impl HeldGroups {
    pub(super) const fn new() -> Self {
        Self { groups: BTreeSet::new(), until: None, backoff: Backoff::new(WAIT) }
    }

    /// The groups that wait. All of them are tried again when their time is up.
    pub(super) fn current(&mut self, now: Instant) -> Vec<String> {
        if self.until.is_some_and(|until| until <= now) {
            self.groups.clear();
            self.until = None;
        }
        self.groups.iter().cloned().collect()
    }

    /// A message of the group failed.
    pub(super) fn hold(&mut self, group: &str, now: Instant) {
        if self.until.is_none() {
            self.until = Some(now + self.backoff.next_wait());
        }
        self.groups.insert(group.to_owned());
    }

    /// Everything that was tried succeeded.
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
    fn a_group_waits_and_is_tried_again_and_waits_longer_when_it_fails_again() {
        let (mut held, start) = (HeldGroups::new(), Instant::now());
        held.hold("a", start);
        held.hold("b", start);
        assert_eq!(held.current(start + Duration::from_millis(400)), ["a", "b"]);
        let later = start + Duration::from_secs(2);
        assert!(held.current(later).is_empty(), "its time is up");
        held.hold("a", later);
        assert_eq!(held.current(later + Duration::from_millis(900)), ["a"], "twice as long");
        assert!(held.current(later + Duration::from_secs(4)).is_empty());
        held.succeeded();
        assert!(held.is_empty() && !held.is_full());
    }
}
