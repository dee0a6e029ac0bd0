//! What an endpoint asks a sender to prove.

use chrono::{DateTime, Utc};
use riverlock_runtime::{ConfigError, Secret};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{is_name, name_reason};

/// Shortest signing secret that is accepted, in characters: anything shorter is a placeholder or can be guessed.
pub const SECRET_CHARS_MIN: usize = 16;

/// One signing secret of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// Its name in records and metrics, never the secret itself.
    pub id: String,
    /// The secret as Digital River's dashboard shows it.
    pub secret: Secret,
    /// It counts from then on, RFC 3339.
    #[serde(default, deserialize_with = "time")]
    pub not_before: Option<DateTime<Utc>>,
    /// It counts until then, RFC 3339.
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Reads a time as a text, or as TOML's own kind of value, which arrives here as a table with one key.
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
        D::Error::custom(format!("`{text}` is no time with its zone, such as 2026-01-31T12:00:00Z: {error}"))
    })?;
    Ok(Some(time.to_utc()))
}

impl SecretConfig {
    pub(super) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let refused = |field: &str, reason: String| Err(ConfigError::refused(format!("{key}.{field}"), reason));
        if !is_name(&self.id) {
            return refused("id", name_reason(&self.id));
        }
        let text = self.secret.expose();
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
                refused("expires_at", "is not after not_before, so the secret would never count".to_owned())
            }
            _ => Ok(()),
        }
    }
}
