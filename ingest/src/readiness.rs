//! Readiness of ingest, as `/readyz` reports it: the most important obstacle.

use std::sync::{Mutex, MutexGuard};

use riverlock_runtime::Component;

use crate::metrics::PROCESS;

/// What can prevent readiness, in order of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The process is shutting down.
    ShuttingDown,
    /// The producer is not warmed up, or is being replaced.
    Producer,
    /// A topic is missing or hidden.
    Topics,
    /// Kafka does not authorize ingest to write to a topic.
    Rights,
    /// Kafka rejected a record for a topic.
    Rejected,
    /// Kafka has not acknowledged events for too long.
    Kafka,
}

/// Derives whether ingest is ready from the obstacles that its parts report.
pub(crate) struct Readiness {
    component: Component,
    reasons: Mutex<[Option<String>; 6]>,
}

impl Readiness {
    /// Starts as not ready, until the producer is warmed up.
    pub(crate) fn new(component: Component) -> Self {
        let starting = Some("starting".to_owned());
        Self { component, reasons: Mutex::new([None, starting, None, None, None, None]) }
    }

    fn reasons(&self) -> MutexGuard<'_, [Option<String>; 6]> {
        self.reasons.lock().expect("no code panics while it holds the reasons")
    }

    /// Sets the reason for an obstacle; `None` clears it.
    pub(crate) fn set(&self, obstacle: Obstacle, reason: Option<String>) {
        let mut reasons = self.reasons();
        reasons[obstacle as usize] = reason;
        match reasons.iter().flatten().next() {
            Some(reason) => self.component.not_ready(reason.as_str()),
            None => self.component.ready(),
        }
        PROCESS.ready.set(if reasons.iter().all(Option::is_none) { 1.0 } else { 0.0 });
    }

    /// Records a heartbeat.
    pub(crate) fn beat(&self) {
        self.component.beat();
    }
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Health;

    use super::*;

    #[test]
    fn it_is_ready_when_there_is_no_obstacle() {
        let health = Health::default();
        let readiness = Readiness::new(health.register("ingest"));
        let reason = || health.not_ready().first().map(|finding| finding.reason.clone());
        readiness.set(Obstacle::Kafka, Some("silent".to_owned()));
        assert_eq!(reason().as_deref(), Some("starting"));
        readiness.set(Obstacle::Producer, None);
        assert_eq!(reason().as_deref(), Some("silent"));
        readiness.set(Obstacle::Kafka, None);
        assert_eq!(reason(), None);
        readiness.set(Obstacle::ShuttingDown, Some("ending".to_owned()));
        readiness.set(Obstacle::Producer, None);
        assert_eq!(reason().as_deref(), Some("ending"));
    }
}
