//! The tokens that an API accepts. They can change at run time.

use std::sync::{Arc, PoisonError, RwLock};

use riverlock_schemas::hash::Sha256Hash;
use subtle::{Choice, ConstantTimeEq as _};

use super::ApiConfig;

/// The currently accepted tokens. Cheap to clone; all clones share the same state.
#[derive(Clone)]
pub struct Tokens(Arc<RwLock<Vec<[u8; 32]>>>);

impl Tokens {
    /// Takes the tokens of a configuration.
    pub fn new<const PORT: u16>(config: &ApiConfig<PORT>) -> Self {
        Self(Arc::new(RwLock::new(hashes(config))))
    }

    /// Replaces the tokens by those of another configuration, and returns whether they differ.
    pub fn replace<const PORT: u16>(&self, config: &ApiConfig<PORT>) -> bool {
        let new = hashes(config);
        let mut tokens = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differ = *tokens != new;
        *tokens = new;
        differ
    }

    /// Whether a token is accepted. Takes the same time for every token.
    pub(super) fn admit(&self, token: &[u8]) -> bool {
        let hash = Sha256Hash::of(token);
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_among = tokens.iter().fold(Choice::from(0), |is_among, known| is_among | known.ct_eq(hash.as_bytes()));
        bool::from(is_among)
    }
}

/// Hashes of the tokens, so that all compared values have the same length.
fn hashes<const PORT: u16>(config: &ApiConfig<PORT>) -> Vec<[u8; 32]> {
    let tokens = std::iter::once(&config.token).chain(&config.previous_token);
    tokens.map(|token| *Sha256Hash::of(token.expose().as_bytes()).as_bytes()).collect()
}
