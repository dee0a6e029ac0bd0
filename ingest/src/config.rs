//! `[ingest]` of the configuration.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use riverlock_runtime::{ConfigError, config::DurationText};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::names::{is_name, name_reason};

use self::credentials::OAuthUse;

mod credentials;
mod edge;
pub(crate) mod limits;
mod quarantine;

pub use credentials::{
    BasicConfig, CLIENT_ID_CHARS_MAX, CLIENTS_MAX, OAuthClientConfig, OAuthConfig, PASSWORD_CHARS_MIN,
    SECRET_CHARS_MIN, SecretConfig, TOKEN_KEY_CHARS_MIN, TOKEN_KEYS_MAX,
};
pub use edge::{AddressRanges, DIGITAL_RIVER, DIGITAL_RIVER_RANGES, NoRange, TlsConfig};
pub use limits::LimitsConfig;
pub use names::NO_ENDPOINT;
pub use quarantine::QuarantineConfig;

/// Most signing secrets that an endpoint may have.
///
/// Source: Digital River keeps at most five secrets per endpoint while they are rotated.
pub const SECRETS_MAX: usize = 5;

/// Paths of the token endpoint, if an endpoint has OAuth clients: the usual one, and Salesforce's, which an existing
/// webhook may be configured with.
pub const TOKEN_PATHS: [&str; 2] = ["/oauth2/token", "/services/oauth2/token"];

/// Longest tolerance of a signature's age: a longer one would make the check pointless.
const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Shortest tolerance other than 0: timestamps are whole seconds.
const TOLERANCE_MIN: Duration = Duration::from_secs(1);

/// The webhook endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Address to listen on, for Digital River or a proxy.
    pub listen: SocketAddr,
    /// How often the configuration and the files that it names are checked. A change is used once two checks agree on it, so
    /// that a partly written file is not used; SIGHUP checks at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub reload_interval: Duration,
    /// TLS on the listener. Without it, a proxy must terminate TLS.
    pub tls: Option<TlsConfig>,
    /// Proxies whose `X-Forwarded-For` names the client: addresses or CIDR ranges.
    pub trusted_proxies: AddressRanges,
    /// Addresses from which requests are accepted: addresses, CIDR ranges, or `"digital-river"` for Digital River's published
    /// list. Empty: every address. The list only reduces noise; the signature protects the endpoint.
    ///
    /// A request through a trusted proxy that names no client is rejected if there is a list, even if the list contains the
    /// proxy.
    pub allow: AddressRanges,
    /// Limits of what is accepted at once and of how long it may take.
    pub limits: LimitsConfig,
    /// Quarantine of events that fail authentication.
    pub quarantine: QuarantineConfig,
    /// The tokens of endpoints with OAuth clients.
    pub oauth: OAuthConfig,
    /// The paths that accept webhooks; at least one.
    pub endpoints: Vec<EndpointConfig>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            reload_interval: Duration::from_secs(2),
            tls: None,
            trusted_proxies: AddressRanges::default(),
            allow: AddressRanges::default(),
            limits: LimitsConfig::default(),
            quarantine: QuarantineConfig::default(),
            oauth: OAuthConfig::default(),
            endpoints: Vec::new(),
        }
    }
}

/// A path that accepts webhooks. Everything that is configured of `secrets`, `basic` and `oauth` must pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Name in records, logs and metrics: lower-case letters, digits, `-` and `_`.
    #[schemars(example = &"live")]
    pub name: String,
    /// Path, such as `/webhooks/digital-river`. It is accepted with and without a slash at its end.
    #[schemars(example = &"/webhooks/digital-river/live")]
    pub path: String,
    /// Events that are expected here. An event of the other mode is stored all the same, and counted.
    #[serde(default)]
    pub mode: EndpointMode,
    /// The signing secrets, one to five; several while they are rotated.
    #[serde(default)]
    pub secrets: Vec<SecretConfig>,
    /// Basic authentication.
    #[serde(default)]
    pub basic: Option<BasicConfig>,
    /// OAuth clients, at most eight, that may fetch a token for this endpoint at `/oauth2/token` or `/services/oauth2/token`.
    /// Every event must then carry such a token.
    #[serde(default)]
    pub oauth: Vec<OAuthClientConfig>,
    /// Addresses from which requests to this endpoint are accepted, instead of the list of `[ingest]`.
    #[serde(default)]
    #[schemars(example = ["digital-river"])]
    pub allow: Option<AddressRanges>,
    /// How far a signature's timestamp may be from the clock, in either direction; `0s` turns the check off.
    #[serde(default = "default_tolerance", with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub tolerance: Duration,
    /// Accepts unauthenticated events. Use it only if no untrusted sender can reach the address.
    #[serde(default)]
    pub insecure: bool,
}

fn default_tolerance() -> Duration {
    Duration::from_secs(300)
}

/// Events that an endpoint expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// Only events with `liveMode: true`.
    Live,
    /// Only events with `liveMode: false`.
    Test,
    /// Either.
    #[default]
    Both,
}

impl EndpointMode {
    /// Whether an event of this mode is expected. An event without a mode always is.
    #[must_use]
    pub fn expects(self, mode: Option<Mode>) -> bool {
        match (self, mode) {
            (Self::Both, _) | (_, None) => true,
            (Self::Live, Some(mode)) => mode.is_live(),
            (Self::Test, Some(mode)) => !mode.is_live(),
        }
    }
}

impl IngestConfig {
    /// Checks the values and their combinations.
    ///
    /// # Errors
    /// When a limit is out of range, there is no endpoint, or an endpoint is incomplete or duplicates another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        self.quarantine.validate()?;
        if !(Duration::from_millis(50)..=Duration::from_secs(3_600)).contains(&self.reload_interval) {
            let reason = format!("is {:?}, must be from 50ms to 1h", self.reload_interval);
            return Err(ConfigError::refused("ingest.reload_interval", reason));
        }
        if self.endpoints.is_empty() {
            return Err(ConfigError::refused(
                "ingest.endpoints",
                "is empty; expected at least one endpoint with name, path and secrets",
            ));
        }
        self.oauth.validate(if self.uses_oauth() { OAuthUse::Yes } else { OAuthUse::No })?;
        let (mut names, mut paths, mut clients) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let key = format!("ingest.endpoints[{index}]");
            endpoint.validate(&key)?;
            credentials::clients(&key, &endpoint.oauth, &mut clients)?;
            if TOKEN_PATHS.contains(&without_slash(&endpoint.path)) {
                let reason = format!("`{}` is the path of the token endpoint", endpoint.path);
                return Err(ConfigError::refused(format!("{key}.path"), reason));
            }
            if !names.insert(&endpoint.name) {
                return Err(ConfigError::refused(
                    format!("{key}.name"),
                    format!("`{}` is already used", endpoint.name),
                ));
            }
            if !paths.insert(without_slash(&endpoint.path)) {
                return Err(ConfigError::refused(
                    format!("{key}.path"),
                    format!("`{}` is already used (a trailing slash makes no difference)", endpoint.path),
                ));
            }
        }
        Ok(())
    }
}

impl IngestConfig {
    /// Whether any endpoint has OAuth clients.
    #[must_use]
    pub fn uses_oauth(&self) -> bool {
        self.endpoints.iter().any(|endpoint| !endpoint.oauth.is_empty())
    }

    /// The keys whose values differ in `other` and are only read at start.
    pub(crate) fn fixed_changes(&self, other: &Self) -> Vec<&'static str> {
        let changes = [
            ("ingest.listen", self.listen != other.listen),
            ("ingest.reload_interval", self.reload_interval != other.reload_interval),
            ("ingest.tls", self.tls.is_some() != other.tls.is_some()),
            ("ingest.limits", self.limits != other.limits),
            ("ingest.quarantine", self.quarantine != other.quarantine),
        ];
        changes.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
    }
}

impl EndpointConfig {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("{key}.{field}"), reason));
        if !is_name(&self.name) || self.name == NO_ENDPOINT {
            return refused("name", name_reason(&self.name));
        }
        if !self.path.starts_with('/') {
            return refused("path", format!("`{}` must begin with a slash", self.path));
        }
        if self.path.chars().any(|c| !c.is_ascii_graphic() || "?#".contains(c)) {
            return refused("path", format!("`{}` must be only a path: no query, no spaces", self.path));
        }
        if self.path.contains("//") {
            return refused("path", format!("`{}` has two consecutive slashes, which are treated as one", self.path));
        }
        let asks = !self.secrets.is_empty() || self.basic.is_some() || !self.oauth.is_empty();
        if !asks && !self.insecure {
            return refused("secrets", "is empty; expected the signing secret of this endpoint from Digital River's dashboard, or basic or oauth (or, for an address that only trusted senders can reach, insecure = true)".to_owned());
        }
        if asks && self.insecure {
            return refused(
                "insecure",
                "is true, but secrets, basic or oauth are configured; remove one of the two".to_owned(),
            );
        }
        // 0 disables the check; a value that would be rounded to 0 must not.
        if !self.tolerance.is_zero() && !(TOLERANCE_MIN..=TOLERANCE_MAX).contains(&self.tolerance) {
            let reason = format!(
                "is {:?}, must be 0s (not checked) or from {TOLERANCE_MIN:?} to {TOLERANCE_MAX:?}",
                self.tolerance
            );
            return refused("tolerance", reason);
        }
        if self.secrets.len() > SECRETS_MAX {
            let reason =
                format!("has {} secrets; Digital River has at most {SECRETS_MAX} at a time", self.secrets.len());
            return refused("secrets", reason);
        }
        if let Some(basic) = &self.basic {
            basic.validate(&format!("{key}.basic"))?;
            if !self.oauth.is_empty() {
                return refused(
                    "oauth",
                    "cannot be combined with basic: both need the request's one Authorization header".to_owned(),
                );
            }
        }
        let mut ids = HashSet::new();
        for (index, secret) in self.secrets.iter().enumerate() {
            let key = format!("{key}.secrets[{index}]");
            secret.validate(&key)?;
            if !ids.insert(&secret.id) {
                return Err(ConfigError::refused(format!("{key}.id"), format!("`{}` is already used", secret.id)));
            }
        }
        Ok(())
    }
}

/// The path without a trailing slash.
pub(crate) fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

mod names;
#[cfg(test)]
mod tests;
