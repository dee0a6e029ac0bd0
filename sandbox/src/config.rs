//! The sandbox's configuration: API key, limits, faults, and the target of events.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use anyhow::{Context as _, ensure};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    faults::Faults,
    sender::sign::{SECRETS_PER_ENDPOINT_MAX, SignatureStyle},
};

/// The time after which Digital River counts a delivery as failed.
/// Source: Digital River, "Webhooks": a response slower than 3000 ms is a timeout.
pub const DELIVERY_TIMEOUT_MILLISECONDS: u64 = 3_000;

/// Requests per second and key in live mode. Source: Digital River, "Rate limits".
pub const RATE_LIMIT_LIVE_PER_SECOND: u32 = 250;

/// Requests per second and key in test mode. Source: Digital River, "Rate limits".
pub const RATE_LIMIT_TEST_PER_SECOND: u32 = 25;

/// First wait before a delivery is retried. Digital River waits minutes.
pub const BACKOFF_BASE_MILLISECONDS: u64 = 200;

/// Longest wait before a delivery is retried. Digital River waits hours.
pub const BACKOFF_CAP_MILLISECONDS: u64 = 5_000;

/// Attempts after which a delivery has failed: about three minutes, while Digital River's live mode retries for 72 hours.
pub const ATTEMPTS_MAX: u32 = 40;

/// Failed attempts in a row after which a registered webhook is disabled. Digital River disables one after several days of
/// failures.
pub const WEBHOOK_FAILURES_MAX: u32 = 20;

/// How long the capture of a fulfillment stays pending. At Digital River it takes seconds to days.
pub const CAPTURE_DELAY_MILLISECONDS: u64 = 1_000;

/// Test or live data. Source: Digital River: every event and object has `liveMode`, and the two never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Test data, low limits.
    #[default]
    Test,
    /// Live data.
    Live,
}

impl Mode {
    /// The value of `liveMode`.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live)
    }

    /// Digital River's rate limit in this mode, requests per second and key.
    pub const fn rate_limit_per_second(self) -> u32 {
        match self {
            Self::Test => RATE_LIMIT_TEST_PER_SECOND,
            Self::Live => RATE_LIMIT_LIVE_PER_SECOND,
        }
    }
}

/// A secret that starts with this is read from the file that follows.
const FILE_PREFIX: &str = "file:";

/// The sandbox, which imitates Digital River. For development only.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// Address of the imitated API.
    pub listen: SocketAddr,
    /// The one API key that it accepts.
    #[schemars(with = "String", extend("format" = "secret"))]
    pub api_key: SecretString,
    /// Test or live data: decides `liveMode` and the default rate limit.
    pub mode: Mode,
    /// Requests per second and key. Without one, Digital River's limit of the mode.
    pub rate_limit_per_second: Option<NonZeroU32>,
    /// What links in answers begin with. Without one, the `Host` of the request.
    #[schemars(with = "Option<String>", extend("format" = "uri"))]
    pub public_url: Option<Url>,
    /// Faults of the file API: `rules`, each with a `fault`, and the `seed` that selects files.
    #[schemars(with = "serde_json::Value")]
    pub faults: Faults,
    /// Failed attempts in a row after which a registered webhook is disabled.
    pub webhook_failures_max: NonZeroU32,
    /// How long the capture of a fulfillment stays pending.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration-text"))]
    pub capture_delay: Duration,
    /// Where `riverlock sandbox play` delivers events. Secrets and retries apply to registered webhooks as well.
    pub target: TargetConfig,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8087)),
            api_key: SecretString::from("sandbox-confidential-key"),
            mode: Mode::default(),
            rate_limit_per_second: None,
            public_url: None,
            faults: Faults::default(),
            webhook_failures_max: NonZeroU32::new(WEBHOOK_FAILURES_MAX).expect("the constant is not 0"),
            capture_delay: Duration::from_millis(CAPTURE_DELAY_MILLISECONDS),
            target: TargetConfig::default(),
        }
    }
}

impl SandboxConfig {
    /// Reads the secrets that are in files.
    ///
    /// # Errors
    /// When one of the files cannot be read.
    pub fn read_secrets(&mut self) -> anyhow::Result<()> {
        let target = &mut self.target;
        let password = target.authentication.as_mut().map(|authentication| &mut authentication.password);
        std::iter::once(&mut self.api_key).chain(&mut target.secrets).chain(password).try_for_each(read)
    }
}

/// Replaces the name of a file by its content, without trailing line feeds.
fn read(secret: &mut SecretString) -> anyhow::Result<()> {
    if let Some(path) = secret.expose_secret().strip_prefix(FILE_PREFIX) {
        let content = std::fs::read_to_string(path).with_context(|| format!("the secret {path} cannot be read"))?;
        *secret = SecretString::from(content.trim_end_matches(['\r', '\n']));
    }
    Ok(())
}

/// Where `riverlock sandbox play` delivers events. Secrets and retries apply to registered webhooks as well.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetConfig {
    /// Address of the receiver.
    #[schemars(with = "String", extend("format" = "uri"))]
    pub address: Url,
    /// The endpoint's signing secrets, at most five. Without any, nothing is signed.
    #[schemars(with = "Vec<String>")]
    #[schemars(example = ["file:/etc/riverlock/secrets/webhook"])]
    pub secrets: Vec<SecretString>,
    /// How the signature header is written.
    pub signature_style: SignatureStyle,
    /// Basic authentication, sent besides the signature.
    pub authentication: Option<BasicAuthentication>,
    /// How long one attempt may take, from connecting to the head of the answer.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration-text"))]
    pub timeout: Duration,
    /// Wait before the second attempt. It doubles with every further one, with jitter of half.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration-text"))]
    pub backoff_base: Duration,
    /// Longest wait.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration-text"))]
    pub backoff_cap: Duration,
    /// Attempts after which the delivery has failed.
    pub attempts_max: NonZeroU32,
}

impl TargetConfig {
    /// Checks the target.
    ///
    /// # Errors
    /// Names the invalid value.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            matches!(self.address.scheme(), "http" | "https"),
            "target address {} is neither http nor https",
            self.address
        );
        ensure!(
            self.secrets.len() <= SECRETS_PER_ENDPOINT_MAX,
            "{} signing secrets: an endpoint has at most {SECRETS_PER_ENDPOINT_MAX}",
            self.secrets.len()
        );
        ensure!(!self.timeout.is_zero(), "the timeout of an attempt must be longer than 0");
        Ok(())
    }
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            address: Url::parse("http://127.0.0.1:8080/webhooks/digital-river").expect("a valid address"),
            secrets: vec![SecretString::from("sandbox-signing-secret")],
            signature_style: SignatureStyle::default(),
            authentication: None,
            timeout: Duration::from_millis(DELIVERY_TIMEOUT_MILLISECONDS),
            backoff_base: Duration::from_millis(BACKOFF_BASE_MILLISECONDS),
            backoff_cap: Duration::from_millis(BACKOFF_CAP_MILLISECONDS),
            attempts_max: NonZeroU32::new(ATTEMPTS_MAX).expect("the constant is not 0"),
        }
    }
}

/// User name and password.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuthentication {
    /// User name.
    #[schemars(example = &"digital-river")]
    pub username: String,
    /// Password.
    #[schemars(with = "String", extend("format" = "secret"))]
    pub password: SecretString,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_prints_no_secret() {
        let config = SandboxConfig::default();
        config.target.validate().unwrap();
        let printed = format!("{config:?}");
        assert!(!printed.contains("sandbox-signing-secret") && !printed.contains("sandbox-confidential-key"));
    }

    #[test]
    fn settings_are_read_by_name_and_unknown_ones_rejected() {
        let read: SandboxConfig =
            serde_json::from_str(r#"{"mode":"live","target":{"timeout":"1s","signature_style":"hex"}}"#).unwrap();
        assert_eq!(read.mode, Mode::Live);
        assert_eq!(read.target.timeout, Duration::from_secs(1));
        assert_eq!(read.target.signature_style, SignatureStyle::Hex);
        assert!(serde_json::from_str::<SandboxConfig>(r#"{"moed":"live"}"#).is_err());
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from file\n").unwrap();
        let text = format!(r#"{{"target":{{"secrets":["as it is","file:{}"]}}}}"#, file.path().display());
        let mut config: SandboxConfig = serde_json::from_str(&text).unwrap();
        config.read_secrets().unwrap();
        let secrets: Vec<&str> = config.target.secrets.iter().map(secrecy::ExposeSecret::expose_secret).collect();
        assert_eq!(secrets, ["as it is", "from file"]);
        let mut config: SandboxConfig = serde_json::from_str(r#"{"api_key":"file:/nowhere"}"#).unwrap();
        assert!(format!("{:#}", config.read_secrets().unwrap_err()).contains("/nowhere"));
    }

    #[test]
    fn a_target_that_is_not_http_is_rejected() {
        let target = TargetConfig { address: Url::parse("ftp://localhost/").unwrap(), ..TargetConfig::default() };
        assert!(target.validate().unwrap_err().to_string().contains("neither http nor https"));
    }
}
