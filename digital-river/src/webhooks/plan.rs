//! Plan of the changes that make Digital River's registrations match the configuration. No I/O.
//!
//! Digital River's webhooks have no names, so a configured webhook is identified by its address, or by the configured id.
//! All other registrations belong to others and are never changed.

use std::collections::{BTreeSet, HashSet};

use riverlock_runtime::Secret;
use riverlock_schemas::Mode;
use serde::Serialize;
use url::Url;

use super::{
    config::WebhookConfig,
    model::{Basic, MASK, OAuth, Registration, Spec, Transport},
};

/// The action for one configured webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Register it: it is missing.
    Create,
    /// Change it: the registration differs.
    Update {
        /// Digital River's id.
        id: String,
        /// The differences.
        differences: Vec<Difference>,
    },
    /// None: it is registered as configured.
    Leave {
        /// Digital River's id.
        id: String,
    },
}

/// A field that differs. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Digital River's name of the field.
    pub field: &'static str,
    /// The registered value.
    pub from: String,
    /// The configured value.
    pub to: String,
}

/// A configured webhook and its action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanStep {
    /// The webhook's name in the configuration.
    pub name: String,
    /// The registration to request.
    pub spec: Spec,
    /// The action.
    pub action: Action,
    /// Further registrations with the same address, which deliver every event again. They are not changed.
    pub also: Vec<String>,
    /// Registrations with another address that send the same types in the same way: the address may have changed.
    pub similar: Vec<(String, String)>,
}

/// State of a configured webhook at Digital River.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegistrationState {
    /// Registered as configured, and enabled.
    Enabled,
    /// Registered but disabled: nothing is delivered.
    Disabled,
    /// Not registered.
    Missing,
    /// Registered and enabled, but its types, transport or address differ from the configuration.
    Differs,
}

impl RegistrationState {
    /// All values.
    pub const ALL: [Self; 4] = [Self::Enabled, Self::Disabled, Self::Missing, Self::Differs];

    /// The name in labels and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Missing => "missing",
            Self::Differs => "differs",
        }
    }
}

impl PlanStep {
    /// The state of the webhook.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        match &self.action {
            Action::Create => RegistrationState::Missing,
            Action::Leave { .. } if self.spec.enabled => RegistrationState::Enabled,
            Action::Leave { .. } => RegistrationState::Disabled,
            Action::Update { differences, .. } => {
                let enabled = differences.iter().find(|difference| difference.field == "enabled");
                match enabled {
                    Some(difference) if difference.from == "false" => RegistrationState::Disabled,
                    _ => RegistrationState::Differs,
                }
            }
        }
    }
}

/// The plan for one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookPlan {
    /// The mode.
    pub mode: Mode,
    /// One step per configured webhook of the mode, in the order of the configuration.
    pub steps: Vec<PlanStep>,
    /// Registrations that are not configured.
    pub foreign: Vec<Registration>,
}

impl WebhookPlan {
    /// Compares the configured webhooks of a mode with the registered ones.
    #[must_use]
    pub fn new(mode: Mode, configured: &[WebhookConfig], registered: &[Registration]) -> Self {
        let configured: Vec<&WebhookConfig> = configured.iter().filter(|webhook| webhook.mode == mode).collect();
        let mut ours = HashSet::new();
        let matches: Vec<Vec<&Registration>> =
            configured.iter().map(|webhook| candidates(webhook, registered)).collect();
        ours.extend(matches.iter().flatten().map(|registration| registration.id.as_str()));
        let foreign: Vec<&Registration> = registered.iter().filter(|other| !ours.contains(other.id.as_str())).collect();
        let steps = configured.iter().zip(&matches).map(|(webhook, found)| step(mode, webhook, found, &foreign));
        Self { mode, steps: steps.collect(), foreign: foreign.iter().copied().cloned().collect() }
    }

    /// Whether no change is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.action, Action::Leave { .. }))
    }

    /// The event types of the configured webhooks of a mode.
    #[must_use]
    pub fn types(mode: Mode, configured: &[WebhookConfig]) -> BTreeSet<&str> {
        let configured = configured.iter().filter(|webhook| webhook.mode == mode);
        configured.flat_map(|webhook| webhook.types.iter().map(String::as_str)).collect()
    }
}

/// The registrations that may be a configured webhook, best match first: the one with the configured id, then those with
/// the address, enabled ones before disabled ones and older ones before newer ones.
fn candidates<'a>(webhook: &WebhookConfig, registered: &'a [Registration]) -> Vec<&'a Registration> {
    let by_id = |other: &Registration| webhook.id.as_deref() == Some(other.id.as_str());
    let mut found: Vec<&Registration> = registered
        .iter()
        .filter(|other| by_id(other) || is_same_address(&other.spec.address, &webhook.address))
        .collect();
    found.sort_by_key(|other| (!by_id(other), !other.spec.enabled, other.created_time, &other.id));
    found
}

fn is_same_address(text: &str, address: &Url) -> bool {
    Url::parse(text).is_ok_and(|url| url == *address)
}

fn step(mode: Mode, webhook: &WebhookConfig, found: &[&Registration], foreign: &[&Registration]) -> PlanStep {
    let spec = webhook.spec();
    let (action, similar) = match found.first() {
        None => {
            let similar = foreign.iter().filter(|other| is_similar(&other.spec, &spec));
            (Action::Create, similar.map(|other| (other.id.clone(), other.spec.address.clone())).collect())
        }
        Some(registration) => {
            let (id, differences) = (registration.id.clone(), differences(mode, registration, &spec));
            let action = if differences.is_empty() { Action::Leave { id } } else { Action::Update { id, differences } };
            (action, Vec::new())
        }
    };
    let also = found.iter().skip(1).map(|registration| registration.id.clone()).collect();
    PlanStep { name: webhook.name.clone(), spec, action, also, similar }
}

/// Whether a registration differs mainly in its address.
fn is_similar(other: &Spec, wanted: &Spec) -> bool {
    let path = |address: &str| Url::parse(address).map(|url| url.path().trim_end_matches('/').to_owned()).ok();
    other.types == wanted.types
        && other.transport.name() == wanted.transport.name()
        && path(&other.address) == path(&wanted.address)
}

/// The differences between a registration and the requested one.
#[must_use]
pub fn differences(mode: Mode, registration: &Registration, wanted: &Spec) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |field, from: String, to: String| found.push(Difference { field, from, to });
    let current = &registration.spec;
    if registration.live_mode.is_some_and(|live| Mode::from_live(live) != mode) {
        add("liveMode", (!mode.is_live()).to_string(), mode.is_live().to_string());
    }
    let address = Url::parse(&current.address).map(String::from);
    if address.as_ref() != Ok(&wanted.address) {
        add("address", current.address.clone(), wanted.address.clone());
    }
    if current.types != wanted.types {
        let list = |types: &BTreeSet<String>| types.iter().cloned().collect::<Vec<_>>().join(", ");
        add("types", list(&current.types), list(&wanted.types));
    }
    if current.enabled != wanted.enabled {
        add("enabled", current.enabled.to_string(), wanted.enabled.to_string());
    }
    // `default` and `latest` may be returned as the corresponding date.
    if is_date(&wanted.api_version) && current.api_version != wanted.api_version {
        add("apiVersion", current.api_version.clone(), wanted.api_version.clone());
    }
    transport_differences(&current.transport, &wanted.transport, &mut add);
    found
}

fn is_date(version: &str) -> bool {
    !matches!(version, "default" | "latest")
}

fn transport_differences(current: &Transport, wanted: &Transport, add: &mut impl FnMut(&'static str, String, String)) {
    match (current, wanted) {
        (Transport::Http(Some(current)), Transport::Http(Some(wanted))) => {
            let Basic { username, password } = wanted;
            differ(add, "authentication.username", &current.username, username);
            secret(add, "authentication.password", current.password.as_ref(), password.as_ref());
        }
        (Transport::Http(None), Transport::Http(None)) => {}
        (Transport::OAuth(current), Transport::OAuth(wanted)) => {
            let OAuth { token_endpoint, client_id, client_secret, username, password, grant_type } = wanted;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let normal =
                Url::parse(&current.token_endpoint).map_or_else(|_| current.token_endpoint.clone(), String::from);
            differ(add, "oauth.tokenEndPoint", &normal, token_endpoint);
            differ(add, "oauth.clientID", &current.client_id, client_id);
            secret(add, "oauth.clientSecret", current.client_secret.as_ref(), client_secret.as_ref());
            differ(add, "oauth.userName", &text(&current.username), &text(username));
            secret(add, "oauth.password", current.password.as_ref(), password.as_ref());
            if current.grant_type.is_some() {
                differ(add, "oauth.grantType", &text(&current.grant_type), &text(grant_type));
            }
        }
        (current, wanted) => add("transportType", current.name().to_owned(), wanted.name().to_owned()),
    }
}

fn differ(add: &mut impl FnMut(&'static str, String, String), field: &'static str, from: &str, to: &str) {
    if from != to {
        add(field, from.to_owned(), to.to_owned());
    }
}

/// Digital River returns secrets decrypted; if it does not return one, it cannot be compared and counts as equal.
fn secret(
    add: &mut impl FnMut(&'static str, String, String),
    field: &'static str,
    from: Option<&Secret>,
    to: Option<&Secret>,
) {
    if from.is_some() && from != to {
        let mask = |secret: Option<&Secret>| secret.map_or_else(String::new, |_| MASK.to_owned());
        add(field, mask(from), mask(to));
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn webhook(name: &str, address: &str) -> WebhookConfig {
        let text = format!(
            r#"{{"name":"{name}","endpoint":"e","mode":"test","address":"{address}","types":["order.accepted","order.complete"],
                "oauth":{{"token_endpoint":"https://h.example/token","client_id":"c","client_secret":"one",
                          "username":"u","password":"two"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn registered(id: &str, webhook: &WebhookConfig) -> Registration {
        let created_time = Some(DateTime::UNIX_EPOCH);
        Registration {
            id: id.into(),
            spec: webhook.spec(),
            live_mode: Some(false),
            created_time,
            updated_time: created_time,
        }
    }

    fn fields(plan: &WebhookPlan) -> Vec<&'static str> {
        match &plan.steps[0].action {
            Action::Update { differences, .. } => differences.iter().map(|difference| difference.field).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn missing_webhooks_are_created_and_matching_ones_left() {
        let configured = [webhook("a", "https://h.example/a/"), webhook("b", "https://h.example/b")];
        let other = registered("9", &webhook("x", "https://elsewhere.example/x"));
        let plan = WebhookPlan::new(Mode::Test, &configured, &[registered("1", &configured[0]), other.clone()]);
        assert_eq!(plan.steps[0].action, Action::Leave { id: "1".into() });
        assert_eq!(plan.steps[1].action, Action::Create);
        assert_eq!(plan.foreign, [other]);
        assert!(!plan.is_empty());
        let both = [registered("1", &configured[0]), registered("2", &configured[1])];
        assert!(WebhookPlan::new(Mode::Test, &configured, &both).is_empty());
        assert_eq!(WebhookPlan::new(Mode::Live, &configured, &both).steps, []);
    }

    #[test]
    fn every_field_is_compared_and_secrets_are_masked() {
        let configured = [webhook("a", "https://h.example/a")];
        type Change = fn(&mut Registration);
        let changes: [(Change, &[&str]); 8] = [
            (|other| other.spec.enabled = false, &["enabled"]),
            (|other| drop(other.spec.types.pop_first()), &["types"]),
            (|other| other.live_mode = Some(true), &["liveMode"]),
            (|other| other.spec.api_version = "2021-12-13".into(), &[]),
            (|other| other.spec.transport = Transport::Http(None), &["transportType"]),
            (
                |other| with_oauth(other, |oauth| oauth.client_secret = Some(Secret::new("three"))),
                &["oauth.clientSecret"],
            ),
            (|other| with_oauth(other, |oauth| oauth.password = None), &[]),
            (|other| with_oauth(other, |oauth| oauth.username = None), &["oauth.userName"]),
        ];
        for (change, expected) in changes {
            let mut other = registered("1", &configured[0]);
            change(&mut other);
            let plan = WebhookPlan::new(Mode::Test, &configured, &[other]);
            assert_eq!(fields(&plan), expected);
            assert!(!format!("{plan:?}").contains("three"));
        }
    }

    fn with_oauth(registration: &mut Registration, change: impl FnOnce(&mut OAuth)) {
        let Transport::OAuth(oauth) = &mut registration.spec.transport else { panic!("no OAuth") };
        change(oauth);
    }

    #[test]
    fn a_changed_address_is_matched_by_the_configured_id_or_reported_as_similar() {
        let old = registered("1", &webhook("a", "https://old.example/a"));
        let mut wanted = webhook("a", "https://new.example/a");
        let plan = WebhookPlan::new(Mode::Test, std::slice::from_ref(&wanted), std::slice::from_ref(&old));
        assert_eq!(plan.steps[0].action, Action::Create);
        assert_eq!(plan.steps[0].similar, [("1".to_owned(), "https://old.example/a".to_owned())]);
        wanted.id = Some("1".into());
        let plan = WebhookPlan::new(Mode::Test, &[wanted], &[old]);
        assert_eq!((fields(&plan), plan.foreign.len()), (vec!["address"], 0));
    }

    #[test]
    fn of_two_registrations_with_one_address_the_enabled_one_is_used_and_the_other_listed() {
        let configured = [webhook("a", "https://h.example/a")];
        let (mut one, two) = (registered("1", &configured[0]), registered("2", &configured[0]));
        one.spec.enabled = false;
        let plan = WebhookPlan::new(Mode::Test, &configured, &[one, two]);
        assert_eq!(
            (&plan.steps[0].action, &plan.steps[0].also),
            (&Action::Leave { id: "2".into() }, &vec!["1".to_owned()])
        );
        assert_eq!(plan.foreign, []);
    }
}
