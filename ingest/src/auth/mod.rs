//! Authentication of requests: all checks that an endpoint requires must pass.
//!
//! Every check runs regardless of the results of the others, and credentials are compared as hashes in constant time, so
//! the time that a rejection takes reveals nothing about them.

pub(crate) mod credentials;
pub(crate) mod guesses;
pub mod signature;
pub(crate) mod token;

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Utc};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    auth::{
        credentials::basic,
        signature::{Match, Secret, SignatureError, Verifier},
        token::{BearerError, Client},
    },
    config::{BasicConfig, EndpointConfig},
    hash::{Hash, hash},
};

/// Why a request is not authenticated. The texts are sent to the client and reveal no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// The signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// User name and password are missing or wrong; which of the two is not disclosed.
    #[error("the request lacks the user name and password that are configured here, as basic authentication")]
    Basic,
    /// The token is missing or not valid. The detail is for the operator, not for the sender.
    #[error("the request has no bearer token that is valid for this endpoint: fetch one from the token endpoint")]
    Bearer(BearerError),
}

impl AuthenticationError {
    /// Short identifier for records and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Signature(error) => error.reason(),
            Self::Basic => "basic",
            Self::Bearer(error) => error.reason(),
        }
    }

    /// Value of the response header `WWW-Authenticate`; there is no scheme for signatures.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Signature(_) => None,
            Self::Basic => Some("Basic realm=\"riverlock\""),
            Self::Bearer(_) => Some("Bearer realm=\"riverlock\""),
        }
    }
}

/// Results of the checks of a request that is not authenticated; `None` for a check that the endpoint does not require.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The first check that failed. Credentials come before the signature because their texts are more specific.
    pub(crate) error: AuthenticationError,
    pub(crate) basic: Option<bool>,
    pub(crate) bearer: Option<bool>,
}

/// The checks that an endpoint requires; none with `insecure = true`.
pub(crate) struct Authentication {
    signature: Option<Verifier>,
    basic: Option<Basic>,
    /// The clients whose tokens are accepted; empty if no token is required.
    clients: Vec<std::sync::Arc<Client>>,
}

impl Authentication {
    pub(crate) fn new(config: &EndpointConfig, clients: Vec<std::sync::Arc<Client>>) -> Self {
        let signature = (!config.secrets.is_empty()).then(|| Verifier::new(config));
        Self { signature, basic: config.basic.as_ref().map(Basic::new), clients }
    }

    /// Whether any check is required.
    pub(crate) fn is_required(&self) -> bool {
        self.signature.is_some() || self.basic.is_some() || !self.clients.is_empty()
    }

    /// The signing secrets.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = Secret<'_>> {
        self.signature.iter().flat_map(Verifier::secrets)
    }

    /// Whether signatures are required, but no secret is active at that time.
    pub(crate) fn lacks_secret(&self, now: DateTime<Utc>) -> bool {
        self.signature.as_ref().is_some_and(|verifier| !verifier.has_active_secret(now))
    }

    /// Checks a request. Returns the secret it was signed with, if a signature is required.
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

/// The user name and password of an endpoint.
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

/// The `Authorization` header; `None` if there are several, because two readers could read different ones.
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
    fn only_the_configured_user_with_its_password_is_accepted() {
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
            "a missing header does not match empty credentials"
        );
    }
}
