//! URLs of files, built only from the configuration and a file id.

use riverlock_schemas::FileId;
use url::Url;

use crate::account::spelling::Spelling;

/// The end of the path for creating links.
pub(crate) const LINKS_PATH_END: &str = "/file-links";

/// Whether a text is an id of this file, in any spelling that [`FileId::parse`] accepts. An empty text is accepted too, because
/// it names no other file.
pub(crate) fn names(text: &str, file_id: FileId) -> bool {
    text.trim().is_empty() || FileId::parse(text) == Ok(file_id)
}

/// Builds URLs under a base URL.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(Url);

impl Addresses {
    /// Creates a builder for `base`, which must be able to have a path.
    pub(crate) fn new(base: Url) -> Self {
        Self(base)
    }

    /// `{base}/files/{id}`: the file's metadata.
    pub(crate) fn metadata(&self, file_id: FileId, spelling: Spelling) -> Url {
        self.build(file_id, spelling, &[])
    }

    /// `{base}/files/{id}/content`: the file's content.
    pub(crate) fn content(&self, file_id: FileId, spelling: Spelling) -> Url {
        self.build(file_id, spelling, &["content"])
    }

    /// `{base}/file-links`: creates links for customers.
    pub(crate) fn file_links(&self) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(LINKS_PATH_END.trim_start_matches('/'));
        }
        url
    }

    /// Whether a URL in an event equals that of the file's content, apart from the spelling of the id.
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
    fn a_url_consists_of_the_base_and_the_id() {
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
    fn similar_urls_are_not_equal() {
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
