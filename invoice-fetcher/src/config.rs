//! The configuration section `[invoice_fetcher]`.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use riverlock_digital_river::http::address::{check_base, check_secure};
use riverlock_ledger::consumer::BatchConfig;
use riverlock_runtime::{
    ConfigError, Secret,
    config::{DurationText, UrlText},
};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{api::ApiConfig, archive::Archive, queue::missing::MissingConfig};

/// URL of Digital River's API. Source: Digital River, "API structure": one host for live and test data.
const DIGITAL_RIVER: &str = "https://api.digitalriver.com";

/// Requests per second that Digital River allows per key. Source: Digital River, "Rate limits".
const LIVE_REQUESTS_PER_SECOND: u32 = 250;
const TEST_REQUESTS_PER_SECOND: u32 = 25;

/// Maximum of `workers`.
const WORKERS_MAX: usize = 1_000;

/// Minimum difference between `lease` and `attempt_deadline`: time to store the result of an attempt.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// Maximum of all configured durations.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Downloads of invoices and credit memos, and their archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InvoiceFetcherConfig {
    /// URL of Digital River's API, the only one to which an API key is sent. `https`; `http` for a loopback address only.
    #[schemars(with = "UrlText")]
    pub api_base_url: Url,
    /// The expected prefix of URLs in events. They are only compared with it, never requested.
    #[schemars(with = "UrlText")]
    pub announced_base_url: Url,
    /// Digital River's account for live data. Without it, documents of this mode wait until it is configured.
    pub live: Option<AccountConfig>,
    /// Digital River's account for test data. Without it, documents of this mode wait until it is configured.
    pub test: Option<AccountConfig>,
    /// Private networks in which the host of `api_base_url` may be, such as `10.0.0.0/8`. Connections to other private
    /// addresses that DNS returns are rejected.
    #[schemars(with = "Vec<String>")]
    pub private_networks: Vec<IpNet>,
    /// HTTP proxy, such as `http://user:password@proxy:3128`. It forwards an encrypted tunnel. Proxies from the environment are
    /// never used.
    #[schemars(example = &"file:/etc/riverlock/secrets/proxy-url")]
    pub proxy: Option<Secret>,
    /// Archive: `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    #[schemars(with = "UrlText")]
    pub store: Url,
    /// Options of the object store, such as `aws_region`, `aws_endpoint`, `google_service_account_path` or
    /// `azure_storage_account_name`. Credentials that are not set here are taken from the environment, as in the vendors' own
    /// tools.
    pub store_options: BTreeMap<String, Secret>,
    /// Concurrent downloads.
    pub workers: usize,
    /// How long a document belongs to the worker that leased it. If the worker is killed, its document waits this long.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub lease: Duration,
    /// Time limit of one attempt, including the wait for the rate limit and storing.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub attempt_deadline: Duration,
    /// Maximum size of a document, bytes.
    pub document_bytes_max: u64,
    /// Minimum average rate of a download, checked after the first five seconds.
    pub rate_min_bytes_per_second: u64,
    /// Whether to request `GET /files/{id}` first and check size, type and purpose. Doubles the number of requests.
    pub check_metadata: bool,
    /// When failed attempts are retried.
    pub retry: RetryConfig,
    /// When a complete order without an invoice is reported.
    pub missing: MissingConfig,
    /// The invoice API. Off unless a token is configured.
    pub api: Option<ApiConfig>,
    /// How records are grouped into transactions.
    pub batch: BatchConfig,
}

/// An account at Digital River.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Confidential API key.
    pub api_key: Secret,
    /// Maximum requests per second of this process. Digital River's limit is per key, so this is the share of this process
    /// among all that use the key. Default: Digital River's limit, 250 for live and 25 for test data.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
}

/// When failed attempts are retried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Wait after the first failed attempt. It doubles with every further one, with a jitter of 50 %.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub wait_first: Duration,
    /// Maximum wait, before jitter.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub wait_max: Duration,
    /// Maximum `Retry-After` that is respected; a longer one is reduced to this.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub retry_after_max: Duration,
    /// How long a document that Digital River does not have is retried, since it was queued.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub not_found_for: Duration,
    /// How long a document is retried in total, since it was queued.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub retry_for: Duration,
}

impl Default for InvoiceFetcherConfig {
    fn default() -> Self {
        let digital_river = Url::parse(DIGITAL_RIVER).expect("the constant is a valid URL");
        Self {
            api_base_url: digital_river.clone(),
            announced_base_url: digital_river,
            live: None,
            test: None,
            private_networks: Vec::new(),
            proxy: None,
            store: Url::parse("file:///var/lib/riverlock/invoices").expect("the constant is a valid URL"),
            store_options: BTreeMap::new(),
            workers: 16,
            lease: Duration::from_secs(120),
            attempt_deadline: Duration::from_secs(60),
            document_bytes_max: 20 * 1024 * 1024,
            rate_min_bytes_per_second: 1_024,
            check_metadata: true,
            retry: RetryConfig::default(),
            missing: MissingConfig::default(),
            api: None,
            batch: BatchConfig::default(),
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            wait_first: Duration::from_secs(5),
            wait_max: Duration::from_secs(6 * 3600),
            retry_after_max: Duration::from_secs(3600),
            not_found_for: Duration::from_secs(72 * 3600),
            retry_for: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl InvoiceFetcherConfig {
    /// Validates the settings and reads the secrets. Opens no connections.
    ///
    /// # Errors
    /// When a URL could leak the key, no account is configured, or a limit is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_addresses()?;
        self.validate_accounts()?;
        self.validate_limits()?;
        self.retry.validate()?;
        self.missing.validate()?;
        self.api.as_ref().map_or(Ok(()), |api| api.validate("invoice_fetcher.api"))?;
        self.batch.validate("invoice_fetcher.batch")?;
        Archive::check(self)
    }

    /// The modes that have an account.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (Mode, &AccountConfig)> {
        [(Mode::Live, &self.live), (Mode::Test, &self.test)]
            .into_iter()
            .filter_map(|(mode, account)| Some((mode, account.as_ref()?)))
    }

    /// The settings that differ in another configuration and need a restart.
    pub(crate) fn outdated_by(&self, new: &Self) -> Vec<String> {
        // Reloadable settings are made equal. All secrets serialize to the same text, so they are compared separately.
        let comparable = |config: &Self| {
            let api = config.api.as_ref().map(|api| ApiConfig { listen: api.listen, ..ApiConfig::new("") });
            serde_json::to_value(Self { live: None, test: None, api, ..config.clone() })
        };
        let mut outdated: Vec<String> = match (comparable(self), comparable(new)) {
            (Ok(serde_json::Value::Object(old)), Ok(serde_json::Value::Object(new))) => {
                old.iter().filter(|(key, value)| new.get(*key) != Some(value)).map(|(key, _)| key.clone()).collect()
            }
            _ => vec!["some settings".to_owned()],
        };
        for (key, differs) in
            [("proxy", self.proxy != new.proxy), ("store_options", self.store_options != new.store_options)]
        {
            if differs && !outdated.iter().any(|outdated| outdated == key) {
                outdated.push(key.to_owned());
            }
        }
        outdated
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let api = &self.api_base_url;
        check_secure(api).or_else(|error| invalid("api_base_url", &error.to_string()))?;
        check_base(&self.announced_base_url).or_else(|error| invalid("announced_base_url", &error.to_string()))?;
        if let Some(proxy) = &self.proxy {
            let url = Url::parse(proxy.read("invoice_fetcher.proxy")?).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some()) {
                return invalid("proxy", "must begin with http:// or https:// and name a host");
            }
            if api.scheme() != "https" {
                return invalid("proxy", "could read the key: api_base_url must begin with https://");
            }
        }
        Ok(())
    }

    fn validate_accounts(&self) -> Result<(), ConfigError> {
        if self.accounts().next().is_none() {
            return Err(ConfigError::refused(
                "invoice_fetcher",
                "no account is configured; set test.api_key, live.api_key or both",
            ));
        }
        for (mode, account) in self.accounts() {
            let key = account.api_key.read(&format!("invoice_fetcher.{mode}.api_key"))?;
            if key.trim().is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return invalid(
                    &format!("{mode}.api_key"),
                    "must be the confidential API key: printable ASCII without spaces",
                );
            }
            if account.requests_per_second.is_some_and(|rate| !(1..=10_000).contains(&rate)) {
                return invalid(&format!("{mode}.requests_per_second"), "must be from 1 to 10000");
            }
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return invalid("workers", &format!("must be from 1 to {WORKERS_MAX}"));
        }
        if self.attempt_deadline < Duration::from_millis(100) {
            return invalid("attempt_deadline", "must be at least 100ms");
        }
        if self.lease < self.attempt_deadline.saturating_add(LEASE_MARGIN) || self.lease > DURATION_MAX {
            return invalid(
                "lease",
                &format!(
                    "must be longer than attempt_deadline by {} s and shorter than a year",
                    LEASE_MARGIN.as_secs()
                ),
            );
        }
        if !(1..=1 << 30).contains(&self.document_bytes_max) {
            return invalid("document_bytes_max", "must be from 1 to 1073741824 (1 GiB)");
        }
        if self.rate_min_bytes_per_second == 0 {
            return invalid("rate_min_bytes_per_second", "must be at least 1");
        }
        Ok(())
    }
}

impl AccountConfig {
    /// Configured requests per second, by default Digital River's limit.
    pub(crate) fn requests_per_second(&self, mode: Mode) -> u32 {
        self.requests_per_second.unwrap_or(match mode {
            Mode::Live => LIVE_REQUESTS_PER_SECOND,
            Mode::Test => TEST_REQUESTS_PER_SECOND,
        })
    }
}

impl RetryConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.wait_first.is_zero() || self.wait_first > self.wait_max {
            return invalid("retry.wait_first", "must be above 0 and at most wait_max");
        }
        let limits = [
            ("wait_max", self.wait_max),
            ("retry_after_max", self.retry_after_max),
            ("not_found_for", self.not_found_for),
            ("retry_for", self.retry_for),
        ];
        match limits.iter().find(|(_, duration)| duration.is_zero() || *duration > DURATION_MAX) {
            Some((key, _)) => invalid(&format!("retry.{key}"), "must be above 0 and at most a year"),
            None => Ok(()),
        }
    }
}

fn invalid<T>(key: &str, reason: &str) -> Result<T, ConfigError> {
    Err(ConfigError::refused(format!("invoice_fetcher.{key}"), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> InvoiceFetcherConfig {
        InvoiceFetcherConfig {
            test: Some(AccountConfig { api_key: Secret::new("key"), requests_per_second: None }),
            ..InvoiceFetcherConfig::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut InvoiceFetcherConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn only_an_account_is_required() {
        config().validate().unwrap();
        let error = InvoiceFetcherConfig::default().validate().unwrap_err().to_string();
        assert!(error.contains("test.api_key"), "{error}");
    }

    #[test]
    fn a_key_is_sent_unencrypted_only_to_loopback_addresses() {
        for address in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/prefix", "https://example.com"] {
            let config = InvoiceFetcherConfig { api_base_url: Url::parse(address).unwrap(), ..config() };
            config.validate().unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        for address in [
            "http://api.digitalriver.com",
            "http://localhost.example.com",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "file:///etc",
            "https://user:password@example.com",
            "https://example.com/?a=b",
            "data:text/plain,x",
        ] {
            let error = refusal(|config| config.api_base_url = Url::parse(address).unwrap());
            assert!(error.contains("invoice_fetcher.api_base_url"), "{address}: {error}");
        }
    }

    #[test]
    fn invalid_values_are_rejected_with_their_key() {
        let account = |key: &str, rate| Some(AccountConfig { api_key: Secret::new(key), requests_per_second: rate });
        for (error, key) in [
            (refusal(|config| config.test = account("a b", None)), "test.api_key"),
            (refusal(|config| config.live = account("", None)), "live.api_key"),
            (refusal(|config| config.live = account("k", Some(0))), "live.requests_per_second"),
            (refusal(|config| config.workers = 0), "workers"),
            (refusal(|config| config.lease = config.attempt_deadline), "lease"),
            (refusal(|config| config.document_bytes_max = 0), "document_bytes_max"),
            (refusal(|config| config.rate_min_bytes_per_second = 0), "rate_min_bytes_per_second"),
            (refusal(|config| config.retry.wait_first = Duration::from_secs(1 << 40)), "retry.wait_first"),
            (refusal(|config| config.retry.retry_for = Duration::MAX), "retry.retry_for"),
            (refusal(|config| config.proxy = Some(Secret::new("socks5://127.0.0.1"))), "proxy"),
            (
                refusal(|config| {
                    config.proxy = Some(Secret::new("http://127.0.0.1:1"));
                    config.api_base_url = Url::parse("http://127.0.0.1:1").unwrap();
                }),
                "proxy",
            ),
            (refusal(|config| config.api = Some(ApiConfig::new("short"))), "api.token"),
            (refusal(|config| config.missing.selling_entities.push(String::new())), "missing.selling_entities"),
            (refusal(|config| config.store = Url::parse("ftp://x/y").unwrap()), "store"),
            (refusal(|config| config.store = Url::parse("s3://").unwrap()), "store"),
            (
                refusal(|config| {
                    config.store = Url::parse("s3://bucket").unwrap();
                    config.store_options.insert("aws_regoin".to_owned(), Secret::new("x"));
                }),
                "store_options.aws_regoin",
            ),
            (refusal(|config| config.batch.workers = 0), "batch.workers"),
        ] {
            assert!(error.contains(&format!("invoice_fetcher.{key}")), "{key}: {error}");
        }
    }

    #[test]
    fn only_settings_that_need_a_restart_are_reported() {
        let old = config();
        let token = "x".repeat(40);
        let with_api = |token: &str, previous: Option<&str>| InvoiceFetcherConfig {
            api: Some(ApiConfig { previous_token: previous.map(Secret::new), ..ApiConfig::new(token) }),
            ..config()
        };
        let live = AccountConfig { api_key: Secret::new("new"), requests_per_second: Some(3) };
        assert_eq!(old.outdated_by(&InvoiceFetcherConfig { live: Some(live), test: None, ..config() }), [""; 0]);
        assert_eq!(with_api("old", None).outdated_by(&with_api(&token, Some("old"))), [""; 0]);
        assert_eq!(old.outdated_by(&with_api(&token, None)), ["api"]);
        assert_eq!(old.outdated_by(&InvoiceFetcherConfig { workers: 3, ..config() }), ["workers"]);
        let options = |value: &str| InvoiceFetcherConfig {
            store_options: [("aws_region".to_owned(), Secret::new(value))].into(),
            ..config()
        };
        assert_eq!(options("a").outdated_by(&options("b")), ["store_options"]);
        assert_eq!(options("a").outdated_by(&options("a")), [""; 0]);
    }

    #[test]
    fn unknown_settings_are_rejected_and_api_keys_are_never_printed() {
        let text = r#"{"test": {"api_key": "canary"}, "lease": "3m", "retry": {"wait_max": "1h"}}"#;
        let config: InvoiceFetcherConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.lease, config.retry.wait_max), (Duration::from_secs(180), Duration::from_secs(3600)));
        assert!(!format!("{config:?}").contains("canary"));
        assert!(!serde_json::to_string(&config).unwrap().contains("canary"));
        assert!(serde_json::from_str::<InvoiceFetcherConfig>(r#"{"leese": "3m"}"#).is_err());
        assert_eq!(config.test.unwrap().requests_per_second(Mode::Test), 25);
    }
}
