//! `[[webhooks]]` of the configuration: the webhooks to register.

use std::collections::{BTreeSet, HashSet};

use riverlock_runtime::{ConfigError, Secret, config::UrlText};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::model::{Basic, OAuth, Spec, Transport};

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Most entries.
const WEBHOOKS_MAX: usize = 100;

/// Most event types of one webhook. The dashboard offers about 140.
const TYPES_MAX: usize = 500;

/// A webhook that should be registered at Digital River.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Name in output and metrics: lower-case letters, digits, `-` and `_`. Digital River does not know it.
    #[schemars(example = &"live")]
    pub name: String,
    /// The entry of `[[ingest.endpoints]]` that accepts its deliveries.
    #[schemars(example = &"live")]
    pub endpoint: String,
    /// Mode of the events, and of the key that registers it.
    pub mode: Mode,
    /// Public address: scheme and host as Digital River reaches them, and the endpoint's path.
    #[schemars(with = "UrlText")]
    #[schemars(example = &"https://hooks.shop.example/webhooks/digital-river/live")]
    pub address: Url,
    /// Event types that it sends; at least one.
    #[schemars(example = ["order.accepted", "order.complete"])]
    pub types: BTreeSet<String>,
    /// API version of the events: `default` (that of the key), `latest` or a date.
    #[serde(default = "default_version")]
    pub api_version: String,
    /// Whether it should send.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Digital River's id of the registration, if address and mode do not identify it: after the address changed.
    #[serde(default)]
    #[schemars(example = &"webhook-id")]
    pub id: Option<String>,
    /// Basic authentication (`transportType: HTTP`).
    #[serde(default)]
    pub basic: Option<BasicLogin>,
    /// A token (`transportType: OAUTH`).
    #[serde(default)]
    pub oauth: Option<OAuthLogin>,
}

/// User name and password with which Digital River authenticates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicLogin {
    /// User name.
    #[schemars(example = &"digital-river")]
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// How Digital River fetches a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuthLogin {
    /// Public address of ingest's token endpoint.
    #[schemars(with = "UrlText")]
    #[schemars(example = &"https://hooks.shop.example/oauth2/token")]
    pub token_endpoint: Url,
    /// Id of the client.
    #[schemars(example = &"digital-river")]
    pub client_id: String,
    /// Secret of the client.
    pub client_secret: Secret,
    /// User name, with grant type `password`.
    #[serde(default)]
    #[schemars(example = &"digital-river")]
    pub username: Option<String>,
    /// Password of the user.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Grant type of the token request.
    #[serde(default)]
    pub grant_type: GrantType,
}

/// `grantType` of a webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// User name and password, in addition to the client's id and secret.
    #[default]
    Password,
    /// Only the client's id and secret.
    ClientCredentials,
}

impl GrantType {
    /// The name that Digital River and token endpoints use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCredentials => "client_credentials",
        }
    }
}

fn default_version() -> String {
    "default".to_owned()
}

fn enabled() -> bool {
    true
}

impl WebhookConfig {
    /// The secrets with their configuration keys.
    fn secrets(&self) -> impl Iterator<Item = (&'static str, &Secret)> {
        let basic = self.basic.iter().map(|basic| ("basic.password", &basic.password));
        let client = self.oauth.iter().map(|oauth| ("oauth.client_secret", &oauth.client_secret));
        let user = self.oauth.iter().filter_map(|oauth| Some(("oauth.password", oauth.password.as_ref()?)));
        basic.chain(client).chain(user)
    }

    /// The registration to request from Digital River.
    #[must_use]
    pub fn spec(&self) -> Spec {
        let transport = match (&self.oauth, &self.basic) {
            (Some(oauth), _) => Transport::OAuth(OAuth {
                token_endpoint: oauth.token_endpoint.to_string(),
                client_id: oauth.client_id.clone(),
                client_secret: Some(oauth.client_secret.clone()),
                username: oauth.username.clone(),
                password: oauth.password.clone(),
                grant_type: Some(oauth.grant_type.as_str().to_owned()),
            }),
            (None, basic) => Transport::Http(
                basic
                    .as_ref()
                    .map(|basic| Basic { username: basic.username.clone(), password: Some(basic.password.clone()) }),
            ),
        };
        Spec {
            types: self.types.clone(),
            address: self.address.to_string(),
            enabled: self.enabled,
            api_version: self.api_version.clone(),
            transport,
        }
    }
}

/// Checks all entries, and reads their secrets.
///
/// # Errors
/// When a secret cannot be read, an entry is incomplete or invalid, or two entries have the same name, or the same mode and
/// address.
pub fn validate(webhooks: &[WebhookConfig]) -> Result<(), ConfigError> {
    if webhooks.len() > WEBHOOKS_MAX {
        return Err(ConfigError::refused("webhooks", format!("has more than {WEBHOOKS_MAX} entries")));
    }
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for (number, webhook) in webhooks.iter().enumerate() {
        let refused = |key: &str, reason: String| ConfigError::refused(format!("webhooks[{number}].{key}"), reason);
        check(webhook).map_err(|(key, reason)| refused(key, reason))?;
        for (key, secret) in webhook.secrets() {
            secret.read(&format!("webhooks[{number}].{key}"))?;
        }
        if !names.insert(webhook.name.as_str()) {
            return Err(refused("name", format!("`{}` is already the name of another webhook", webhook.name)));
        }
        if !addresses.insert((webhook.mode, webhook.address.as_str())) {
            let reason = "is already the address of another webhook of this mode: put all their types into one entry";
            return Err(refused("address", reason.to_owned()));
        }
    }
    Ok(())
}

fn check(webhook: &WebhookConfig) -> Result<(), (&'static str, String)> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if webhook.name.is_empty() || webhook.name.len() > NAME_CHARS_MAX || !webhook.name.chars().all(legal) {
        return Err(("name", format!("must be 1 to {NAME_CHARS_MAX} lower-case letters, digits, `-` and `_`")));
    }
    if webhook.types.is_empty() || webhook.types.len() > TYPES_MAX {
        return Err(("types", format!("must be 1 to {TYPES_MAX} event types")));
    }
    let is_type = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._*".contains(c));
    if let Some(name) = webhook.types.iter().find(|name| !is_type(name)) {
        return Err(("types", format!("`{name}` is not an event type")));
    }
    let version = webhook.api_version.as_str();
    if !matches!(version, "default" | "latest") && chrono::NaiveDate::parse_from_str(version, "%Y-%m-%d").is_err() {
        return Err(("api_version", "must be `default`, `latest` or a date such as 2021-12-13".to_owned()));
    }
    check_public(&webhook.address).map_err(|reason| ("address", reason))?;
    match (&webhook.basic, &webhook.oauth) {
        (Some(_), Some(_)) => Err(("oauth", "cannot be used together with basic".to_owned())),
        (_, Some(oauth)) => {
            check_public(&oauth.token_endpoint).map_err(|reason| ("oauth.token_endpoint", reason))?;
            let complete = oauth.username.is_some() && oauth.password.is_some();
            match oauth.grant_type {
                GrantType::Password if !complete => {
                    Err(("oauth", "grant type `password` needs username and password".to_owned()))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Checks an address that Digital River connects to. Plain `http` is only allowed on loopback, for the sandbox on the same
/// machine.
fn check_public(url: &Url) -> Result<(), String> {
    crate::http::address::check_secure(url).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, address: &str) -> WebhookConfig {
        WebhookConfig {
            name: name.to_owned(),
            endpoint: "digital-river".to_owned(),
            mode: Mode::Test,
            address: Url::parse(address).unwrap(),
            types: ["order.accepted".to_owned()].into(),
            api_version: default_version(),
            enabled: true,
            id: None,
            basic: None,
            oauth: None,
        }
    }

    fn error_text(webhooks: &[WebhookConfig]) -> String {
        validate(webhooks).unwrap_err().to_string()
    }

    #[test]
    fn invalid_entries_are_rejected_with_their_key() {
        let good = webhook("a", "https://h.example/w");
        validate(std::slice::from_ref(&good)).unwrap();
        let mut wrong = good.clone();
        wrong.types.clear();
        assert!(error_text(&[wrong]).contains("webhooks[0].types"));
        for address in ["http://h.example/w", "https://u:p@h.example/w", "https://h.example/w?a=b", "ftp://h.example"] {
            assert!(error_text(&[webhook("a", address)]).contains("webhooks[0].address"), "{address}");
        }
        assert!(error_text(&[good.clone(), webhook("b", "https://h.example/w")]).contains("webhooks[1].address"));
        assert!(error_text(&[good.clone(), webhook("a", "https://h.example/x")]).contains("webhooks[1].name"));
        let oauth = OAuthLogin {
            token_endpoint: Url::parse("https://h.example/oauth2/token").unwrap(),
            client_id: "c".into(),
            client_secret: Secret::new("s"),
            username: None,
            password: None,
            grant_type: GrantType::Password,
        };
        assert!(
            error_text(&[WebhookConfig { oauth: Some(oauth.clone()), ..good.clone() }]).contains("webhooks[0].oauth")
        );
        let unreadable =
            OAuthLogin { username: Some("u".into()), password: Some(Secret::from_file("/no/such/file")), ..oauth };
        let error = error_text(&[WebhookConfig { oauth: Some(unreadable), ..good }]);
        assert!(error.contains("webhooks[0].oauth.password") && error.contains("/no/such/file"), "{error}");
    }
}
