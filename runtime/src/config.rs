//! Configuration: one TOML file, overridden by environment variables, with clear error messages.

use std::{fs, path::Path};

use figment::{
    Figment, Provider as _,
    providers::{Env, Format, Toml},
    value::{Dict, Map},
};
use serde::de::DeserializeOwned;

mod explain;
mod schema;
mod secret;

pub use schema::{DURATION_FORMAT, DurationText, SECRET_FORMAT, UrlText};
pub use secret::{FILE_PREFIX, Secret};

/// Prefix of every environment variable of the configuration; `__` separates sections.
pub const ENV_PREFIX: &str = "RIVERLOCK__";

/// The configuration is invalid or cannot be read. The text names the key, the source and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The specified file does not exist or cannot be read.
    #[error("the configuration file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A value is missing, unknown or of the wrong kind. The text names keys and never values, which may be secrets.
    #[error("the configuration is invalid: {0}")]
    Invalid(String),
    /// A value is out of range, or contradicts another one.
    #[error("the configuration is invalid: {key}: {reason}")]
    Refused {
        /// The key, for example `ingest.endpoints[0].path`.
        key: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
}

impl ConfigError {
    /// Rejects the value of a key.
    pub fn refused(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { key: key.into(), reason: reason.into() }
    }
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        Self::Invalid(explain::explain(error))
    }
}

/// A configuration whose file and environment were read, but whose sections are not deserialized yet.
pub struct Source(Figment);

impl Source {
    /// Reads `file`, if given, and overrides it with the environment.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            let unreadable = |source| ConfigError::Unreadable { path: path.display().to_string(), source };
            fs::metadata(path).map_err(unreadable)?;
            figment = figment.merge(Toml::file_exact(path));
        }
        figment = figment.merge(Env::prefixed(ENV_PREFIX).split("__"));
        figment.data()?;
        Ok(Self(figment))
    }

    /// The names of the sections that are present.
    ///
    /// # Errors
    /// None after [`Source::read`].
    pub fn sections(&self) -> Result<Vec<String>, ConfigError> {
        let profiles: Map<_, Dict> = self.0.data()?;
        Ok(profiles.into_values().flatten().map(|(name, _)| name).collect())
    }

    /// Deserializes one section; its default if it is absent. Mistakes in other sections have no effect.
    ///
    /// # Errors
    /// When one of its values is missing, unknown or of the wrong kind.
    pub fn section<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        if !self.0.contains(name) {
            return Ok(T::default());
        }
        self.0.extract_inner(name).map_err(|mut error: figment::Error| {
            // figment appends the section's name to the path instead of prepending it.
            if error.path.last().is_some_and(|last| last == name) {
                error.path.rotate_right(1);
            }
            error.into()
        })
    }

    /// Deserializes the whole configuration.
    ///
    /// # Errors
    /// When a value is missing, unknown or of the wrong kind.
    pub fn all<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        Ok(self.0.extract()?)
    }
}

/// Reads `file`, if given, overrides it with the environment, and deserializes the result.
///
/// # Errors
/// When the file cannot be read, or a value is missing, unknown or of the wrong kind.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigError> {
    Source::read(file)?.all()
}

#[cfg(test)]
mod tests;
