//! Health of the process: which components are ready, and which have no recent heartbeat.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{describe_gauge, gauge};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

/// Whether each component is ready, with all its parts.
pub const COMPONENT_READY: &str = "riverlock_component_ready";
/// Whether each component, or one of its parts, lacks a recent heartbeat.
pub const COMPONENT_STUCK: &str = "riverlock_component_stuck";

/// Describes the metrics of components.
pub(crate) fn describe() {
    describe_gauge!(COMPONENT_READY, "1 while the component is ready; /readyz has the reason if it is not");
    describe_gauge!(
        COMPONENT_STUCK,
        "1 while the component has no recent heartbeat; /livez fails then, and the process must be restarted"
    );
}

/// All components of a process. Cheap to clone; all clones share the same state.
#[derive(Clone, Default)]
pub struct Health {
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    /// Components exist as long as the process.
    components: Vec<Arc<State>>,
    /// Parts exist as long as their owner: a task that has ended is neither not ready nor stuck.
    parts: Vec<Weak<State>>,
}

struct State {
    name: &'static str,
    /// The name of the part; `None` for the component itself.
    part: Option<String>,
    /// Why it is not ready; `None` if it is ready.
    obstacle: Mutex<Option<String>>,
    /// Whether it has been ready once.
    has_started: AtomicBool,
    beat: Option<Beat>,
}

struct Beat {
    last: Mutex<Instant>,
    age_max: Duration,
}

/// A component of the process, or a part of one, that reports its state.
#[derive(Clone)]
pub struct Component {
    state: Arc<State>,
    health: Health,
}

/// A problem of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The component's name.
    pub component: &'static str,
    /// The problem; begins with the part's name if it is about a part.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.component, self.reason)
    }
}

impl Health {
    /// Adds a component, which is not ready until it reports so.
    #[must_use]
    pub fn register(&self, name: &'static str) -> Component {
        self.add(name, None)
    }

    /// Adds a component that must call [`Component::beat`] at least every `age_max`; otherwise it counts as stuck.
    #[must_use]
    pub fn register_beating(&self, name: &'static str, age_max: Duration) -> Component {
        self.add(name, Some(Beat::new(age_max)))
    }

    fn add(&self, name: &'static str, beat: Option<Beat>) -> Component {
        let state = Arc::new(State {
            name,
            part: None,
            obstacle: Mutex::new(Some("starting".to_owned())),
            has_started: AtomicBool::new(false),
            beat,
        });
        self.lock().components.push(Arc::clone(&state));
        Component { state, health: self.clone() }
    }

    /// The components that are not ready. If there are none, the process can accept work.
    #[must_use]
    pub fn not_ready(&self) -> Vec<Finding> {
        self.findings(|state| state.obstacle.lock().expect("no code panics while it holds the text").clone())
    }

    /// The components that have not been ready since the process started. A later fault does not add to them.
    #[must_use]
    pub fn not_started(&self) -> Vec<Finding> {
        self.findings(|state| {
            let obstacle = state.obstacle.lock().expect("no code panics while it holds the text").clone();
            if state.has_started.load(Ordering::Relaxed) { None } else { obstacle }
        })
    }

    /// The components without a recent heartbeat. If there are any, the process must be restarted.
    #[must_use]
    pub fn stuck(&self) -> Vec<Finding> {
        self.findings(|state| {
            let beat = state.beat.as_ref()?;
            let age = beat.last.lock().expect("no code panics while it holds the time").elapsed();
            (age > beat.age_max).then(|| {
                format!("last heartbeat {} s ago, at most {} s allowed", age.as_secs(), beat.age_max.as_secs())
            })
        })
    }

    /// Sets the metrics of all components. Called when the page is requested, so that it agrees with `/readyz`.
    pub fn publish(&self) {
        let (not_ready, stuck) = (self.not_ready(), self.stuck());
        let names: BTreeSet<&'static str> = self.lock().components.iter().map(|state| state.name).collect();
        for name in names {
            let is_in = |findings: &[Finding]| findings.iter().any(|finding| finding.component == name);
            let (is_ready, is_stuck) = (!is_in(&not_ready) && !is_in(&stuck), is_in(&stuck));
            gauge!(COMPONENT_READY, "component" => name).set(if is_ready { 1.0 } else { 0.0 });
            gauge!(COMPONENT_STUCK, "component" => name).set(if is_stuck { 1.0 } else { 0.0 });
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().expect("no code panics while it holds the list")
    }

    fn findings(&self, check: impl Fn(&State) -> Option<String>) -> Vec<Finding> {
        let states: Vec<Arc<State>> = {
            let list = self.lock();
            list.components.iter().cloned().chain(list.parts.iter().filter_map(Weak::upgrade)).collect()
        };
        let found = |state: &Arc<State>| {
            let reason = check(state)?;
            let reason = state.part.as_ref().map_or_else(|| reason.clone(), |part| format!("{part}: {reason}"));
            Some(Finding { component: state.name, reason })
        };
        states.iter().filter_map(found).collect()
    }
}

impl Beat {
    fn new(age_max: Duration) -> Self {
        Self { last: Mutex::new(Instant::now()), age_max }
    }
}

impl Component {
    /// Adds a part of the component with its own state, which is independent of the other parts. It is ready until it
    /// reports otherwise, and is removed when its last clone is dropped.
    #[must_use]
    pub fn part(&self, name: impl Into<String>) -> Self {
        self.add_part(name.into(), None)
    }

    /// Like [`Self::part`], for a part that must call [`Self::beat`] at least every `age_max`; otherwise it counts as
    /// stuck.
    #[must_use]
    pub fn part_beating(&self, name: impl Into<String>, age_max: Duration) -> Self {
        self.add_part(name.into(), Some(Beat::new(age_max)))
    }

    fn add_part(&self, part: String, beat: Option<Beat>) -> Self {
        let state = Arc::new(State {
            name: self.state.name,
            part: Some(part),
            obstacle: Mutex::new(None),
            has_started: AtomicBool::new(true),
            beat,
        });
        let mut list = self.health.lock();
        // Parts are added for every task, so ended ones are removed to bound the list.
        list.parts.retain(|part| part.strong_count() > 0);
        list.parts.push(Arc::downgrade(&state));
        drop(list);
        Self { state, health: self.health.clone() }
    }

    /// Reports that the component is ready.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Reports that the component is not ready, with the reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, obstacle: Option<String>) {
        let State { name, part, has_started, .. } = &*self.state;
        has_started.fetch_or(obstacle.is_none(), Ordering::Relaxed);
        let mut current = self.state.obstacle.lock().expect("no code panics while it holds the text");
        if *current != obstacle {
            let part = part.as_ref().map(|part| format!(" ({part})")).unwrap_or_default();
            match &obstacle {
                None => tracing::info!(component = name, "{name}{part} is ready"),
                Some(reason) => tracing::warn!(component = name, "{name}{part} is not ready: {reason}"),
            }
            *current = obstacle;
        }
    }

    /// Waits, with heartbeats in between. Returns at once when `soft` is cancelled.
    pub async fn rest(&self, wait: Duration, soft: &CancellationToken) {
        let Some(until) = Instant::now().checked_add(wait) else { return soft.cancelled().await };
        // Several heartbeats per allowed interval.
        let step = self.state.beat.as_ref().map_or(wait, |beat| beat.age_max / 4).max(Duration::from_millis(1));
        while !soft.is_cancelled() && Instant::now() < until {
            self.beat();
            let next = until.min(Instant::now() + step);
            // A timeout is the normal case.
            let _cancelled = timeout_at(next.into(), soft.cancelled()).await;
        }
        self.beat();
    }

    /// Records a heartbeat.
    pub fn beat(&self) {
        if let Some(beat) = &self.state.beat {
            *beat.last.lock().expect("no code panics while it holds the time") = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_ready_only_after_it_reports_so() {
        let health = Health::default();
        let component = health.register("kafka");
        assert_eq!(health.not_ready()[0].to_string(), "kafka: starting");
        component.ready();
        assert!(health.not_ready().is_empty());
        component.not_ready("broker unavailable");
        assert_eq!(health.not_ready()[0].reason, "broker unavailable");
    }

    #[test]
    fn a_component_has_started_once_it_was_ready() {
        let health = Health::default();
        let component = health.register("kafka");
        component.not_ready("broker unavailable");
        assert_eq!(health.not_started()[0].to_string(), "kafka: broker unavailable");
        component.ready();
        component.not_ready("broker unavailable");
        assert!(health.not_started().is_empty(), "a later fault is no start");
        assert_eq!(health.not_ready().len(), 1);
    }

    #[test]
    fn components_are_published_with_all_their_parts() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let health = Health::default();
        let (consumer, relay) = (health.register("consumer"), health.register("relay"));
        consumer.ready();
        relay.ready();
        let part = consumer.part("worker 0");
        part.not_ready("no connection");
        metrics::with_local_recorder(&recorder, || health.publish());
        let page = recorder.handle().render();
        for line in
            ["riverlock_component_ready{component=\"consumer\"} 0", "riverlock_component_ready{component=\"relay\"} 1"]
        {
            assert!(page.contains(line), "{page}");
        }
        part.ready();
        metrics::with_local_recorder(&recorder, || health.publish());
        assert!(recorder.handle().render().contains("riverlock_component_ready{component=\"consumer\"} 1"));
    }

    #[test]
    fn a_component_without_heartbeats_is_stuck() {
        let health = Health::default();
        let calm = health.register_beating("calm", Duration::from_secs(3600));
        let _stopped = health.register_beating("stopped", Duration::ZERO);
        calm.beat();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(health.stuck().iter().map(|f| f.component).collect::<Vec<_>>(), ["stopped"]);
    }

    #[tokio::test]
    async fn a_resting_component_sends_heartbeats_and_wakes_at_shutdown() {
        let (health, soft) = (Health::default(), CancellationToken::new());
        let component = health.register_beating("job", Duration::from_millis(400));
        component.rest(Duration::from_millis(1_000), &soft).await;
        assert_eq!(health.stuck(), []);
        let began = Instant::now();
        soft.cancel();
        component.rest(Duration::MAX, &soft).await;
        component.rest(Duration::from_secs(3600), &soft).await;
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_state_of_one_part_does_not_hide_that_of_another() {
        let health = Health::default();
        let component = health.register("consumer");
        component.ready();
        let (first, second) = (component.part("worker 0"), component.part("worker 1"));
        first.not_ready("no connection");
        second.ready();
        component.ready();
        assert_eq!(
            health.not_ready().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["consumer: worker 0: no connection"]
        );
    }

    #[test]
    fn an_ended_part_is_removed() {
        let health = Health::default();
        let component = health.register("consumer");
        component.ready();
        for _ in 0..10_000 {
            let part = component.part_beating("worker 0", Duration::ZERO);
            part.not_ready("no connection");
        }
        assert!(health.not_ready().is_empty() && health.stuck().is_empty());
        assert_eq!(health.lock().parts.len(), 1);
    }
}
