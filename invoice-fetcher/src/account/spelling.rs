//! How ids of files are spelled in requests.

use riverlock_schemas::FileId;

/// The spelling of an id in a request. Digital River's documentation shows file ids with and without the prefix `file_`, and
/// says that prefixes may change without a new API version ("Versioning"), so a file that is not found with one spelling is
/// requested with the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// The UUID alone.
    #[default]
    Plain,
    /// The UUID with the prefix.
    Prefixed,
}

impl Spelling {
    /// All spellings.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Prefixed];

    /// The other spelling.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Plain => Self::Prefixed,
            Self::Prefixed => Self::Plain,
        }
    }

    /// Formats an id in this spelling.
    pub(crate) fn write(self, file_id: FileId) -> String {
        match self {
            Self::Plain => file_id.to_string(),
            Self::Prefixed => file_id.prefixed(),
        }
    }
}
