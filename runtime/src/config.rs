//! Configuration: one TOML file, environment variables over it, refused with a clear message when wrong.

use std::{fmt, fs, path::Path};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// What every environment variable of the configuration starts with; `__` separates sections.
pub const ENV_PREFIX: &str = "RIVERLOCK__";

/// A secret whose value starts with this is read from the file that follows.
pub const FILE_PREFIX: &str = "file:";

/// The configuration is wrong or cannot be read. The text names the key, the source and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was asked for does not exist or cannot be read.
    #[error("the configuration file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A value is missing, unknown or of the wrong kind.
    #[error("the configuration is wrong: {0}")]
    Invalid(Box<figment::Error>),
    /// Values that are right each on its own do not go together.
    #[error("the configuration is wrong: {key}: {reason}")]
    Refused {
        /// The key, for example `ingest.endpoints[0].path`.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl ConfigError {
    /// Refuses the value of a key.
    pub fn refused(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { key: key.into(), reason: reason.into() }
    }
}

/// Reads `file`, if there is one, and lays the environment over it.
///
/// # Errors
/// When the file cannot be read, or a value is missing, unknown or of the wrong kind.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let unreadable = |source| ConfigError::Unreadable { path: path.display().to_string(), source };
        fs::metadata(path).map_err(unreadable)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed(ENV_PREFIX).split("__"));
    figment.extract().map_err(|error| ConfigError::Invalid(Box::new(error)))
}

/// A value that never prints: given as it is, or as `file:/path` to be read from there (Kubernetes, systemd credentials).
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the value as it is.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value; only for the place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Tells whether a configuration has changed; never for comparing with what a stranger sends, which takes constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        struct SecretVisitor;
        impl serde::de::Visitor<'_> for SecretVisitor {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // An environment variable of digits alone arrives as a number, without its leading zeros.
                f.write_str(
                    "a text (put one that looks like a number or a list into quotes: '\"0123\"'), or file:/path",
                )
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
                Ok(value.to_owned())
            }
        }
        let value = deserializer.deserialize_any(SecretVisitor)?;
        let Some(path) = value.strip_prefix(FILE_PREFIX) else {
            return Ok(Self::new(value));
        };
        let content =
            fs::read_to_string(path).map_err(|error| D::Error::custom(format!("{path} cannot be read: {error}")))?;
        Ok(Self::new(content.trim_end_matches(['\r', '\n'])))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        key: Secret,
        #[serde(default)]
        limit: u32,
    }

    fn load_text(text: &str) -> Result<Example, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(Some(file.path()))
    }

    #[test]
    fn a_secret_is_taken_from_the_text_or_from_a_file_and_never_printed() {
        let example = load_text("key = 'abc'\nlimit = 3").unwrap();
        assert_eq!((example.key.expose(), example.limit), ("abc", 3));
        assert!(!format!("{example:?}").contains("abc"));

        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(b"from file\n").unwrap();
        let example = load_text(&format!("key = 'file:{}'", secret.path().display())).unwrap();
        assert_eq!(example.key.expose(), "from file");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_and_its_source() {
        let error = load_text("key = 'a'\nlimit = 'many'").unwrap_err().to_string();
        assert!(error.contains("limit") && error.contains("many"), "{error}");
        let error = load_text("key = 'a'\nlimits = 3").unwrap_err().to_string();
        assert!(error.contains("limits") && error.contains("limit"), "{error}");
        let error = load_text("key = 123").unwrap_err().to_string();
        assert!(error.contains("quotes"), "{error}");
        let error = load_text("key = 'file:/nowhere'").unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
        let error = load::<Example>(Some(Path::new("/nowhere.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere.toml"), "{error}");
    }
}
