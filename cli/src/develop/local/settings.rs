//! The configuration file of a local stack: written at its start, unless it was edited.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::Context as _;
use riverlock_schemas::hash::Sha256Hash;

/// The text of the first line before the SHA-256 of the following lines.
const MARK: &str = "# Made by `riverlock stack`, and made anew at its next start unless it was edited. SHA-256: ";

/// The result of writing the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingsFile {
    /// The file was written.
    Written,
    /// The file was edited and stays unchanged.
    Kept,
}

/// Writes the file, unless there is one that was edited.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<SettingsFile> {
    match fs::read_to_string(file) {
        Ok(found) if is_edited(&found) => return Ok(SettingsFile::Kept),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    }
    let marked = format!("{MARK}{}\n{text}", Sha256Hash::of(text.as_bytes()));
    fs::write(file, marked).with_context(|| format!("writing {}", file.display()))?;
    Ok(SettingsFile::Written)
}

fn is_edited(found: &str) -> bool {
    let is_unchanged = || {
        let (first, text) = found.split_once('\n')?;
        Some(first.strip_prefix(MARK)? == Sha256Hash::of(text.as_bytes()).to_string())
    };
    !is_unchanged().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_file_is_kept_and_another_one_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("riverlock.toml");
        assert_eq!(write(&file, "a = 1\n").unwrap(), SettingsFile::Written);
        assert_eq!(write(&file, "a = 2\n").unwrap(), SettingsFile::Written);
        let made = fs::read_to_string(&file).unwrap();
        assert!(made.ends_with("a = 2\n"), "{made}");
        let edited = made.replace("a = 2", "a = 3");
        fs::write(&file, &edited).unwrap();
        assert_eq!(write(&file, "a = 4\n").unwrap(), SettingsFile::Kept);
        assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    }
}
