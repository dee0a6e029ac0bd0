//! Whether an event in quarantine may be believed today: pure, the time is an argument.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_ingest::{
    IngestConfig,
    config::EndpointConfig,
    signature::{SignatureError, Verifier},
};
use riverlock_schemas::{record, time::parse_time};

/// An event as it was kept; what is absent is empty.
pub(crate) struct Kept<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) received_at: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) basic: &'a str,
    pub(crate) bearer: &'a str,
    pub(crate) body: &'a [u8],
}

/// What is to be thought of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// Its signature is right, and so was everything else that its endpoint asks for.
    Verifies { secret: &'a str },
    /// Its signature is right, but it came without what else its endpoint asks for.
    SignatureOnly { secret: &'a str, lacks: &'static str },
    /// Its signature is wrong today as well.
    Wrong(SignatureError),
    /// Its endpoint asks for no signature, so there is nothing to verify.
    NoSignatures,
    /// Its endpoint is not configured any more.
    NoEndpoint,
    /// It does not say when it came.
    NoTime,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verifies { secret } => write!(f, "verifies with secret {secret}"),
            Self::SignatureOnly { secret, lacks } => {
                write!(
                    f,
                    "verifies with secret {secret}, but came without the right {lacks}, which cannot be checked again"
                )
            }
            Self::Wrong(error) => write!(f, "does not verify: {error}"),
            Self::NoSignatures => f.write_str("cannot be verified again: its endpoint uses no signatures"),
            Self::NoEndpoint => f.write_str("cannot be verified: its endpoint is not configured"),
            Self::NoTime => f.write_str("cannot be verified: it does not say when it came"),
        }
    }
}

/// Knows the endpoints of today.
pub(crate) struct Judge<'a> {
    endpoints: HashMap<&'a str, (&'a EndpointConfig, Verifier)>,
    now: DateTime<Utc>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(config: &'a IngestConfig, now: DateTime<Utc>) -> Self {
        let entry = |config: &'a EndpointConfig| (config.name.as_str(), (config, Verifier::new(config)));
        Self { endpoints: config.endpoints.iter().map(entry).collect(), now }
    }

    pub(crate) fn judge(&self, kept: &Kept<'_>) -> Verdict<'_> {
        let verdict = self.signature(kept, self.now);
        let Verdict::Verifies { secret } = verdict else { return verdict };
        let Some((config, _)) = self.endpoints.get(kept.endpoint) else { return verdict };
        if config.basic.is_some() && kept.basic != record::PASSED {
            return Verdict::SignatureOnly { secret, lacks: "password" };
        }
        if !config.oauth.is_empty() && kept.bearer != record::PASSED {
            return Verdict::SignatureOnly { secret, lacks: "token" };
        }
        verdict
    }

    /// Verifies the signature alone, with the secrets that count at `now`.
    pub(crate) fn signature(&self, kept: &Kept<'_>, now: DateTime<Utc>) -> Verdict<'_> {
        let Some((config, verifier)) = self.endpoints.get(kept.endpoint) else {
            return Verdict::NoEndpoint;
        };
        if config.secrets.is_empty() {
            return Verdict::NoSignatures;
        }
        let Some(received_at) = parse_time(kept.received_at) else {
            return Verdict::NoTime;
        };
        let header = (!kept.signature.is_empty()).then_some(kept.signature.as_bytes());
        match verifier.verify_again(header, kept.body, received_at, now) {
            Ok(found) => Verdict::Verifies { secret: found.id },
            Err(error) => Verdict::Wrong(error),
        }
    }

    /// Whether an endpoint has a secret of this name today, expired or not.
    pub(crate) fn knows(&self, endpoint: &str, secret_id: &str) -> bool {
        let secrets = self.endpoints.get(endpoint).map(|(config, _)| config.secrets.as_slice()).unwrap_or_default();
        secrets.iter().any(|secret| secret.id == secret_id)
    }
}
