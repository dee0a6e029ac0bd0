//! Who sent a request: every check that an endpoint asks for.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use crate::{
    config::EndpointConfig,
    signature::{self, Match, SignatureError, Verifier},
};

/// What an endpoint asks of a request.
pub(crate) enum Authentication {
    /// The endpoint says `insecure = true`.
    Nothing,
    /// A signature with one of its secrets.
    Signature(Verifier),
}

impl Authentication {
    pub(crate) fn new(config: &EndpointConfig) -> Self {
        if config.insecure { Self::Nothing } else { Self::Signature(Verifier::new(config)) }
    }

    /// Checks a request, and says which secret it was signed with, if that was asked for.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Option<Match<'_>>, SignatureError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Signature(verifier) => {
                let values = headers.get_all(signature::HEADER).iter().map(axum::http::HeaderValue::as_bytes);
                verifier.verify(values, body, now).map(Some)
            }
        }
    }
}
