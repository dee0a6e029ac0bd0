//! Folders: the repository's, and those of the servers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file that identifies the repository's root.
const MARK: &str = "deploy/kafka/kafka";

/// The folder that contains `deploy/`: `RIVERLOCK_HOME`, or the nearest one above the working directory, or above this
/// crate's source.
///
/// # Errors
///
/// When none of them holds `deploy/kafka/kafka`.
pub fn repo_root() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("RIVERLOCK_HOME") {
        let home = PathBuf::from(home);
        if home.join(MARK).is_file() {
            return Ok(home);
        }
        bail!("RIVERLOCK_HOME is {}, but there is no {MARK} in it", home.display());
    }
    let here = std::env::current_dir().context("reading the working directory")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .chain(source.ancestors())
        .find(|folder| folder.join(MARK).is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!(
                "no {MARK} in {} or above it: run this in Riverlock's repository, or set RIVERLOCK_HOME to it",
                here.display()
            )
        })
}

/// Creates a server's folder.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}
