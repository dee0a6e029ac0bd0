//! The language of the whole tree: phrases that have a plain replacement are refused.

use std::path::{Path, PathBuf};

use super::code::{read, root};

/// Phrases that are not used, each with its replacement. They are searched for in comments, strings, names and pages, across
/// line ends and regardless of case; an underscore counts as a space.
const REFUSED: [(&str, &str); 49] = [
    ("are told", "are notified, or receive"),
    ("asks for nothing", "needs nothing"),
    ("became of", "the outcome"),
    ("behind its back", "unnoticed"),
    ("being told", "being notified"),
    ("believed", "authenticated, or valid"),
    ("came of", "resulted from"),
    ("dead letters ring", "an alert fires"),
    ("disbelieve", "reject"),
    ("fold in", "apply"),
    ("folded again", "recomputed"),
    ("folds in", "applies"),
    ("give again", "redrive"),
    ("give up", "discard, or stop retrying"),
    ("given again", "redriven"),
    ("goes on", "continues"),
    ("heed", "regard"),
    ("in vain", "without success"),
    ("is away", "is unavailable"),
    ("is heard", "is reported"),
    ("is no error", "is not an error"),
    ("is told", "is notified, or receives"),
    ("it may well", "it may"),
    ("knows nothing", "has no access to, or does not depend on"),
    ("lest", "so that … not"),
    ("letters ring", "an alert fires"),
    ("lies at", "is at"),
    ("little by little", "gradually, or in batches"),
    ("no matter", "regardless of"),
    ("nobody sees", "unnoticed"),
    ("none of its business", "ignored"),
    ("only says", "dry run"),
    ("only tells", "only prints"),
    ("passed over", "skipped"),
    ("poison", "a record that cannot be applied"),
    ("proven", "authenticated, or proved"),
    ("put in their place", "replace them"),
    ("put right", "corrected"),
    ("stands still", "makes no progress"),
    ("stay away", "remain unavailable"),
    ("tells apart", "distinguishes"),
    ("thereby", "by this"),
    ("thrown out", "discarded"),
    ("upon", "on"),
    ("what becomes", "the outcome"),
    ("what is known", "the facts"),
    ("where it stands", "the position, or the progress"),
    ("whoever", "a role, such as the client"),
    ("whole house", "the whole project"),
];

/// What is not searched: the glossary and the changelog name former terms, and this file has the list.
const EXEMPT: [&str; 3] = ["docs/glossary.md", "CHANGELOG.md", "tests/tests/all/tidy/language.rs"];

/// Folders that hold no text of the project: build output, and events as Digital River sent them.
const FOREIGN: [&str; 3] = ["target", "golden", "seeds"];

/// Files with text for readers; scripts have no extension.
fn is_text(path: &Path) -> bool {
    let Some(extension) = path.extension() else {
        return path.ends_with("Makefile")
            || path.starts_with(root().join("deploy"))
            || path.starts_with(root().join(".ci"));
    };
    ["rs", "md", "yml", "toml", "sh"].iter().any(|known| extension == *known)
}

fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_hidden = name.starts_with('.') && name != ".ci" && name != ".github";
        if path.is_dir() {
            if !is_hidden && !FOREIGN.contains(&name.as_str()) {
                texts(&path, found);
            }
        } else if is_text(&path) && !EXEMPT.iter().any(|exempt| root().join(exempt) == path) {
            found.push(path);
        }
    }
}

/// The words of a text in lower case, one space before and after each: without line ends, comment signs and punctuation.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '-').filter(|word| !word.is_empty());
    format!(" {} ", words.collect::<Vec<_>>().join(" ").to_lowercase())
}

#[test]
fn refused_phrases_are_not_used() {
    let mut files = Vec::new();
    texts(&root(), &mut files);
    assert!(files.len() > 400, "only {} files were found", files.len());
    let mut found = Vec::new();
    for file in files {
        let words = words(&read(&file));
        for (phrase, instead) in REFUSED.iter().filter(|(phrase, _)| words.contains(&format!(" {phrase} "))) {
            let name = file.strip_prefix(root()).unwrap().display().to_string();
            found.push(format!("{name}: \"{phrase}\"; write: {instead}"));
        }
    }
    assert!(found.is_empty(), "phrases that have a plain replacement:\n  {}", found.join("\n  "));
}

#[test]
fn phrases_are_found_across_lines_and_in_names() {
    let text = "/// What only\n/// says: so.\nfn none_of_its_business() {}\nlet x = \"Upon, it\";";
    let words = words(text);
    let found: Vec<&str> =
        REFUSED.iter().map(|(phrase, _)| *phrase).filter(|phrase| words.contains(&format!(" {phrase} "))).collect();
    assert_eq!(found, ["none of its business", "only says", "upon"]);
}
