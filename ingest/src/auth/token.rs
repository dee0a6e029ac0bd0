//! OAuth tokens: pure, the time is an argument.
//!
//! A token is `rl1.<issued at>.<expires at>.<HMAC-SHA256>`, times in seconds since 1970. Its key is made from the configured
//! key, the endpoint's name and all of the client's credentials: so every instance can check it, it counts at no other
//! endpoint, and it dies with the client, with its secret and with the key. It names no algorithm, so there is none to choose.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::{
    auth::credentials::{Hash, hash},
    config::{OAuthClientConfig, OAuthConfig},
};

/// What every token starts with.
const VERSION: &str = "rl1";

/// Longest token that is looked at, in bytes; ours are shorter.
const TOKEN_BYTES_MAX: usize = 128;

/// How far the clocks of two instances may be apart, in seconds.
const CLOCKS_APART_SECONDS_MAX: i64 = 60;

/// Why a bearer token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BearerError {
    /// There is none.
    Missing,
    /// It is not one of ours, or not for this endpoint, or its client has changed.
    Invalid,
    /// It counted once.
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

/// Why a client gets no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantError {
    /// There is no such client, or its secret is another.
    Client,
    /// The client is right, but not its user.
    User,
    /// The client is right, but has a user, so a grant without one is not enough.
    UserMissing,
}

/// Which grant is asked for, with what the request gives as user and password (empty when it gives none).
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
    /// Keyed with the client's secret: Salesforce signs its answers so.
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
            // All parts have one length, so no two clients give the same text.
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

    /// How long its tokens count, in seconds.
    pub(crate) fn ttl_seconds(&self) -> i64 {
        self.ttl_seconds
    }

    /// A new token.
    pub(crate) fn issue(&self, now: DateTime<Utc>) -> Option<String> {
        let issued = now.timestamp();
        let signed = format!("{VERSION}.{issued}.{}", issued.checked_add(self.ttl_seconds)?);
        let mac = tag(self.keys.first()?, signed.as_bytes());
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)))
    }

    /// What Salesforce's answer has as `signature`.
    pub(crate) fn sign_answer(&self, id: &str, issued_at: &str) -> [u8; 32] {
        tag(&self.answer_key, format!("{id}{issued_at}").as_bytes())
    }

    /// Whether the token was issued to one of the clients and still counts. Compares with every key of every client.
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
        // The time to live may have been made shorter since.
        let until = expires.min(issued.saturating_add(ttl_seconds));
        if issued > now.saturating_add(CLOCKS_APART_SECONDS_MAX) {
            return Err(BearerError::Invalid);
        }
        if now < until { Ok(()) } else { Err(BearerError::Expired) }
    }

    /// Which of the clients asks for a token. `ids` and `secrets` are all that the request's may stand for. Does the same work
    /// whether there is such a client or not.
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
                // Digital River asks for this grant by default, and the user is optional there.
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

/// When a token was issued, and until when it counts.
fn times(signed: &str) -> Option<(i64, i64)> {
    let mut parts = signed.split('.');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (VERSION, issued, expires, None) => Some((issued.parse().ok()?, expires.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
