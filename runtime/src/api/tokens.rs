//! The tokens that an API admits. They may change while it serves.

use std::sync::{Arc, PoisonError, RwLock};

use riverlock_schemas::hash::Sha256Hash;
use subtle::{Choice, ConstantTimeEq as _};

use super::ApiConfig;

/// Tokens that are admitted by now. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Tokens(Arc<RwLock<Vec<[u8; 32]>>>);

impl Tokens {
    /// The tokens of a configuration.
    pub fn new<const PORT: u16>(config: &ApiConfig<PORT>) -> Self {
        Self(Arc::new(RwLock::new(hashes(config))))
    }

    /// Admits the tokens of another configuration from now on, and says whether they are other ones.
    pub fn replace<const PORT: u16>(&self, config: &ApiConfig<PORT>) -> bool {
        let new = hashes(config);
        let mut tokens = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differ = *tokens != new;
        *tokens = new;
        differ
    }

    /// Whether a token is among them. Takes the same time whatever it is.
    pub(super) fn admit(&self, token: &[u8]) -> bool {
        let hash = Sha256Hash::of(token);
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_among = tokens.iter().fold(Choice::from(0), |is_among, known| is_among | known.ct_eq(hash.as_bytes()));
        bool::from(is_among)
    }
}

/// Hashes of the tokens: what is compared has one length.
fn hashes<const PORT: u16>(config: &ApiConfig<PORT>) -> Vec<[u8; 32]> {
    let tokens = std::iter::once(&config.token).chain(&config.previous_token);
    tokens.map(|token| *Sha256Hash::of(token.expose().as_bytes()).as_bytes()).collect()
}
