//! Secrets of the configuration: given literally or as a file, read when needed, never printed.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// Prefix of a value that names the file from which the secret is read.
pub const FILE_PREFIX: &str = "file:";

/// Longest file of a secret, in bytes: longer than any key or token, and short enough that a mistyped path does no harm.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Error message for a value of another type.
const EXPECTED: &str =
    "expected a string; quote one that looks like a number or a list ('\"0123\"'), or name a file (file:/path)";

/// A secret value, given literally or as `file:/path` (Kubernetes, systemd credentials). Its `Debug` and JSON output is
/// redacted.
///
/// Deserializing it opens no file. The file is opened by [`Secret::read`], so a process reads only the secrets that it
/// uses. Clones share the value.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    /// The file of the value; `None` if it was given literally.
    file: Option<PathBuf>,
    value: OnceLock<SecretString>,
}

impl Secret {
    /// A secret with this value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(Inner { file: None, value: OnceLock::from(SecretString::from(value.into())) }))
    }

    /// A secret in a file, which is not opened yet. Line breaks at its end are not part of the secret.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner { file: Some(path.into()), value: OnceLock::new() }))
    }

    /// The value; the first call reads it from its file. `key` names it in the error, for example `postgres.url`.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 64 KiB or is not UTF-8.
    pub fn read(&self, key: &str) -> Result<&str, ConfigError> {
        self.load().map_err(|reason| ConfigError::refused(key, reason))
    }

    /// The value. Call it only where the value itself is needed.
    ///
    /// # Panics
    /// If it is in a file that cannot be read. Validating a configuration [reads](Self::read) its secrets before they are
    /// used.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.load().unwrap_or_else(|reason| panic!("a secret was used before it was read: {reason}"))
    }

    fn load(&self) -> Result<&str, String> {
        if let Some(value) = self.known() {
            return Ok(value);
        }
        let value = match &self.0.file {
            Some(path) => read_file(path)?,
            None => SecretString::default(),
        };
        Ok(self.0.value.get_or_init(|| value).expose_secret())
    }

    fn known(&self) -> Option<&str> {
        self.0.value.get().map(ExposeSecret::expose_secret)
    }
}

fn read_file(path: &Path) -> Result<SecretString, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut content = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} is longer than {FILE_BYTES_MAX} bytes, too long for a secret", path.display()));
    }
    Ok(SecretString::from(content.trim_end_matches(['\r', '\n'])))
}

/// For detecting changes of the configuration. Not for comparing with input from clients, which needs constant time. A
/// secret in a file is compared by the value that was read so far.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.file == other.0.file && self.known() == other.known()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

/// Serde's own errors repeat the rejected value, so every kind of scalar is rejected here.
macro_rules! reject {
    ($($visit:ident: $kind:ty),+) => {
        $(fn $visit<E: de::Error>(self, _: $kind) -> Result<Secret, E> {
            // An environment variable that consists of digits arrives as a number, without its leading zeros.
            Err(E::custom(EXPECTED))
        })+
    };
}

impl de::Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED.trim_start_matches("expected "))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
        Ok(value.strip_prefix(FILE_PREFIX).map_or_else(|| Secret::new(value), Secret::from_file))
    }

    reject!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
        visit_bytes: &[u8]);
}
