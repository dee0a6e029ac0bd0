//! `[digital_river]` of the configuration.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use riverlock_runtime::{
    ConfigError, Secret,
    config::{DurationText, UrlText},
};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::http::{address::check_secure, limiter::BACKGROUND_PERCENT};

/// Digital River's address, for live and test data. Source: Digital River, "API structure".
pub const DIGITAL_RIVER: &str = "https://api.digitalriver.com";

/// Requests per second and key in live mode. Source: Digital River, "Rate limits".
pub const LIVE_REQUESTS_PER_SECOND: u32 = 250;

/// Requests per second and key in test mode. Source: Digital River, "Rate limits".
pub const TEST_REQUESTS_PER_SECOND: u32 = 25;

/// Upper limit of every duration.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// Upper limit of `deadline`: leases of background work must be longer than one request with all its attempts.
const DEADLINE_MAX: Duration = Duration::from_secs(300);

/// Upper limit of the setting `attempts_max`.
const ATTEMPTS_MAX: u32 = 100;

/// Upper limit of `body_bytes_max`, in bytes.
const BODY_BYTES_LIMIT: usize = 256 * 1024 * 1024;

/// Digital River's API for webhooks, events and shipments. Without an account here, the address and the keys of
/// `[invoice_fetcher]` are used.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DigitalRiverConfig {
    /// Address of the API, and the only one to which a key is sent. `https`; `http` for a loopback address only.
    #[schemars(with = "UrlText")]
    pub api_base_url: Url,
    /// The account for live data.
    pub live: Option<AccountConfig>,
    /// The account for test data.
    pub test: Option<AccountConfig>,
    /// Networks besides the public ones in which the host of `api_base_url` may be, such as `10.0.0.0/8`.
    #[schemars(with = "Vec<String>")]
    pub private_networks: Vec<IpNet>,
    /// HTTP proxy, such as `http://user:password@proxy:3128`. It gets an encrypted tunnel. Proxies of the environment are never
    /// used.
    #[schemars(example = &"file:/etc/riverlock/secrets/proxy-url")]
    pub proxy: Option<Secret>,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// How long one answer may take, including its body.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub answer_timeout: Duration,
    /// How long a request may take with all its attempts and waits; at most five minutes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub deadline: Duration,
    /// Most attempts at one request.
    pub attempts_max: u32,
    /// Wait after the first failed attempt. It doubles with every further one, with jitter of half.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub wait_first: Duration,
    /// Longest wait between attempts.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub wait_max: Duration,
    /// Longest `Retry-After` that is honoured; a longer one counts as this.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub retry_after_max: Duration,
    /// Largest answer that is read. A page of 100 events with hundreds of lines each has about 10 MB.
    pub body_bytes_max: usize,
    /// Share of the rate limit that background jobs may use.
    pub background_percent: u32,
}

/// An account at Digital River.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Confidential API key. A restricted key is enough: see `docs/operations/digital-river.md`.
    pub api_key: Secret,
    /// When the key was created or changed. A `401` within ten minutes of that time is repeated, because a new key needs up to
    /// ten minutes until it works everywhere.
    #[serde(default)]
    pub key_changed_at: Option<DateTime<Utc>>,
    /// Requests per second that this process may make. Digital River counts per key, so processes that use the same key share
    /// its limit. Without one, what Digital River allows: 250 for live, 25 for test data.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    /// API version that is requested (`DigitalRiver-Version`), a date. Without one, that of the key.
    #[serde(default)]
    #[schemars(example = &"2021-12-13")]
    pub api_version: Option<String>,
}

impl Default for DigitalRiverConfig {
    fn default() -> Self {
        Self {
            api_base_url: Url::parse(DIGITAL_RIVER).expect("the constant is an address"),
            live: None,
            test: None,
            private_networks: Vec::new(),
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            // Long enough for the `Retry-After` of Digital River's documentation, 120 s.
            deadline: DEADLINE_MAX,
            attempts_max: 6,
            wait_first: Duration::from_millis(500),
            wait_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(600),
            body_bytes_max: 32 * 1024 * 1024,
            background_percent: BACKGROUND_PERCENT,
        }
    }
}

impl AccountConfig {
    /// An account with this key and default settings.
    #[must_use]
    pub fn new(api_key: Secret) -> Self {
        Self { api_key, key_changed_at: None, requests_per_second: None, api_version: None }
    }

    /// Requests per second: the configured value, else Digital River's limit for the mode.
    #[must_use]
    pub fn requests_per_second(&self, mode: Mode) -> u32 {
        self.requests_per_second.unwrap_or(match mode {
            Mode::Live => LIVE_REQUESTS_PER_SECOND,
            Mode::Test => TEST_REQUESTS_PER_SECOND,
        })
    }
}

impl DigitalRiverConfig {
    /// The modes that have an account.
    pub fn accounts(&self) -> impl Iterator<Item = (Mode, &AccountConfig)> {
        [(Mode::Live, &self.live), (Mode::Test, &self.test)]
            .into_iter()
            .filter_map(|(mode, account)| Some((mode, account.as_ref()?)))
    }

    /// Checks the values and their combinations, and reads the secrets. Makes no connection.
    ///
    /// # Errors
    /// When a URL could leak a key, a key cannot be read or is of the wrong kind or mode, or a limit is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_secure(&self.api_base_url).map_err(|error| refused("api_base_url", error.to_string()))?;
        if let Some(proxy) = &self.proxy {
            let url = Url::parse(proxy.read("digital_river.proxy")?).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some()) {
                return Err(refused("proxy", "must begin with http:// or https:// and have a host"));
            }
            if self.api_base_url.scheme() != "https" {
                return Err(refused("proxy", "would see the key; api_base_url must begin with https://"));
            }
        }
        for (mode, account) in self.accounts() {
            account.validate(mode)?;
        }
        self.validate_limits()
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        for (key, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("answer_timeout", self.answer_timeout),
            ("deadline", self.deadline),
            ("wait_first", self.wait_first),
            ("wait_max", self.wait_max),
            ("retry_after_max", self.retry_after_max),
        ] {
            if duration.is_zero() || duration > DURATION_MAX {
                return Err(refused(key, "must be above 0 and at most 24h"));
            }
        }
        if self.deadline > DEADLINE_MAX {
            return Err(refused("deadline", "must be at most 5m"));
        }
        if !(1..=ATTEMPTS_MAX).contains(&self.attempts_max) {
            return Err(refused("attempts_max", format!("must be from 1 to {ATTEMPTS_MAX}")));
        }
        if !(1024..=BODY_BYTES_LIMIT).contains(&self.body_bytes_max) {
            return Err(refused("body_bytes_max", format!("must be from 1024 to {BODY_BYTES_LIMIT}")));
        }
        if !(1..=100).contains(&self.background_percent) {
            return Err(refused("background_percent", "must be from 1 to 100"));
        }
        Ok(())
    }
}

impl AccountConfig {
    fn validate(&self, mode: Mode) -> Result<(), ConfigError> {
        let setting = format!("{mode}.api_key");
        let key = self.api_key.read(&format!("digital_river.{setting}"))?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(&setting, "must be the confidential API key: visible ASCII characters, no spaces"));
        }
        // Source: Digital River, OpenAPI description: `sk_test_`, `sk_` and `pk_`. Keys without a known prefix (those of a
        // gateway, of the sandbox) are accepted.
        if key.starts_with("pk_") {
            return Err(refused(&setting, "is a public key (pk_…); the confidential key (sk_…) is needed"));
        }
        match (mode, key.starts_with("sk_test_"), key.starts_with("sk_")) {
            (Mode::Live, true, _) => return Err(refused(&setting, "is a key for test data (sk_test_…)")),
            (Mode::Test, false, true) => return Err(refused(&setting, "is a key for live data (sk_… without test)")),
            _ => {}
        }
        if self.requests_per_second.is_some_and(|rate| !(1..=10_000).contains(&rate)) {
            return Err(refused(&format!("{mode}.requests_per_second"), "must be from 1 to 10000"));
        }
        let is_date = |text: &str| chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok();
        if self.api_version.as_deref().is_some_and(|version| !is_date(version)) {
            return Err(refused(&format!("{mode}.api_version"), "must be a date such as 2021-12-13"));
        }
        Ok(())
    }
}

fn refused(key: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::refused(format!("digital_river.{key}"), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(live: &str, test: &str) -> DigitalRiverConfig {
        let account = |key: &str| (!key.is_empty()).then(|| AccountConfig::new(Secret::new(key)));
        DigitalRiverConfig { live: account(live), test: account(test), ..DigitalRiverConfig::default() }
    }

    #[test]
    fn a_key_of_the_wrong_mode_or_kind_is_rejected_by_its_prefix_and_never_printed() {
        for (live, test, part) in [
            ("sk_test_a1b2c3", "", "live.api_key"),
            ("pk_a1b2c3", "", "live.api_key"),
            ("", "sk_a1b2c3", "test.api_key"),
            ("", "pk_test_a1b2c3", "test.api_key"),
            ("", "two words a1b2c3", "test.api_key"),
        ] {
            let config = with(live, test);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("a1b2c3"), "{error}");
            assert!(!format!("{config:?}").contains("a1b2c3"));
        }
        with("sk_live", "sk_test_x").validate().unwrap();
        with("", "sandbox-confidential-key").validate().unwrap();
    }

    #[test]
    fn values_out_of_range_are_rejected_with_their_key() {
        type Change = fn(&mut DigitalRiverConfig);
        let cases: [(Change, &str); 6] = [
            (|config| config.attempts_max = 0, "attempts_max"),
            (|config| config.background_percent = 101, "background_percent"),
            (|config| config.answer_timeout = Duration::ZERO, "answer_timeout"),
            (|config| config.body_bytes_max = 1, "body_bytes_max"),
            (|config| config.api_base_url = Url::parse("http://10.0.0.1").unwrap(), "api_base_url"),
            (|config| config.proxy = Some(Secret::new("socks5://127.0.0.1")), "proxy"),
        ];
        for (change, key) in cases {
            let mut config = with("", "sk_test_x");
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("digital_river.{key}")), "{error}");
        }
    }
}
