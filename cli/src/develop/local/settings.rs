//! The configuration file of a local stack: made at its start, unless somebody has edited it.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::Context as _;
use riverlock_schemas::hash::Sha256Hash;

/// What the first line says before the SHA-256 of what follows it.
const MARK: &str = "# Made by `riverlock stack`, and made anew at its next start unless it was edited. SHA-256: ";

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is new.
    New,
    /// Somebody has edited it, so it stays as it is.
    Kept,
}

/// Writes the file, unless there is one that is not as it was made.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<Written> {
    match fs::read_to_string(file) {
        Ok(found) if !is_as_made(&found) => return Ok(Written::Kept),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    }
    let marked = format!("{MARK}{}\n{text}", Sha256Hash::of(text.as_bytes()));
    fs::write(file, marked).with_context(|| format!("writing {}", file.display()))?;
    Ok(Written::New)
}

fn is_as_made(found: &str) -> bool {
    let made = || {
        let (first, text) = found.split_once('\n')?;
        Some(first.strip_prefix(MARK)? == Sha256Hash::of(text.as_bytes()).to_string())
    };
    made().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_edited_is_kept_and_what_was_not_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("riverlock.toml");
        assert_eq!(write(&file, "a = 1\n").unwrap(), Written::New);
        assert_eq!(write(&file, "a = 2\n").unwrap(), Written::New);
        let made = fs::read_to_string(&file).unwrap();
        assert!(made.ends_with("a = 2\n"), "{made}");
        let edited = made.replace("a = 2", "a = 3");
        fs::write(&file, &edited).unwrap();
        assert_eq!(write(&file, "a = 4\n").unwrap(), Written::Kept);
        assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    }
}
