//! Compares the end with the histories that were played: every order's status, every invoice's bytes.

use std::collections::HashMap;

use riverlock_invoice_fetcher::{Archive, queue::view};
use riverlock_ledger::view::known_events;
use riverlock_processor::store;
use riverlock_sandbox::{Life, PlayConfig, data::pdf};
use riverlock_schemas::{FileId, Mode};
use sqlx::PgConnection;

use crate::config::Config;

/// Lives that are compared with one statement.
const PAGE_LIVES: usize = 500;
/// Problems that are listed; all are counted.
const PROBLEMS_MAX: usize = 20;

/// What the comparison found.
#[derive(Default)]
pub struct Verified {
    /// Events that were looked up.
    pub events: u64,
    /// Orders that were compared.
    pub orders: u64,
    /// Invoices that were hashed.
    pub invoices: u64,
    /// Their bytes.
    pub invoice_bytes: u64,
    /// The first differences.
    pub problems: Vec<String>,
    /// All differences.
    pub problems_total: u64,
}

impl Verified {
    fn problem(&mut self, text: String) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

/// Compares the end with the histories that were played.
///
/// # Errors
/// When the database or the archive cannot be read; a difference is no error but part of what is found.
pub async fn run(played: &PlayConfig, config: &Config, connection: &mut PgConnection) -> anyhow::Result<Verified> {
    let mut verified = Verified::default();
    let archive = Archive::open(&config.invoice_fetcher)?;
    let mut lives = played.lives();
    loop {
        let page: Vec<Life> = lives.by_ref().take(PAGE_LIVES).collect();
        if page.is_empty() {
            break;
        }
        events(&page, connection, &mut verified).await?;
        orders(&page, played, connection, &mut verified).await?;
        invoices(&page, &archive, connection, &mut verified).await?;
    }
    let known: u64 = store::count_by_status(connection).await?.values().sum();
    if known != verified.orders {
        let played = verified.orders;
        verified.problem(format!("PostgreSQL has {known} orders, but {played} were played"));
    }
    Ok(verified)
}

async fn events(page: &[Life], connection: &mut PgConnection, verified: &mut Verified) -> anyhow::Result<()> {
    let ids: Vec<String> = page.iter().flat_map(|life| &life.events).map(|event| event.id.clone()).collect();
    let known = known_events(connection, &ids).await?;
    for event in page.iter().flat_map(|life| &life.events) {
        verified.events += 1;
        if !known.contains(&event.id) {
            let (kind, id, order) = (event.event_type, &event.id, event.order_id.as_deref().unwrap_or("none"));
            verified.problem(format!("{kind} {id} of order {order} has no outcome"));
        }
    }
    Ok(())
}

async fn orders(
    page: &[Life],
    played: &PlayConfig,
    connection: &mut PgConnection,
    verified: &mut Verified,
) -> anyhow::Result<()> {
    let ids: Vec<String> = page.iter().map(|life| life.order_id.clone()).collect();
    let statuses = store::statuses(connection, Mode::from_live(played.mode.is_live()), &ids).await?;
    for life in page {
        verified.orders += 1;
        let found = statuses.get(&life.order_id).map(String::as_str);
        if found != Some(life.expected.status) {
            let (id, expected) = (&life.order_id, life.expected.status);
            verified.problem(format!("order {id} is {}, but its history ends {expected}", found.unwrap_or("unknown")));
        }
    }
    Ok(())
}

async fn invoices(
    page: &[Life],
    archive: &Archive,
    connection: &mut PgConnection,
    verified: &mut Verified,
) -> anyhow::Result<()> {
    let announced: Vec<FileId> =
        page.iter().flat_map(|life| life.expected.files()).map(FileId::parse).collect::<Result<_, _>>()?;
    let stored: HashMap<FileId, _> =
        view::stored(connection, &announced).await?.into_iter().map(|row| (row.file_id, row)).collect();
    for file_id in announced {
        verified.invoices += 1;
        let Some(row) = stored.get(&file_id) else {
            verified.problem(format!("invoice {file_id} is not stored"));
            continue;
        };
        let (kept, size) = archive.digest(&row.object_key).await?;
        verified.invoice_bytes += size;
        let served = pdf::invoice_sha256(&file_id.to_string());
        if kept != row.sha256 || kept.to_string() != served {
            verified
                .problem(format!("invoice {file_id}: {kept} is stored, {} is noted, {served} was served", row.sha256));
        }
    }
    Ok(())
}
