//! Configuration of an API: its address and its tokens.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, Secret};

/// Fewest characters of a token: at least 128 bits in any usual encoding.
const TOKEN_CHARS_MIN: usize = 32;

/// Address and tokens of an HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig<const PORT: u16> {
    /// Address to listen on.
    #[serde(default = "loopback::<PORT>")]
    pub listen: SocketAddr,
    /// What clients send as `Authorization: Bearer`: at least 32 random characters. Read again when its file changes.
    pub token: Secret,
    /// A former token that is still accepted, until every client has the new one.
    #[serde(default)]
    pub previous_token: Option<Secret>,
}

fn loopback<const PORT: u16>() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

impl<const PORT: u16> ApiConfig<PORT> {
    /// The default address, with this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { listen: loopback::<PORT>(), token: Secret::new(token), previous_token: None }
    }

    /// Checks the token of the API whose section is `section`.
    ///
    /// # Errors
    /// When a token cannot be read, is too short, or contains characters that cannot be sent in a header.
    pub fn validate(&self, section: &str) -> Result<(), ConfigError> {
        let previous = self.previous_token.iter().map(|token| ("previous_token", token));
        for (key, token) in std::iter::once(("token", &self.token)).chain(previous) {
            let key = format!("{section}.{key}");
            let token = token.read(&key)?;
            if token.len() < TOKEN_CHARS_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason = format!(
                    "must have at least {TOKEN_CHARS_MIN} visible ASCII characters; `openssl rand -hex 32` creates one"
                );
                return Err(ConfigError::refused(key, reason));
            }
        }
        Ok(())
    }
}
