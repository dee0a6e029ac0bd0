//! Addresses of files: built from the configuration and a file id, and from nothing else.

use riverlock_schemas::FileId;
use url::Url;

/// How the address ends that makes links.
pub(crate) const LINKS_PATH_END: &str = "/file-links";

/// Whether a text is an id of this file, in any spelling that [`FileId::parse`] takes. A text of blanks names no file, so it
/// names no other one either.
pub(crate) fn names(text: &str, file_id: FileId) -> bool {
    text.trim().is_empty() || FileId::parse(text) == Ok(file_id)
}

/// How an id is written in a request. Digital River's documentation shows file ids with and without the prefix `file_`, and
/// says that prefixes may change without a new API version ("Versioning"), so a file that is not found under one spelling
/// is asked for under the other.
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

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Plain => Self::Prefixed,
            Self::Prefixed => Self::Plain,
        }
    }

    /// The id in this spelling.
    pub(crate) fn write(self, file_id: FileId) -> String {
        match self {
            Self::Plain => file_id.to_string(),
            Self::Prefixed => file_id.prefixed(),
        }
    }
}

/// Builds the addresses under one base.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(Url);

impl Addresses {
    /// Addresses under `base`, which must be able to hold a path.
    pub(crate) fn new(base: Url) -> Self {
        Self(base)
    }

    /// `{base}/files/{id}`: what Digital River knows of a file.
    pub(crate) fn metadata(&self, file_id: FileId, spelling: Spelling) -> Url {
        self.build(file_id, spelling, &[])
    }

    /// `{base}/files/{id}/content`: the file.
    pub(crate) fn content(&self, file_id: FileId, spelling: Spelling) -> Url {
        self.build(file_id, spelling, &["content"])
    }

    /// `{base}/file-links`: where links for customers are made.
    pub(crate) fn file_links(&self) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(LINKS_PATH_END.trim_start_matches('/'));
        }
        url
    }

    /// Whether an address in an event is the one that a file's content has here. The id in it may be spelled otherwise.
    pub(crate) fn is_content(&self, announced: &str, file_id: FileId) -> bool {
        let Ok(mut announced) = Url::parse(announced) else { return false };
        let expected = self.content(file_id, Spelling::Plain);
        let id = announced.path().rsplit('/').nth(1).unwrap_or_default();
        if !id.is_empty() && names(id, file_id) {
            announced.set_path(&announced.path().replacen(id, &file_id.to_string(), 1));
        }
        announced == expected
    }

    fn build(&self, file_id: FileId, spelling: Spelling, rest: &[&str]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("files").push(&spelling.write(file_id)).extend(rest);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_base_and_the_id() {
        let id = FileId::parse("6e5bf525-3907-40c5-86a9-f14ce4f33f35").unwrap();
        for (base, content) in [
            (
                "https://api.digitalriver.com",
                "https://api.digitalriver.com/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content",
            ),
            ("http://127.0.0.1:8/a/", "http://127.0.0.1:8/a/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content"),
        ] {
            let addresses = Addresses::new(Url::parse(base).unwrap());
            assert_eq!(addresses.content(id, Spelling::Plain).as_str(), content);
            assert_eq!(format!("{}/content", addresses.metadata(id, Spelling::Plain)), content);
            let plain = id.to_string();
            let prefixed = content.replace(&plain, &format!("file_{plain}"));
            assert_eq!(addresses.content(id, Spelling::Prefixed).as_str(), prefixed);
            for spelling in [plain.clone(), format!("file_{id}"), plain.to_uppercase(), plain.replace('-', "")] {
                assert!(addresses.is_content(&content.replace(&plain, &spelling), id), "{spelling}");
            }
        }
    }

    #[test]
    fn an_address_that_only_looks_alike_is_another_one() {
        let id = FileId::parse("6e5bf525-3907-40c5-86a9-f14ce4f33f35").unwrap();
        let addresses = Addresses::new(Url::parse("https://api.digitalriver.com").unwrap());
        for other in [
            "",
            "x",
            "http://api.digitalriver.com/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content",
            "https://api.digitalriver.com@evil.example/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content",
            "https://evil.example/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content",
            "https://api.digitalriver.com/files/6e5bf525-3907-40c5-86a9-f14ce4f33f36/content",
            "https://api.digitalriver.com/files/6e5bf525-3907-40c5-86a9-f14ce4f33f35/content?to=evil",
        ] {
            assert!(!addresses.is_content(other, id), "{other}");
        }
    }
}
