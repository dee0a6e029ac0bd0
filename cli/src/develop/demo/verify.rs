//! Compares the result with the played histories: every order's status, every invoice's bytes.

use std::collections::{BTreeSet, HashMap};

use riverlock_invoice_fetcher::{Archive, queue::view};
use riverlock_ledger::view::known_events;
use riverlock_processor::store;
use riverlock_sandbox::{Life, PlayConfig, data::pdf};
use riverlock_schemas::{FileId, Mode};
use sqlx::PgConnection;

use crate::config::Config;

/// Lives that one statement compares.
const PAGE_LIVES: usize = 500;
/// The status of an order that was shipped.
const COMPLETE: &str = "complete";
/// Problems that are listed; all are counted.
const PROBLEMS_MAX: usize = 20;

/// The result of the comparison.
#[derive(Default)]
pub struct Verification {
    /// Compared events.
    pub events: u64,
    /// Compared orders.
    pub orders: u64,
    /// Hashed invoices.
    pub invoices: u64,
    /// Size of the invoices, in bytes.
    pub invoice_bytes: u64,
    /// The first differences.
    pub problems: Vec<String>,
    /// Number of all differences.
    pub problems_total: u64,
}

impl Verification {
    fn problem(&mut self, text: String) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

/// Compares the result with the played histories.
///
/// # Errors
/// When the database or the archive cannot be read. Differences are part of the result.
pub async fn run(played: &PlayConfig, config: &Config, connection: &mut PgConnection) -> anyhow::Result<Verification> {
    after_shipping(played, config, connection, &BTreeSet::new()).await
}

/// Like [`run`], with orders that were shipped beyond their histories and are complete.
///
/// # Errors
/// Like [`run`].
pub async fn after_shipping(
    played: &PlayConfig,
    config: &Config,
    connection: &mut PgConnection,
    shipped: &BTreeSet<String>,
) -> anyhow::Result<Verification> {
    let mut result = Verification::default();
    let archive = Archive::open(&config.invoice_fetcher)?;
    let mut lives = played.lives();
    loop {
        let page: Vec<Life> = lives.by_ref().take(PAGE_LIVES).collect();
        if page.is_empty() {
            break;
        }
        events(&page, connection, &mut result).await?;
        orders(&page, played, shipped, connection, &mut result).await?;
        invoices(&page, &archive, connection, &mut result).await?;
    }
    let known: u64 = store::count_by_status(connection).await?.values().sum();
    if known != result.orders {
        let played = result.orders;
        result.problem(format!("PostgreSQL has {known} orders, but {played} were played"));
    }
    Ok(result)
}

async fn events(page: &[Life], connection: &mut PgConnection, result: &mut Verification) -> anyhow::Result<()> {
    let ids: Vec<String> = page.iter().flat_map(|life| &life.events).map(|event| event.id.clone()).collect();
    let known = known_events(connection, &ids).await?;
    for event in page.iter().flat_map(|life| &life.events) {
        result.events += 1;
        if !known.contains(&event.id) {
            let (kind, id, order) = (event.event_type, &event.id, event.order_id.as_deref().unwrap_or("none"));
            result.problem(format!("{kind} {id} of order {order} has no outcome"));
        }
    }
    Ok(())
}

async fn orders(
    page: &[Life],
    played: &PlayConfig,
    shipped: &BTreeSet<String>,
    connection: &mut PgConnection,
    result: &mut Verification,
) -> anyhow::Result<()> {
    let ids: Vec<String> = page.iter().map(|life| life.order_id.clone()).collect();
    let statuses = store::statuses(connection, Mode::from_live(played.mode.is_live()), &ids).await?;
    for life in page {
        result.orders += 1;
        let found = statuses.get(&life.order_id).map(String::as_str);
        let expected = if shipped.contains(&life.order_id) { COMPLETE } else { life.expected.status };
        if found != Some(expected) {
            let id = &life.order_id;
            result
                .problem(format!("order {id} is {}, but its history ends with {expected}", found.unwrap_or("unknown")));
        }
    }
    Ok(())
}

async fn invoices(
    page: &[Life],
    archive: &Archive,
    connection: &mut PgConnection,
    result: &mut Verification,
) -> anyhow::Result<()> {
    let announced: Vec<FileId> =
        page.iter().flat_map(|life| life.expected.files()).map(FileId::parse).collect::<Result<_, _>>()?;
    let stored: HashMap<FileId, _> =
        view::stored(connection, &announced).await?.into_iter().map(|row| (row.file_id, row)).collect();
    for file_id in announced {
        result.invoices += 1;
        let Some(row) = stored.get(&file_id) else {
            result.problem(format!("invoice {file_id} is not stored"));
            continue;
        };
        let (kept, size) = archive.digest(&row.object_key).await?;
        result.invoice_bytes += size;
        let served = pdf::invoice_sha256(&file_id.to_string());
        if kept != row.sha256 || kept.to_string() != served {
            result.problem(format!("invoice {file_id}: stored {kept}, recorded {}, served {served}", row.sha256));
        }
    }
    Ok(())
}
