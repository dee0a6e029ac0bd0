//! Copies of stored documents: only what is still what was stored becomes visible.

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

use crate::{
    config::Config,
    exit::Wrong,
    look::invoices::args::FetchOptions,
    terminal::out::{self, Output},
};

/// How long a copy that was opened stays. A viewer may outlive the command, so the copy is removed by a later `open`.
const COPY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The folder for copies that are opened, in the runtime folder of the person or in the folder for temporary files.
const COPIES: &str = "riverlock-invoices";

/// Bytes that are printed at once.
const PIECE_BYTES: usize = 64 * 1024;

/// A copy that was made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Copy<'a> {
    path: &'a Path,
    size_bytes: i64,
    /// Whether a viewer was started; only of copies that are opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_opened: Option<bool>,
}

pub(super) async fn fetch(config: &Config, invoice: &InvoiceView, options: FetchOptions) -> anyhow::Result<ExitCode> {
    let path = options.to.unwrap_or_else(|| PathBuf::from(format!("{}.pdf", invoice.file_id)));
    if path == Path::new("-") {
        let mut copy = checked(config, invoice, &std::env::temp_dir()).await?;
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
    let copy = checked(config, invoice, folder).await?;
    let name = path.display();
    if options.force {
        copy.persist(&path).map_err(|error| error.error).with_context(|| format!("writing {name}"))?;
    } else {
        let kept = copy.persist_noclobber(&path).map_err(|error| error.error);
        kept.with_context(|| format!("writing {name}; --force writes over a file that is there"))?;
    }
    let size_bytes = invoice.size_bytes.unwrap_or_default();
    let made = Copy { path: &path, size_bytes, is_opened: None };
    options.output.whole(&made, |text| writeln!(text, "{name}: {size_bytes} bytes, as they were stored"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn open(config: &Config, invoice: &InvoiceView, output: Output) -> anyhow::Result<ExitCode> {
    let folder = copies_folder()?;
    remove_old_copies(&folder).with_context(|| format!("removing old copies from {}", folder.display()))?;
    let copy = checked(config, invoice, &folder).await?;
    let (_file, path) = copy.keep().context("keeping the copy")?;
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let mut viewer = Command::new("xdg-open");
    viewer.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let is_opened = has_display && viewer.status().is_ok_and(|status| status.success());
    let made = Copy { path: &path, size_bytes: invoice.size_bytes.unwrap_or_default(), is_opened: Some(is_opened) };
    output.whole(&made, |text| {
        let opened = if is_opened { "opened a copy" } else { "no viewer can be opened here; a copy is there" };
        writeln!(text, "{opened}, which the next `invoices open` after a day removes: {}", path.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A folder that nobody else can look into.
fn copies_folder() -> anyhow::Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    let parent = runtime.unwrap_or_else(std::env::temp_dir);
    // A file of one's own tells whose process this is.
    let own = tempfile::tempfile_in(&parent).and_then(|file| Ok(file.metadata()?.uid()));
    let own = own.with_context(|| format!("writing into {}", parent.display()))?;
    let folder = parent.join(format!("{COPIES}-{own}"));
    let named = || format!("making {}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.with_context(named)?,
    }
    let found = fs::symlink_metadata(&folder).with_context(named)?;
    let is_private = found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0;
    anyhow::ensure!(is_private, "{} is not a folder that is yours alone; remove it", folder.display());
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

/// A copy of a stored document in `folder`, which goes away unless it is kept, read from its begin.
async fn checked(config: &Config, invoice: &InvoiceView, folder: &Path) -> anyhow::Result<NamedTempFile> {
    let (Some(key), Some(expected)) = (&invoice.object_key, invoice.sha256) else {
        return Err(Wrong(format!("it is not stored: {invoice}")).into());
    };
    let archive = Archive::open(&config.invoice_fetcher)?;
    let named = || format!("writing into {}", folder.display());
    let mut copy = tempfile::Builder::new()
        .prefix(&format!("{}-", invoice.file_id))
        .suffix(".pdf")
        .tempfile_in(folder)
        .with_context(named)?;
    let mut hash = Sha256::new();
    let lost = |error: ArchiveError| match error.is_not_found() {
        true => {
            let advice = "`riverlock invoices verify --requeue` has it fetched again";
            anyhow::Error::from(Wrong(format!("the archive does not have {key} any more; {advice}")))
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
        let reason =
            format!("{key} is not what was stored: its SHA-256 is {found}, and was {expected}. Nothing was written");
        return Err(Wrong(reason).into());
    }
    // A second handle starts at the begin.
    let file = copy.reopen().with_context(named)?;
    let (_, path) = copy.into_parts();
    Ok(NamedTempFile::from_parts(file, path))
}
