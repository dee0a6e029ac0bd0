//! Whether an event in quarantine may be believed today: pure, the time is an argument.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};
use riverlock_ingest::{
    IngestConfig,
    auth::signature::{Match, SignatureError, Verifier},
    config::EndpointConfig,
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

impl<'a> Kept<'a> {
    /// The signature header, if there was one.
    fn signature_header(&self) -> Option<&'a [u8]> {
        (!self.signature.is_empty()).then_some(self.signature.as_bytes())
    }
}

/// What is to be thought of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// Its signature is right, and so was everything else that its endpoint asks for.
    Verifies { secret: &'a str },
    /// Its signature is right, but it came without what else its endpoint asks for.
    SignatureOnly { secret: &'a str, lacks: &'static str },
    /// Its signature is right, but was made at another time than when the event came, by ingest's clock and by Kafka's.
    OtherTime { secret: &'a str, lacks: Option<&'static str>, error: SignatureError },
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
            Self::OtherTime { secret, lacks: None, error } => {
                write!(f, "does not verify: it was signed with secret {secret}, but {error} (--ignore-age releases it)")
            }
            Self::OtherTime { secret, lacks: Some(lacks), error } => write!(
                f,
                "does not verify: it was signed with secret {secret}, but came without the right {lacks}, and {error} (--ignore-age with --signature-only releases it)"
            ),
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

    /// Judges an event with the secrets that count today. Its signature must have been made about when it came, by ingest's
    /// clock or by Kafka's, which says `stored_at`: one of them may have been wrong.
    pub(crate) fn judge(&self, kept: &Kept<'_>, stored_at: Option<DateTime<Utc>>) -> Verdict<'_> {
        let Some((config, verifier)) = self.endpoints.get(kept.endpoint) else {
            return Verdict::NoEndpoint;
        };
        if config.secrets.is_empty() {
            return Verdict::NoSignatures;
        }
        let times: Vec<DateTime<Utc>> = parse_time(kept.received_at).into_iter().chain(stored_at).collect();
        let signed = match verifier.signed(kept.signature_header(), kept.body, self.now) {
            Ok(signed) => signed,
            Err(error) => return Verdict::Wrong(error),
        };
        let (secret, lacks) = (signed.secret.id, lacks(config, kept));
        let mut checked = times.into_iter().map(|time| verifier.check_age(&signed, time));
        let Some(first) = checked.next() else { return Verdict::NoTime };
        match (first, lacks) {
            (Err(error), _) if !checked.any(|checked| checked.is_ok()) => Verdict::OtherTime { secret, lacks, error },
            (_, Some(lacks)) => Verdict::SignatureOnly { secret, lacks },
            (_, None) => Verdict::Verifies { secret },
        }
    }

    /// Whether the signature was made about when ingest's clock says that the event came.
    pub(crate) fn is_in_time(&self, kept: &Kept<'_>) -> bool {
        let Some((_, verifier)) = self.endpoints.get(kept.endpoint) else { return false };
        let signed = verifier.signed(kept.signature_header(), kept.body, self.now);
        let time = parse_time(kept.received_at);
        signed.is_ok_and(|signed| time.is_some_and(|time| verifier.check_age(&signed, time).is_ok()))
    }

    /// Verifies the signature alone, with the secrets that count at `now`, against the time at which the event came.
    pub(crate) fn signature(&self, kept: &Kept<'_>, now: DateTime<Utc>) -> Verdict<'_> {
        let Some(received_at) = parse_time(kept.received_at) else {
            return self.unverifiable(kept).unwrap_or(Verdict::NoTime);
        };
        self.signature_with(kept, |verifier, header| verifier.verify_again(header, kept.body, received_at, now))
    }

    /// As [`Self::signature`], whenever the signature was made: for events that were released so.
    pub(crate) fn signature_of_any_age(&self, kept: &Kept<'_>, now: DateTime<Utc>) -> Verdict<'_> {
        self.signature_with(kept, |verifier, header| {
            verifier.signed(header, kept.body, now).map(|signed| signed.secret)
        })
    }

    fn signature_with<'s>(
        &'s self,
        kept: &Kept<'_>,
        verify: impl FnOnce(&'s Verifier, Option<&[u8]>) -> Result<Match<'s>, SignatureError>,
    ) -> Verdict<'s> {
        if let Some(verdict) = self.unverifiable(kept) {
            return verdict;
        }
        let Some((_, verifier)) = self.endpoints.get(kept.endpoint) else { return Verdict::NoEndpoint };
        match verify(verifier, kept.signature_header()) {
            Ok(found) => Verdict::Verifies { secret: found.id },
            Err(error) => Verdict::Wrong(error),
        }
    }

    /// Why there is nothing to verify the signature with.
    fn unverifiable(&self, kept: &Kept<'_>) -> Option<Verdict<'_>> {
        match self.endpoints.get(kept.endpoint) {
            None => Some(Verdict::NoEndpoint),
            Some((config, _)) if config.secrets.is_empty() => Some(Verdict::NoSignatures),
            Some(_) => None,
        }
    }

    /// Whether an endpoint has a secret of this name today, expired or not.
    pub(crate) fn knows(&self, endpoint: &str, secret_id: &str) -> bool {
        let secrets = self.endpoints.get(endpoint).map(|(config, _)| config.secrets.as_slice()).unwrap_or_default();
        secrets.iter().any(|secret| secret.id == secret_id)
    }
}

/// What an event came without, besides its signature.
fn lacks(config: &EndpointConfig, kept: &Kept<'_>) -> Option<&'static str> {
    if config.basic.is_some() && kept.basic != record::PASSED {
        return Some("password");
    }
    (!config.oauth.is_empty() && kept.bearer != record::PASSED).then_some("token")
}
