//! What `/readyz` says of ingest: the first thing that stands in its way.

use std::sync::{Mutex, MutexGuard};

use riverlock_runtime::Component;

use crate::metrics::PROCESS;

/// What can stand in the way, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The process is ending.
    Ending,
    /// The producer is not warmed up, or is being replaced.
    Producer,
    /// A topic is missing or hidden.
    Topics,
    /// Kafka does not authorize ingest to write to a topic.
    Rights,
    /// Kafka refused what was written to a topic.
    Refused,
    /// Kafka has not acknowledged events for too long.
    Kafka,
}

/// Says whether ingest is ready, from what its parts report.
pub(crate) struct Readiness {
    component: Component,
    reasons: Mutex<[Option<String>; 6]>,
}

impl Readiness {
    /// Not ready until the producer is warmed up.
    pub(crate) fn new(component: Component) -> Self {
        let starting = Some("starting".to_owned());
        Self { component, reasons: Mutex::new([None, starting, None, None, None, None]) }
    }

    fn reasons(&self) -> MutexGuard<'_, [Option<String>; 6]> {
        self.reasons.lock().expect("no code panics while it holds the reasons")
    }

    /// Notes what stands in the way; `None` when nothing of the kind does.
    pub(crate) fn set(&self, obstacle: Obstacle, reason: Option<String>) {
        let mut reasons = self.reasons();
        reasons[obstacle as usize] = reason;
        match reasons.iter().flatten().next() {
            Some(reason) => self.component.not_ready(reason.as_str()),
            None => self.component.ready(),
        }
        PROCESS.ready.set(if reasons.iter().all(Option::is_none) { 1.0 } else { 0.0 });
    }

    /// The part that reports moves.
    pub(crate) fn beat(&self) {
        self.component.beat();
    }
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Health;

    use super::*;

    #[test]
    fn it_is_ready_when_nothing_stands_in_the_way() {
        let health = Health::default();
        let readiness = Readiness::new(health.register("ingest"));
        let reason = || health.not_ready().first().map(|finding| finding.reason.clone());
        readiness.set(Obstacle::Kafka, Some("silent".to_owned()));
        assert_eq!(reason().as_deref(), Some("starting"));
        readiness.set(Obstacle::Producer, None);
        assert_eq!(reason().as_deref(), Some("silent"));
        readiness.set(Obstacle::Kafka, None);
        assert_eq!(reason(), None);
        readiness.set(Obstacle::Ending, Some("ending".to_owned()));
        readiness.set(Obstacle::Producer, None);
        assert_eq!(reason().as_deref(), Some("ending"));
    }
}
