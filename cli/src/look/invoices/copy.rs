//! Copies of stored documents. A copy becomes visible only after its SHA-256 was verified.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use riverlock_invoice_fetcher::{Archive, ArchiveError, queue::view::InvoiceView};
use riverlock_schemas::hash::Sha256Hash;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::args::FetchOptions;
use crate::{
    config::Config,
    exit::Problem,
    terminal::{
        out::{self, Output},
        text::count,
    },
};

/// How long the copy of `open` is kept. A viewer may outlive the command, so a later `open` removes the copy.
const COPY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The folder for the copies of `open`, in the user's runtime folder or in the folder for temporary files.
const COPIES: &str = "riverlock-invoices";

/// Bytes that one write to standard output has.
const PIECE_BYTES: usize = 64 * 1024;

/// The copy of a document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CopyReport<'a> {
    path: &'a Path,
    size_bytes: i64,
    /// Whether a viewer was started; only for `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_opened: Option<bool>,
}

pub(super) async fn fetch(config: &Config, invoice: &InvoiceView, options: FetchOptions) -> anyhow::Result<ExitCode> {
    let path = options.to.unwrap_or_else(|| PathBuf::from(format!("{}.pdf", invoice.file_id)));
    if path == Path::new("-") {
        let mut copy = verified_copy(config, invoice, &std::env::temp_dir()).await?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match copy.as_file_mut().read(&mut piece).context("reading the copy")? {
                0 => return Ok(ExitCode::SUCCESS),
                read => out::write(&piece[..read]),
            }
        }
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let copy = verified_copy(config, invoice, folder).await?;
    let name = path.display();
    if options.force {
        copy.persist(&path).map_err(|error| error.error).with_context(|| format!("writing {name}"))?;
    } else {
        let kept = copy.persist_noclobber(&path).map_err(|error| error.error);
        kept.with_context(|| format!("writing {name}; --force overwrites an existing file"))?;
    }
    let size_bytes = invoice.size_bytes.unwrap_or_default();
    let report = CopyReport { path: &path, size_bytes, is_opened: None };
    options.output.whole(&report, |text| writeln!(text, "saved {name}, {}", count(size_bytes, "byte")))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn open(config: &Config, invoice: &InvoiceView, output: Output) -> anyhow::Result<ExitCode> {
    let folder = copies_folder()?;
    remove_old_copies(&folder).with_context(|| format!("removing old copies from {}", folder.display()))?;
    let copy = verified_copy(config, invoice, &folder).await?;
    let (_file, path) = copy.keep().context("keeping the copy")?;
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let mut viewer = Command::new("xdg-open");
    viewer.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let is_opened = has_display && viewer.status().is_ok_and(|status| status.success());
    let report =
        CopyReport { path: &path, size_bytes: invoice.size_bytes.unwrap_or_default(), is_opened: Some(is_opened) };
    output.whole(&report, |text| {
        let opened = if is_opened { "opened a copy" } else { "no viewer could be started; saved a copy" };
        writeln!(text, "{opened}, which `invoices open` removes after a day: {}", path.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A folder that only this user can read.
fn copies_folder() -> anyhow::Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    let parent = runtime.unwrap_or_else(std::env::temp_dir);
    // The owner of a new file is the user of this process.
    let own = tempfile::tempfile_in(&parent).and_then(|file| Ok(file.metadata()?.uid()));
    let own = own.with_context(|| format!("writing to {}", parent.display()))?;
    let folder = parent.join(format!("{COPIES}-{own}"));
    let named = || format!("creating {}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        created => created.with_context(named)?,
    }
    let found = fs::symlink_metadata(&folder).with_context(named)?;
    let is_private = found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0;
    anyhow::ensure!(is_private, "{} is readable by other users or not a folder; remove it", folder.display());
    Ok(folder)
}

fn remove_old_copies(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > COPY_AGE_MAX);
        if is_old && entry.path().extension().is_some_and(|extension| extension == "pdf") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A copy of a stored document in `folder`, positioned at its beginning. It is deleted unless it is kept.
async fn verified_copy(config: &Config, invoice: &InvoiceView, folder: &Path) -> anyhow::Result<NamedTempFile> {
    let (Some(key), Some(expected)) = (&invoice.object_key, invoice.sha256) else {
        return Err(Problem(format!("not stored: {invoice}")).into());
    };
    let archive = Archive::open(&config.invoice_fetcher)?;
    let named = || format!("writing to {}", folder.display());
    let mut copy = tempfile::Builder::new()
        .prefix(&format!("{}-", invoice.file_id))
        .suffix(".pdf")
        .tempfile_in(folder)
        .with_context(named)?;
    let mut hash = Sha256::new();
    let lost = |error: ArchiveError| match error.is_not_found() {
        true => {
            let advice = "`riverlock invoices verify --requeue` queues it for download";
            anyhow::Error::from(Problem(format!("the archive no longer has {key}; {advice}")))
        }
        false => anyhow::Error::from(error).context(format!("reading {key} from the archive")),
    };
    let mut stream = archive.read(key).await.map_err(lost)?;
    while let Some(bytes) = stream.try_next().await.with_context(|| format!("reading {key} from the archive"))? {
        hash.update(&bytes);
        copy.write_all(&bytes).with_context(named)?;
    }
    copy.as_file().sync_all().with_context(named)?;
    let found = Sha256Hash::from_digest(hash.finalize().into());
    if found != expected {
        let reason = format!(
            "{key} has changed since it was stored: its SHA-256 is {found}, and was {expected}; nothing was written"
        );
        return Err(Problem(reason).into());
    }
    // A second handle starts at the beginning.
    let file = copy.reopen().with_context(named)?;
    let (_, path) = copy.into_parts();
    Ok(NamedTempFile::from_parts(file, path))
}
