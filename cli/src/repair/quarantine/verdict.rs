//! Authentication of quarantined events with the current configuration. Pure: the time is an argument.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_ingest::{
    IngestConfig,
    auth::signature::{Match, SignatureError, Verifier},
    config::EndpointConfig,
};
use riverlock_schemas::{kafka::record, time::parse_time};

/// A delivery as its record stores it. Absent values are empty.
pub(crate) struct StoredDelivery<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) received_at: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) basic: &'a str,
    pub(crate) bearer: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> StoredDelivery<'a> {
    /// The signature header, if there was one.
    fn signature_header(&self) -> Option<&'a [u8]> {
        (!self.signature.is_empty()).then_some(self.signature.as_bytes())
    }
}

/// The result of authenticating a delivery again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// The signature is valid, and the endpoint's other checks passed at receipt.
    Verifies { secret: &'a str },
    /// The signature is valid, but another check of the endpoint failed at receipt.
    SignatureOnly { secret: &'a str, lacks: &'static str },
    /// The signature is valid, but its time differs from the time of receipt, by ingest's clock and by Kafka's.
    OtherTime { secret: &'a str, lacks: Option<&'static str>, error: SignatureError },
    /// The signature is invalid with the current secrets, too.
    Invalid(SignatureError),
    /// The endpoint requires no signature, so there is nothing to verify.
    NoSignatures,
    /// The endpoint is not configured any more.
    NoEndpoint,
    /// The time of receipt is missing.
    NoTime,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verifies { secret } => write!(f, "verifies with secret {secret}"),
            Self::SignatureOnly { secret, lacks } => {
                write!(
                    f,
                    "verifies with secret {secret}, but the {lacks} was missing or wrong, which cannot be checked again"
                )
            }
            Self::OtherTime { secret, lacks: None, error } => {
                write!(
                    f,
                    "does not verify: it was signed with secret {secret}, but {error} (release it with --ignore-age)"
                )
            }
            Self::OtherTime { secret, lacks: Some(lacks), error } => write!(
                f,
                "does not verify: it was signed with secret {secret}, but the {lacks} was missing or wrong, and {error} (release it with --ignore-age and --signature-only)"
            ),
            Self::Invalid(error) => write!(f, "does not verify: {error}"),
            Self::NoSignatures => f.write_str("cannot be verified again: its endpoint uses no signatures"),
            Self::NoEndpoint => f.write_str("cannot be verified: its endpoint is not configured"),
            Self::NoTime => f.write_str("cannot be verified: its time of receipt is missing"),
        }
    }
}

/// Verifies deliveries with the configured endpoints.
pub(crate) struct Authenticator<'a> {
    endpoints: HashMap<&'a str, (&'a EndpointConfig, Verifier)>,
    now: DateTime<Utc>,
}

impl<'a> Authenticator<'a> {
    pub(crate) fn new(config: &'a IngestConfig, now: DateTime<Utc>) -> Self {
        let entry = |config: &'a EndpointConfig| (config.name.as_str(), (config, Verifier::new(config)));
        Self { endpoints: config.endpoints.iter().map(entry).collect(), now }
    }

    /// Authenticates a delivery with the secrets that are valid now. Its signature must have been made near the time of
    /// receipt, by ingest's clock or by Kafka's (`stored_at`): one of them may have been wrong.
    pub(crate) fn authenticate(&self, delivery: &StoredDelivery<'_>, stored_at: Option<DateTime<Utc>>) -> Verdict<'_> {
        let Some((config, verifier)) = self.endpoints.get(delivery.endpoint) else {
            return Verdict::NoEndpoint;
        };
        if config.secrets.is_empty() {
            return Verdict::NoSignatures;
        }
        let times: Vec<DateTime<Utc>> = parse_time(delivery.received_at).into_iter().chain(stored_at).collect();
        let signed = match verifier.signed(delivery.signature_header(), delivery.body, self.now) {
            Ok(signed) => signed,
            Err(error) => return Verdict::Invalid(error),
        };
        let (secret, lacks) = (signed.secret.id, lacks(config, delivery));
        let mut checked = times.into_iter().map(|time| verifier.check_age(&signed, time));
        let Some(first) = checked.next() else { return Verdict::NoTime };
        match (first, lacks) {
            (Err(error), _) if !checked.any(|checked| checked.is_ok()) => Verdict::OtherTime { secret, lacks, error },
            (_, Some(lacks)) => Verdict::SignatureOnly { secret, lacks },
            (_, None) => Verdict::Verifies { secret },
        }
    }

    /// Whether the signature was made near the time of receipt by ingest's clock.
    pub(crate) fn is_timely(&self, delivery: &StoredDelivery<'_>) -> bool {
        let Some((_, verifier)) = self.endpoints.get(delivery.endpoint) else { return false };
        let signed = verifier.signed(delivery.signature_header(), delivery.body, self.now);
        let time = parse_time(delivery.received_at);
        signed.is_ok_and(|signed| time.is_some_and(|time| verifier.check_age(&signed, time).is_ok()))
    }

    /// Verifies only the signature, with the secrets that are valid at `now`, against the time of receipt.
    pub(crate) fn verify_signature(&self, delivery: &StoredDelivery<'_>, now: DateTime<Utc>) -> Verdict<'_> {
        let Some(received_at) = parse_time(delivery.received_at) else {
            return self.unverifiable(delivery).unwrap_or(Verdict::NoTime);
        };
        self.verify_with(delivery, |verifier, header| verifier.verify_again(header, delivery.body, received_at, now))
    }

    /// Like [`Self::verify_signature`] for a signature of any age: for events that were released with `--ignore-age`.
    pub(crate) fn verify_signature_of_any_age(&self, delivery: &StoredDelivery<'_>, now: DateTime<Utc>) -> Verdict<'_> {
        self.verify_with(delivery, |verifier, header| {
            verifier.signed(header, delivery.body, now).map(|signed| signed.secret)
        })
    }

    fn verify_with<'s>(
        &'s self,
        delivery: &StoredDelivery<'_>,
        verify: impl FnOnce(&'s Verifier, Option<&[u8]>) -> Result<Match<'s>, SignatureError>,
    ) -> Verdict<'s> {
        if let Some(verdict) = self.unverifiable(delivery) {
            return verdict;
        }
        let Some((_, verifier)) = self.endpoints.get(delivery.endpoint) else { return Verdict::NoEndpoint };
        match verify(verifier, delivery.signature_header()) {
            Ok(found) => Verdict::Verifies { secret: found.id },
            Err(error) => Verdict::Invalid(error),
        }
    }

    /// Why the signature cannot be verified at all.
    fn unverifiable(&self, delivery: &StoredDelivery<'_>) -> Option<Verdict<'_>> {
        match self.endpoints.get(delivery.endpoint) {
            None => Some(Verdict::NoEndpoint),
            Some((config, _)) if config.secrets.is_empty() => Some(Verdict::NoSignatures),
            Some(_) => None,
        }
    }

    /// Whether an endpoint is configured with a secret of this name, expired or not.
    pub(crate) fn has_secret(&self, endpoint: &str, secret_id: &str) -> bool {
        let secrets = self.endpoints.get(endpoint).map(|(config, _)| config.secrets.as_slice()).unwrap_or_default();
        secrets.iter().any(|secret| secret.id == secret_id)
    }
}

/// The check besides the signature that failed at receipt.
fn lacks(config: &EndpointConfig, delivery: &StoredDelivery<'_>) -> Option<&'static str> {
    if config.basic.is_some() && delivery.basic != record::PASSED {
        return Some("password");
    }
    (!config.oauth.is_empty() && delivery.bearer != record::PASSED).then_some("token")
}
