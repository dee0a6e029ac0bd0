//! What becomes of every table when the tables are built again: each is in this list exactly once.

use sqlx::PgConnection;

use super::store;
use riverlock_ledger::Error;

/// A table, and what is done with it.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What is done with it.
    pub class: Class,
    /// How its rows are compared, if they follow from the topics.
    pub compared: Option<TableComparison>,
}

/// What is done with a table when the rebuilt tables take the live ones' place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its rows follow from the topics and nothing else: the rebuilt ones count.
    Derived,
    /// Its rows follow from the topics, and stand for something that was done outside, or that nobody may do twice: live rows
    /// stay as they are, and those that only the rebuild has are added.
    LiveWins {
        /// What a row is known by.
        key: &'static [&'static str],
        /// What numbers the rows; what is added gets new numbers, in the order of the old ones.
        numbered: Option<RowNumbers>,
    },
    /// Rebuilt rows count, and those that only the live table has stay.
    RebuiltWins {
        /// What a row is known by.
        key: &'static [&'static str],
    },
    /// Nothing of it is in the topics: the live rows are carried over.
    Carried,
    /// It says something about the live rows that may not be so of the rebuilt ones: it begins anew.
    Reset,
}

/// How the rows of a table are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowNumbers {
    /// The column.
    pub column: &'static str,
    /// The table of the numbers whose rows wait for something to be done; what is added waits.
    pub queue: &'static str,
}

/// How rows are compared.
#[derive(Clone, Copy, Debug)]
pub struct TableComparison {
    /// What a row is found by. Rows with one key are compared together.
    pub key: &'static [&'static str],
    /// Which columns have to be equal.
    pub columns: Columns,
    /// Rows that cannot follow from the topics are left out: a condition that the others fulfil.
    pub only: &'static str,
    /// What it means when they differ.
    pub rule: Rule,
}

impl TableComparison {
    /// SQL for the compared columns of a row as one text. JSON in it is as if it had been written by one hand.
    pub(super) fn row(&self, row: &str) -> String {
        match self.columns {
            Columns::Only(only) => {
                let pairs: Vec<String> = only.iter().map(|column| format!("'{column}', {row}.{column}")).collect();
                format!("jsonb_build_object({})::text", pairs.join(", "))
            }
            Columns::AllBut(but) => format!("(to_jsonb({row}) - '{{{}}}'::text[])::text", but.join(",")),
        }
    }
}

/// Which columns of a table are compared.
#[derive(Clone, Copy, Debug)]
pub enum Columns {
    /// These.
    Only(&'static [&'static str]),
    /// All but these, so that a column that is added later is compared too.
    AllBut(&'static [&'static str]),
}

/// How rows with one key are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One row, byte for byte.
    Row,
    /// The records of one event: see [`super::events`].
    Records,
}

const EVERY_ROW: &str = "true";

/// Every row with every column, byte for byte.
const fn whole(key: &'static [&'static str]) -> TableComparison {
    TableComparison { key, columns: Columns::AllBut(&[]), only: EVERY_ROW, rule: Rule::Row }
}

/// Every table of the migrations, but the list of the migrations. A view shows the tables of its own schema and needs nothing.
pub const TABLES: &[Table] = &[
    // Copied before anything is read, so that a topic has the same number in both schemas.
    Table { name: "kafka_clusters", class: Class::Carried, compared: None },
    Table { name: "topics", class: Class::Carried, compared: None },
    Table {
        name: "events",
        class: Class::Derived,
        compared: Some(TableComparison {
            key: &["event_id"],
            columns: Columns::AllBut(&["recorded_at"]),
            only: EVERY_ROW,
            rule: Rule::Records,
        }),
    },
    Table {
        name: "orders",
        class: Class::Derived,
        compared: Some(TableComparison {
            key: &["order_id", "live_mode"],
            columns: Columns::AllBut(&["version", "first_seen_at", "changed_at"]),
            only: EVERY_ROW,
            rule: Rule::Row,
        }),
    },
    Table {
        name: "charge_operations",
        class: Class::Derived,
        compared: Some(whole(&["order_id", "live_mode", "kind", "charge_id", "operation_id"])),
    },
    Table {
        name: "shipments",
        class: Class::Derived,
        compared: Some(whole(&["order_id", "live_mode", "fulfillment_id", "line_id"])),
    },
    // What a message said of the moment in which it was made depends on that moment.
    Table {
        name: "outbox",
        class: Class::LiveWins {
            key: &["order_id", "live_mode", "kind", "effect_key"],
            numbered: Some(RowNumbers { column: "message_id", queue: "outbox_due" }),
        },
        compared: Some(TableComparison {
            key: &["order_id", "live_mode", "kind", "effect_key"],
            columns: Columns::Only(&["order_id", "live_mode", "kind", "effect_key"]),
            only: "kind <> 'invoice.stored'",
            rule: Rule::Row,
        }),
    },
    // What the rebuild put into it was published long ago, or is added with the messages that only the rebuild has.
    Table { name: "outbox_due", class: Class::Carried, compared: None },
    Table { name: "outbox_parked", class: Class::Carried, compared: None },
    Table { name: "outbox_retries", class: Class::Carried, compared: None },
    // The first announcement of a document stays, and which is the first depends on the order of reading.
    Table {
        name: "invoices",
        class: Class::LiveWins { key: &["file_id"], numbered: None },
        compared: Some(TableComparison {
            key: &["file_id"],
            columns: Columns::Only(&["file_id", "order_id", "live_mode", "purpose"]),
            only: EVERY_ROW,
            rule: Rule::Row,
        }),
    },
    // Compared as outcomes, in `events`.
    Table {
        name: "dead_letters",
        class: Class::LiveWins { key: &["topic_id", "partition", "record_offset"], numbered: None },
        compared: None,
    },
    Table {
        name: "consumer_offsets",
        class: Class::RebuiltWins { key: &["consumer", "topic_id", "partition"] },
        compared: None,
    },
    Table { name: "invoice_retries", class: Class::Carried, compared: None },
    Table { name: "dead_letter_actions", class: Class::Carried, compared: None },
    Table { name: "audit_marks", class: Class::Reset, compared: None },
    Table { name: "audit_runs_last", class: Class::Reset, compared: None },
    Table { name: "replay_plans", class: Class::Carried, compared: None },
    Table { name: "replay_plan_ranges", class: Class::Carried, compared: None },
    Table { name: "replay_plan_chunks", class: Class::Carried, compared: None },
    Table { name: "replay_runs", class: Class::Carried, compared: None },
    Table { name: "replay_run_ranges", class: Class::Carried, compared: None },
    Table { name: "refolds", class: Class::Carried, compared: None },
    Table { name: "rebuilds", class: Class::Carried, compared: None },
    Table { name: "reconcile_runs", class: Class::Carried, compared: None },
    Table { name: "reconciled_events", class: Class::Carried, compared: None },
    Table { name: "shipment_reports", class: Class::Carried, compared: None },
    Table { name: "shipment_report_lines", class: Class::Carried, compared: None },
    Table { name: "shipment_report_requests", class: Class::Carried, compared: None },
];

/// Where sqlx remembers which migrations have run; each schema has its own.
pub(crate) const MIGRATIONS: &str = "_sqlx_migrations";

/// Which of a schema's tables are not in the list.
#[must_use]
pub fn unknown(existing: &[String]) -> Vec<String> {
    let listed = |name: &str| TABLES.iter().any(|table| table.name == name);
    existing.iter().filter(|name| !listed(name) && name.as_str() != MIGRATIONS).cloned().collect()
}

/// A schema's tables. One comes after those that it refers to.
pub(super) async fn known(connection: &mut PgConnection, schema: &str) -> Result<Vec<&'static Table>, Error> {
    let existing = store::tables(connection, schema).await?;
    Ok(existing.iter().filter_map(|(name, _)| TABLES.iter().find(|table| table.name == name)).collect())
}
