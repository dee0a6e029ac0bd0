//! OAuth tokens. No I/O; the time is an argument.
//!
//! A token is `rl1.<issued at>.<expires at>.<HMAC-SHA256>`, times in seconds since 1970. Its key is derived from the
//! configured key, the endpoint's name and all of the client's credentials. So every instance can verify it, it is not
//! valid at any other endpoint, and it becomes invalid when the client, its secret or the key is removed or changed. It
//! names no algorithm, so there is none to downgrade.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::{
    config::{OAuthClientConfig, OAuthConfig},
    hash::{Hash, hash},
};

/// Prefix of every token.
const VERSION: &str = "rl1";

/// Longest token that is verified, in bytes; issued tokens are shorter.
const TOKEN_BYTES_MAX: usize = 128;

/// Tolerated difference between the clocks of two instances, in seconds.
const CLOCKS_APART_SECONDS_MAX: i64 = 60;

/// Why a bearer token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BearerError {
    /// The request has no token.
    Missing,
    /// The token was not issued here or not for this endpoint, or its client's credentials have changed.
    Invalid,
    /// The token was valid, but has expired.
    Expired,
}

impl BearerError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Missing => "bearer_missing",
            Self::Invalid => "bearer_invalid",
            Self::Expired => "bearer_expired",
        }
    }
}

/// Why a token request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantError {
    /// The client is unknown, or its secret is wrong.
    Client,
    /// The client is correct, but its user is not.
    User,
    /// The client is correct, but has a user, which the grant does not include.
    UserMissing,
}

/// The requested grant, with the user name and password of the request (empty if it has none).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grant<'a> {
    Password { username: &'a str, password: &'a str },
    ClientCredentials,
}

/// A client that may fetch tokens for an endpoint.
pub(crate) struct Client {
    pub(crate) endpoint: String,
    pub(crate) id: String,
    id_hash: Hash,
    secret_hash: Hash,
    user: Option<(Hash, Hash)>,
    /// One for each configured key, in its order.
    keys: Vec<Hmac<Sha256>>,
    /// Keyed with the client's secret, as Salesforce signs its answers.
    answer_key: Hmac<Sha256>,
    ttl_seconds: i64,
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl Client {
    pub(crate) fn new(endpoint: &str, config: &OAuthClientConfig, oauth: &OAuthConfig) -> Self {
        let secret = config.client_secret.expose();
        let (id_hash, secret_hash) = (hash(&config.client_id), hash(secret));
        let user = config.username.as_deref().zip(config.password.as_ref());
        let user = user.map(|(name, password)| (hash(name), hash(password.expose())));
        let (username, password) = user.unwrap_or_default();
        let derive = |key: &riverlock_runtime::Secret| {
            let mut mac = keyed(key.expose().as_bytes());
            // All parts have the same length, so no two clients produce the same input.
            for part in [hash("riverlock bearer token"), hash(endpoint), id_hash, secret_hash, username, password] {
                mac.update(&part);
            }
            keyed(&mac.finalize().into_bytes())
        };
        Self {
            endpoint: endpoint.to_owned(),
            id: config.client_id.clone(),
            id_hash,
            secret_hash,
            user,
            keys: oauth.token_keys.iter().map(derive).collect(),
            answer_key: keyed(secret.as_bytes()),
            ttl_seconds: i64::try_from(oauth.token_ttl.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// Lifetime of the client's tokens, in seconds.
    pub(crate) fn ttl_seconds(&self) -> i64 {
        self.ttl_seconds
    }

    /// Issues a token; `None` without a token key or if the expiry overflows.
    pub(crate) fn issue(&self, now: DateTime<Utc>) -> Option<String> {
        let issued = now.timestamp();
        let signed = format!("{VERSION}.{issued}.{}", issued.checked_add(self.ttl_seconds)?);
        let mac = tag(self.keys.first()?, signed.as_bytes());
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)))
    }

    /// The field `signature` of Salesforce's answer.
    pub(crate) fn sign_answer(&self, id: &str, issued_at: &str) -> [u8; 32] {
        tag(&self.answer_key, format!("{id}{issued_at}").as_bytes())
    }

    /// Checks that the token was issued to one of the clients and has not expired. Compares it with every key of every
    /// client.
    pub(crate) fn verify<'a>(
        clients: impl Iterator<Item = &'a Self>,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(), BearerError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BearerError::Invalid);
        }
        let (signed, given) = token.rsplit_once('.').ok_or(BearerError::Invalid)?;
        let given: [u8; 32] =
            URL_SAFE_NO_PAD.decode(given).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BearerError::Invalid)?;
        let mut ttl_seconds = None;
        for client in clients {
            let hit =
                client.keys.iter().fold(Choice::from(0), |hit, key| hit | tag(key, signed.as_bytes()).ct_eq(&given));
            if hit.into() {
                ttl_seconds = Some(client.ttl_seconds);
            }
        }
        let ttl_seconds = ttl_seconds.ok_or(BearerError::Invalid)?;
        let (issued, expires) = times(signed).ok_or(BearerError::Invalid)?;
        let now = now.timestamp();
        // The configured lifetime may have been shortened since the token was issued.
        let until = expires.min(issued.saturating_add(ttl_seconds));
        if issued > now.saturating_add(CLOCKS_APART_SECONDS_MAX) {
            return Err(BearerError::Invalid);
        }
        if now < until { Ok(()) } else { Err(BearerError::Expired) }
    }

    /// Finds the client of a token request. `ids` and `secrets` are all possible readings of the request's credentials.
    /// Does the same work whether or not the client exists.
    pub(crate) fn find<'a>(
        clients: impl Iterator<Item = &'a Self>,
        ids: &[&str],
        secrets: &[&str],
        grant: Grant<'_>,
    ) -> Result<&'a Self, GrantError> {
        let hashes = |texts: &[&str]| texts.iter().map(|text| hash(text)).collect::<Vec<Hash>>();
        let (ids, secrets) = (hashes(ids), hashes(secrets));
        let (username, password) = match grant {
            Grant::Password { username, password } => (username, password),
            Grant::ClientCredentials => ("", ""),
        };
        let anonymous = Choice::from(u8::from(username.is_empty() && password.is_empty()));
        let (username, password) = (hash(username), hash(password));
        let mut found = Err(GrantError::Client);
        for client in clients {
            let any =
                |given: &[Hash], expected: &Hash| given.iter().fold(Choice::from(0), |ok, it| ok | it.ct_eq(expected));
            let client_ok = any(&ids, &client.id_hash) & any(&secrets, &client.secret_hash);
            let (expected_name, expected_password) = client.user.unwrap_or_default();
            let user_ok = username.ct_eq(&expected_name) & password.ct_eq(&expected_password);
            let result = match (client.user.is_some(), grant) {
                (true, Grant::Password { .. }) if user_ok.into() => Ok(client),
                (true, Grant::ClientCredentials) => Err(GrantError::UserMissing),
                // Digital River requests this grant by default, and its user is optional.
                (false, Grant::Password { .. }) if anonymous.into() => Ok(client),
                (false, Grant::ClientCredentials) => Ok(client),
                (_, Grant::Password { .. }) => Err(GrantError::User),
            };
            if client_ok.into() {
                found = result;
            }
        }
        found
    }
}

fn tag(key: &Hmac<Sha256>, text: &[u8]) -> [u8; 32] {
    let mut mac = key.clone();
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// The times at which a token was issued and expires.
fn times(signed: &str) -> Option<(i64, i64)> {
    let mut parts = signed.split('.');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (VERSION, issued, expires, None) => Some((issued.parse().ok()?, expires.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
