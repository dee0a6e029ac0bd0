//! How the process is: which components are ready, and which have stopped moving.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// All components of a process. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Health {
    components: Arc<Mutex<Vec<Arc<State>>>>,
}

struct State {
    name: &'static str,
    /// Why the component is not ready; `None` when it is.
    obstacle: Mutex<Option<String>>,
    beat: Option<Beat>,
}

struct Beat {
    last: Mutex<Instant>,
    age_max: Duration,
}

/// One part of the process that can be ready or not.
#[derive(Clone)]
pub struct Component(Arc<State>);

/// A component that is not as it should be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The component's name.
    pub component: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.component, self.reason)
    }
}

impl Health {
    /// Adds a component, not ready until it says so.
    #[must_use]
    pub fn register(&self, name: &'static str) -> Component {
        self.add(name, None)
    }

    /// Adds a component that has to call [`Component::beat`] at least every `age_max`, or the process counts as stuck.
    #[must_use]
    pub fn register_beating(&self, name: &'static str, age_max: Duration) -> Component {
        self.add(name, Some(Beat { last: Mutex::new(Instant::now()), age_max }))
    }

    fn add(&self, name: &'static str, beat: Option<Beat>) -> Component {
        let state = Arc::new(State { name, obstacle: Mutex::new(Some("starting".to_owned())), beat });
        self.components.lock().expect("no code panics while it holds the list").push(Arc::clone(&state));
        Component(state)
    }

    /// The components that are not ready. Empty means: send work.
    #[must_use]
    pub fn not_ready(&self) -> Vec<Finding> {
        self.findings(|state| state.obstacle.lock().expect("no code panics while it holds the text").clone())
    }

    /// The components that have stopped moving. Anything in it means: restart the process.
    #[must_use]
    pub fn stuck(&self) -> Vec<Finding> {
        self.findings(|state| {
            let beat = state.beat.as_ref()?;
            let age = beat.last.lock().expect("no code panics while it holds the time").elapsed();
            (age > beat.age_max)
                .then(|| format!("last moved {} s ago, allowed are {} s", age.as_secs(), beat.age_max.as_secs()))
        })
    }

    fn findings(&self, look: impl Fn(&State) -> Option<String>) -> Vec<Finding> {
        let components = self.components.lock().expect("no code panics while it holds the list");
        let found = |state: &Arc<State>| Some(Finding { component: state.name, reason: look(state)? });
        components.iter().filter_map(found).collect()
    }
}

impl Component {
    /// The component takes work.
    pub fn ready(&self) {
        self.set(None);
    }

    /// The component takes no work, for this reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, obstacle: Option<String>) {
        let mut current = self.0.obstacle.lock().expect("no code panics while it holds the text");
        if *current != obstacle {
            match &obstacle {
                None => tracing::info!(component = self.0.name, "{} is ready", self.0.name),
                Some(reason) => tracing::warn!(component = self.0.name, "{} is not ready: {reason}", self.0.name),
            }
            *current = obstacle;
        }
    }

    /// The component is moving.
    pub fn beat(&self) {
        if let Some(beat) = &self.0.beat {
            *beat.last.lock().expect("no code panics while it holds the time") = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_ready_only_when_it_says_so() {
        let health = Health::default();
        let component = health.register("kafka");
        assert_eq!(health.not_ready()[0].to_string(), "kafka: starting");
        component.ready();
        assert!(health.not_ready().is_empty());
        component.not_ready("broker gone");
        assert_eq!(health.not_ready()[0].reason, "broker gone");
    }

    #[test]
    fn a_component_that_stops_moving_is_stuck() {
        let health = Health::default();
        let calm = health.register_beating("calm", Duration::from_secs(3600));
        let _stopped = health.register_beating("stopped", Duration::ZERO);
        calm.beat();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(health.stuck().iter().map(|f| f.component).collect::<Vec<_>>(), ["stopped"]);
    }
}
