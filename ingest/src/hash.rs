//! Hashes of credentials and certificates.

use sha2::{Digest, Sha256};

/// Credentials are compared as hashes: all have one length, so a timing difference says nothing useful about the
/// credential.
pub(crate) type Hash = [u8; 32];

/// The SHA-256 of a text.
pub(crate) fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}
