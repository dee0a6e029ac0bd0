//! TLS on the listener, for an install without a proxy that terminates it.

use std::{fmt, fs, path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use riverlock_runtime::ConfigError;
use sha2::{Digest, Sha256};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{config::TlsConfig, hash::Hash, http::certificate};

/// A certificate and its key. Equal if loaded from the same bytes.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// When the certificate expires; `None` if that cannot be parsed.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    fingerprint: Hash,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads both files. The protocols are TLS 1.2 and 1.3; HTTP/2 is preferred to HTTP/1.1.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, ConfigError> {
        let (certificate, key) = (read("certificate", &config.certificate)?, read("key", &config.key)?);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let chain = chain.map_err(|error| refused("certificate", &config.certificate, &error))?;
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(|error| refused("key", &config.key, &error))?;
        let expires_at = chain.first().and_then(|certificate| certificate::not_after(certificate));
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let server = builder
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
        let mut server = server.map_err(|error| refused("certificate", &config.certificate, &error))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let fingerprint =
            Sha256::new().chain_update(&certificate).chain_update(b"\0").chain_update(&key).finalize().into();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), expires_at, fingerprint })
    }
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|error| refused(field, path, &error))
}

fn refused(field: &str, path: &Path, error: &dyn fmt::Display) -> ConfigError {
    ConfigError::refused(format!("ingest.tls.{field}"), format!("{} cannot be used: {error}", path.display()))
}
