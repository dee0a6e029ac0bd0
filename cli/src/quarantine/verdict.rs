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
pub(super) struct Kept<'a> {
    pub(super) endpoint: &'a str,
    pub(super) received_at: &'a str,
    pub(super) signature: &'a str,
    pub(super) basic: &'a str,
    pub(super) bearer: &'a str,
    pub(super) body: &'a [u8],
}

/// What is to be thought of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
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
pub(super) struct Judge<'a> {
    endpoints: HashMap<&'a str, (&'a EndpointConfig, Verifier)>,
    now: DateTime<Utc>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(config: &'a IngestConfig, now: DateTime<Utc>) -> Self {
        let entry = |config: &'a EndpointConfig| (config.name.as_str(), (config, Verifier::new(config)));
        Self { endpoints: config.endpoints.iter().map(entry).collect(), now }
    }

    pub(super) fn judge(&self, kept: &Kept<'_>) -> Verdict<'_> {
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
        let secret = match verifier.verify_again(header, kept.body, received_at, self.now) {
            Ok(found) => found.id,
            Err(error) => return Verdict::Wrong(error),
        };
        if config.basic.is_some() && kept.basic != record::PASSED {
            return Verdict::SignatureOnly { secret, lacks: "password" };
        }
        if !config.oauth.is_empty() && kept.bearer != record::PASSED {
            return Verdict::SignatureOnly { secret, lacks: "token" };
        }
        Verdict::Verifies { secret }
    }
}
