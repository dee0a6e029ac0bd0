//! Secrets of the configuration: given as they are or as a file, read when they are needed, never printed.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// A secret that starts with this is read from the file that follows.
pub const FILE_PREFIX: &str = "file:";

/// Longest file that a secret is read from, in bytes: more than any key or token, and less than a mistyped path may cost.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What a secret has to be written as.
const EXPECTED: &str =
    "expected a text; put one that looks like a number or a list into quotes ('\"0123\"'), or name a file (file:/path)";

/// A value that never prints: given as it is, or as `file:/path` (Kubernetes, systemd credentials).
///
/// Deserializing it opens no file. The file is opened by [`Secret::read`], so a process reads only the secrets that it uses.
/// Clones share what was read.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    /// Where the value comes from, unless it was given as it is.
    file: Option<PathBuf>,
    value: OnceLock<SecretString>,
}

impl Secret {
    /// Takes the value as it is.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(Inner { file: None, value: OnceLock::from(SecretString::from(value.into())) }))
    }

    /// A secret that is in a file, which is not opened yet. Line feeds at its end are no part of the secret.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner { file: Some(path.into()), value: OnceLock::new() }))
    }

    /// The value, read from its file the first time. `key` names it in the error, for example `postgres.url`.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 64 KiB or is not UTF-8.
    pub fn read(&self, key: &str) -> Result<&str, ConfigError> {
        self.load().map_err(|reason| ConfigError::refused(key, reason))
    }

    /// The value; only for the place that needs it.
    ///
    /// # Panics
    /// When it is in a file that cannot be read. Configurations are checked, which [reads](Self::read) their secrets, before
    /// they are used.
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
        return Err(format!("{} is longer than {FILE_BYTES_MAX} bytes, which no secret is", path.display()));
    }
    Ok(SecretString::from(content.trim_end_matches(['\r', '\n'])))
}

/// Tells whether a configuration has changed; never for comparing with what a stranger sends, which takes constant time.
/// Of a secret in a file, what has been read of it counts.
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

/// Serde's own errors repeat the value that they refuse, so every kind of single value is refused here.
macro_rules! refuse {
    ($($visit:ident: $kind:ty),+) => {
        $(fn $visit<E: de::Error>(self, _: $kind) -> Result<Secret, E> {
            // An environment variable of digits alone arrives as a number, without its leading zeros.
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

    refuse!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
        visit_bytes: &[u8]);
}
