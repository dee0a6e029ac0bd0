//! Credentials that endpoints require.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use riverlock_runtime::{ConfigError, Secret, config::DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::config::names::{is_name, name_reason};

/// Shortest signing secret that is accepted, in characters: anything shorter is a placeholder or can be guessed.
pub const SECRET_CHARS_MIN: usize = 16;

/// A signing secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// Name in records and metrics; never the secret itself. A date is a good choice.
    #[schemars(example = &"2026-11")]
    pub id: String,
    /// The secret as Digital River's dashboard shows it; at least 16 characters.
    pub secret: Secret,
    /// The secret is used from this time on.
    #[serde(default, deserialize_with = "time")]
    pub not_before: Option<DateTime<Utc>>,
    /// The secret is used until this time.
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Reads a time from a string or from a TOML datetime, which arrives here as a table with one key.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a time with its zone, such as 2026-01-31T12:00:00Z")]
    enum Written {
        Text(String),
        Toml {
            #[serde(rename = "$__toml_private_datetime")]
            text: String,
        },
    }
    let (Written::Text(text) | Written::Toml { text }) = Written::deserialize(deserializer)?;
    let time = DateTime::parse_from_rfc3339(&text).map_err(|error| {
        D::Error::custom(format!("`{text}` is not a time with its zone, such as 2026-01-31T12:00:00Z: {error}"))
    })?;
    Ok(Some(time.to_utc()))
}

impl SecretConfig {
    pub(super) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("{key}.{field}"), reason));
        if !is_name(&self.id) {
            return refused("id", name_reason(&self.id));
        }
        let text = self.secret.read(&format!("{key}.secret"))?;
        if text.trim().is_empty() {
            return refused("secret", "is empty".to_owned());
        }
        if text.trim() != text {
            return refused("secret", "begins or ends with white space".to_owned());
        }
        if text.chars().count() < SECRET_CHARS_MIN {
            return refused("secret", format!("has fewer than {SECRET_CHARS_MIN} characters"));
        }
        match (self.not_before, self.expires_at) {
            (Some(from), Some(until)) if until <= from => {
                refused("expires_at", "is not after not_before, so the secret would never be active".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Basic authentication of the webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicConfig {
    /// User name, without a colon.
    #[schemars(example = &"digital-river")]
    pub username: String,
    /// Password; at least 12 characters.
    pub password: Secret,
}

impl BasicConfig {
    pub(super) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        user(key, &self.username, &self.password)
    }
}

/// The tokens that ingest issues for endpoints with OAuth clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OAuthConfig {
    /// Keys that sign tokens, at most three, at least 32 characters each. The first one signs, all are accepted, so that a key
    /// can be replaced without a gap. Every instance needs the same keys.
    pub token_keys: Vec<Secret>,
    /// How long a token is valid; one minute to one day.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub token_ttl: Duration,
    /// The `instance_url` of the answer. Without one, the host of the request.
    #[schemars(example = &"https://hooks.shop.example")]
    pub instance_url: Option<String>,
}

impl Default for OAuthConfig {
    fn default() -> Self {
        Self { token_keys: Vec::new(), token_ttl: Duration::from_secs(3_600), instance_url: None }
    }
}

impl OAuthConfig {
    pub(super) fn validate(&self, used: OAuthUse) -> Result<(), ConfigError> {
        let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("ingest.oauth.{field}"), reason));
        if used == OAuthUse::Yes && self.token_keys.is_empty() {
            return refused(
                "token_keys",
                format!(
                    "is empty, but endpoints have oauth clients; expected a random text of at least {TOKEN_KEY_CHARS_MIN} characters, the same for every instance"
                ),
            );
        }
        if self.token_keys.len() > TOKEN_KEYS_MAX {
            return refused(
                "token_keys",
                format!("has {} keys, at most {TOKEN_KEYS_MAX} are allowed", self.token_keys.len()),
            );
        }
        for (index, key) in self.token_keys.iter().enumerate() {
            if key.read(&format!("ingest.oauth.token_keys[{index}]"))?.trim().chars().count() < TOKEN_KEY_CHARS_MIN {
                return refused(
                    &format!("token_keys[{index}]"),
                    format!("has fewer than {TOKEN_KEY_CHARS_MIN} characters"),
                );
            }
        }
        if !TOKEN_TTL.contains(&self.token_ttl) {
            return refused(
                "token_ttl",
                format!("is {:?}, must be from {:?} to {:?}", self.token_ttl, TOKEN_TTL.start(), TOKEN_TTL.end()),
            );
        }
        match &self.instance_url {
            Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => {
                refused("instance_url", format!("`{url}` must begin with https://"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether any endpoint has OAuth clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OAuthUse {
    Yes,
    No,
}

/// Most token keys.
pub const TOKEN_KEYS_MAX: usize = 3;

/// Shortest token key, in characters.
pub const TOKEN_KEY_CHARS_MIN: usize = 32;

/// Shortest password, in characters: anyone can try to guess it.
pub const PASSWORD_CHARS_MIN: usize = 12;

/// Most OAuth clients of an endpoint: a token is compared with those of every client.
pub const CLIENTS_MAX: usize = 8;

/// Longest client id and user name, in characters.
pub const CLIENT_ID_CHARS_MAX: usize = 255;

const TOKEN_TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);

/// A client that Digital River uses to fetch tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuthClientConfig {
    /// `clientID` of the webhook.
    #[schemars(example = &"digital-river")]
    pub client_id: String,
    /// `clientSecret` of the webhook; at least 16 characters.
    pub client_secret: Secret,
    /// `userName` of the webhook; together with the password, or neither.
    #[serde(default)]
    #[schemars(example = &"digital-river")]
    pub username: Option<String>,
    /// `password` of the webhook. For Salesforce this was the password followed by the security token.
    #[serde(default)]
    pub password: Option<Secret>,
}

impl OAuthClientConfig {
    pub(super) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("{key}.{field}"), reason));
        let id_ok = (1..=CLIENT_ID_CHARS_MAX).contains(&self.client_id.len());
        if !id_ok || self.client_id.chars().any(|c| !c.is_ascii_graphic()) {
            return refused(
                "client_id",
                format!("must be 1 to {CLIENT_ID_CHARS_MAX} visible characters without spaces"),
            );
        }
        let secret = self.client_secret.read(&format!("{key}.client_secret"))?;
        if secret.trim() != secret || secret.chars().count() < SECRET_CHARS_MIN {
            return refused(
                "client_secret",
                format!("must be {SECRET_CHARS_MIN} characters or more, without white space at its ends"),
            );
        }
        match (&self.username, &self.password) {
            (None, None) => Ok(()),
            (Some(username), Some(password)) => user(key, username, password),
            (Some(_), None) => refused("password", "is missing, but there is a username".to_owned()),
            (None, Some(_)) => refused("username", "is missing, but there is a password".to_owned()),
        }
    }
}

fn user(key: &str, username: &str, password: &Secret) -> Result<(), ConfigError> {
    let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("{key}.{field}"), reason));
    let name_ok = (1..=CLIENT_ID_CHARS_MAX).contains(&username.len());
    if !name_ok || username.contains(':') || username.chars().any(char::is_control) {
        return refused("username", format!("must be 1 to {CLIENT_ID_CHARS_MAX} characters, without a colon"));
    }
    if password.read(&format!("{key}.password"))?.chars().count() < PASSWORD_CHARS_MIN {
        return refused("password", format!("has fewer than {PASSWORD_CHARS_MIN} characters"));
    }
    Ok(())
}

/// Checks the clients of one endpoint; `ids` collects those of all endpoints.
pub(super) fn clients<'a>(
    key: &str,
    clients: &'a [OAuthClientConfig],
    ids: &mut HashSet<&'a str>,
) -> Result<(), ConfigError> {
    if clients.len() > CLIENTS_MAX {
        return Err(ConfigError::refused(
            format!("{key}.oauth"),
            format!("has {} clients, at most {CLIENTS_MAX} are allowed", clients.len()),
        ));
    }
    for (index, client) in clients.iter().enumerate() {
        let key = format!("{key}.oauth[{index}]");
        client.validate(&key)?;
        if !ids.insert(&client.client_id) {
            let reason = format!("`{}` is already used: all endpoints share the token endpoints", client.client_id);
            return Err(ConfigError::refused(format!("{key}.client_id"), reason));
        }
    }
    Ok(())
}
