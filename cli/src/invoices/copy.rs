//! Copies of stored documents: only what is still what was stored becomes visible.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use riverlock_invoice_fetcher::{Archive, view::InvoiceView};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::config::Config;

pub(super) async fn fetch(
    config: &Config,
    invoice: &InvoiceView,
    output: Option<PathBuf>,
    force: bool,
) -> anyhow::Result<ExitCode> {
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{}.pdf", invoice.file_id)));
    if output == Path::new("-") {
        let mut copy = checked(config, invoice, &std::env::temp_dir()).await?;
        std::io::copy(copy.as_file_mut(), &mut std::io::stdout().lock()).context("writing to standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let copy = checked(config, invoice, folder).await?;
    let name = output.display();
    if force {
        copy.persist(&output).map_err(|error| error.error).with_context(|| format!("writing {name}"))?;
    } else {
        let kept = copy.persist_noclobber(&output).map_err(|error| error.error);
        kept.with_context(|| format!("writing {name}; --force writes over a file that is there"))?;
    }
    println!("{name}: {} bytes, as they were stored", invoice.size_bytes.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn open(config: &Config, invoice: &InvoiceView) -> anyhow::Result<ExitCode> {
    let copy = checked(config, invoice, &std::env::temp_dir()).await?;
    // A viewer may outlive this process, so the copy stays; nobody else can read it.
    let (_file, path) = copy.keep().context("keeping the copy")?;
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let mut viewer = Command::new("xdg-open");
    viewer.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if has_display && viewer.status().is_ok_and(|status| status.success()) {
        println!("opened a copy: {}", path.display());
    } else {
        println!("no viewer can be opened here; a copy is {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A copy of a stored document in `folder`, which goes away unless it is kept, read from its begin.
async fn checked(config: &Config, invoice: &InvoiceView, folder: &Path) -> anyhow::Result<NamedTempFile> {
    let (Some(key), Some(expected)) = (&invoice.object_key, invoice.sha256) else {
        anyhow::bail!("it is not stored: {invoice}");
    };
    let archive = Archive::open(&config.invoice_fetcher)?;
    let named = || format!("writing into {}", folder.display());
    let mut copy = tempfile::Builder::new()
        .prefix(&format!("{}-", invoice.file_id))
        .suffix(".pdf")
        .tempfile_in(folder)
        .with_context(named)?;
    let mut hash = Sha256::new();
    let mut stream = archive.read(key).await.with_context(|| format!("reading {key} from the archive"))?;
    while let Some(bytes) = stream.try_next().await.with_context(|| format!("reading {key} from the archive"))? {
        hash.update(&bytes);
        copy.write_all(&bytes).with_context(named)?;
    }
    copy.as_file().sync_all().with_context(named)?;
    let found = riverlock_schemas::hash::Sha256Hash::from_digest(hash.finalize().into());
    anyhow::ensure!(
        found == expected,
        "{key} is not what was stored: its SHA-256 is {found}, and was {expected}. Nothing was written"
    );
    // A second handle starts at the begin.
    let file = copy.reopen().with_context(named)?;
    let (_, path) = copy.into_parts();
    Ok(NamedTempFile::from_parts(file, path))
}
