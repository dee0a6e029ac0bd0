//! Who sent a request: every check that an endpoint asks for, and all must pass.
//!
//! Each is made whatever the others gave, and credentials are compared as hashes in constant time: how long a refusal takes
//! tells nothing about them.

pub(crate) mod credentials;
pub(crate) mod guesses;
pub mod signature;
pub(crate) mod token;

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Utc};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    auth::{
        credentials::{Hash, basic, hash},
        signature::{Match, Secret, SignatureError, Verifier},
        token::{BearerError, Client},
    },
    config::{BasicConfig, EndpointConfig},
};

/// Why a request is not believed. The texts go to the sender and tell no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// The signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// User and password are missing or wrong; which, nobody is told.
    #[error("the request lacks the user name and password that are configured here, as basic authentication")]
    Basic,
    /// There is no token, or it does not count here and now; for the operator, not for the sender.
    #[error("the request has no bearer token that counts for this address now: fetch one from the token endpoint")]
    Bearer(BearerError),
}

impl AuthenticationError {
    /// A word for records and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Signature(error) => error.reason(),
            Self::Basic => "basic",
            Self::Bearer(error) => error.reason(),
        }
    }

    /// What the answer's `WWW-Authenticate` says; a signature has no scheme of its own.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Signature(_) => None,
            Self::Basic => Some("Basic realm=\"riverlock\""),
            Self::Bearer(_) => Some("Bearer realm=\"riverlock\""),
        }
    }
}

/// What came of the checks of a request that is not believed; `None` where the endpoint does not ask for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The first that failed: credentials before the signature, whose texts say more.
    pub(crate) error: AuthenticationError,
    pub(crate) basic: Option<bool>,
    pub(crate) bearer: Option<bool>,
}

/// What an endpoint asks of a request; nothing when it says `insecure = true`.
pub(crate) struct Authentication {
    signature: Option<Verifier>,
    basic: Option<Basic>,
    /// The clients whose tokens count; empty when none are asked for.
    clients: Vec<std::sync::Arc<Client>>,
}

impl Authentication {
    pub(crate) fn new(config: &EndpointConfig, clients: Vec<std::sync::Arc<Client>>) -> Self {
        let signature = (!config.secrets.is_empty()).then(|| Verifier::new(config));
        Self { signature, basic: config.basic.as_ref().map(Basic::new), clients }
    }

    /// Whether it asks for anything.
    pub(crate) fn asks(&self) -> bool {
        self.signature.is_some() || self.basic.is_some() || !self.clients.is_empty()
    }

    /// The signing secrets.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = Secret<'_>> {
        self.signature.iter().flat_map(Verifier::secrets)
    }

    /// Whether there is a signature to check, and no secret for it at that time.
    pub(crate) fn lacks_secret(&self, now: DateTime<Utc>) -> bool {
        self.signature.as_ref().is_some_and(|verifier| !verifier.has_active_secret(now))
    }

    /// Checks a request, and says which secret it was signed with, if that was asked for.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Option<Match<'_>>, Failure> {
        let signature = self.signature.as_ref().map(|verifier| {
            let values = headers.get_all(signature::HEADER).iter().map(HeaderValue::as_bytes);
            verifier.verify(values, body, now)
        });
        let basic = self.basic.as_ref().map(|basic| basic.check(headers));
        let bearer = (!self.clients.is_empty()).then(|| bearer(&self.clients, headers, now));
        let fail = |error| Failure { error, basic, bearer: bearer.map(|bearer| bearer.is_ok()) };
        match (basic, bearer, signature) {
            (Some(false), _, _) => Err(fail(AuthenticationError::Basic)),
            (_, Some(Err(error)), _) => Err(fail(AuthenticationError::Bearer(error))),
            (_, _, Some(Err(error))) => Err(fail(error.into())),
            (_, _, Some(Ok(secret))) => Ok(Some(secret)),
            (_, _, None) => Ok(None),
        }
    }
}

/// The user and the password of an endpoint.
struct Basic {
    username: Hash,
    password: Hash,
}

impl Basic {
    fn new(config: &BasicConfig) -> Self {
        Self { username: hash(&config.username), password: hash(config.password.expose()) }
    }

    fn check(&self, headers: &HeaderMap) -> bool {
        let given = authorization(headers).and_then(basic);
        let present = Choice::from(u8::from(given.is_some()));
        let (username, password) = given.unwrap_or_default();
        let same = hash(&username).ct_eq(&self.username) & hash(&password).ct_eq(&self.password);
        (same & present).into()
    }
}

fn bearer(clients: &[std::sync::Arc<Client>], headers: &HeaderMap, now: DateTime<Utc>) -> Result<(), BearerError> {
    let token = authorization(headers).and_then(|value| crate::auth::credentials::scheme(value, "bearer"));
    let token = token.ok_or(BearerError::Missing)?;
    Client::verify(clients.iter().map(AsRef::as_ref), token, now)
}

/// The one `Authorization` header; nothing when there are several, so that no two readers read two different ones.
pub(crate) fn authorization(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Secret;

    use super::*;

    fn accepts(header: &str) -> bool {
        let basic =
            Basic::new(&BasicConfig { username: "river".to_owned(), password: Secret::new("pass:word with é") });
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        basic.check(&headers)
    }

    #[test]
    fn only_the_right_user_with_the_right_password_passes() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let encoded = |text: &str| STANDARD.encode(text);
        let right = encoded("river:pass:word with é");
        for good in
            [format!("Basic {right}"), format!("basic   {right}"), format!("BASIC {}", right.trim_end_matches('='))]
        {
            assert!(accepts(&good), "{good}");
        }
        for bad in [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            right.clone(),
            format!("Bearer {right}"),
            format!("Basic {right} x"),
            format!("Basic {}", encoded(":")),
            format!("Basic {}", encoded("river")),
            format!("Basic {}", encoded("river:")),
            format!("Basic {}", encoded("River:pass:word with é")),
            format!("Basic {}", encoded("river:pass:word with é ")),
            format!("Basic {}", encoded("river:pass:word with ")),
            "Basic ====".to_owned(),
            "Basic \u{7f}".replace('\u{7f}', "%%%"),
        ] {
            assert!(!accepts(&bad), "{bad}");
        }
        assert!(
            !Basic { username: hash(""), password: hash("") }.check(&HeaderMap::new()),
            "no header is no credentials"
        );
    }
}
