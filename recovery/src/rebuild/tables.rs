//! How a rebuild treats each table. Every table is in this list exactly once.

use sqlx::PgConnection;

use super::store;
use riverlock_ledger::Error;

/// A table, and how a rebuild treats it.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What happens to it when the tables are swapped.
    pub class: Class,
    /// How its rows are compared, if they follow from the topics.
    pub compared: Option<TableComparison>,
}

/// What happens to a table when the rebuilt tables are swapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its rows follow from the topics alone: the rebuilt rows are used.
    Derived,
    /// Its rows follow from the topics but represent external actions that must not be repeated: live rows stay
    /// unchanged, and rows that only the rebuild has are added.
    LiveWins {
        /// Columns that identify a row.
        key: &'static [&'static str],
    },
    /// The outbox: live rows still wait to be published. Of the rebuilt rows, those whose effect has not fired are added,
    /// with new numbers in their original order.
    Outbox,
    /// The rebuilt rows are used, and rows that only the live table has are kept.
    RebuiltWins {
        /// Columns that identify a row.
        key: &'static [&'static str],
    },
    /// Its rows do not follow from the topics: the live rows are copied.
    Carried,
    /// Its rows describe the live rows and may not be true of the rebuilt ones: it is emptied.
    Reset,
}

/// How the rows of a table are compared.
#[derive(Clone, Copy, Debug)]
pub struct TableComparison {
    /// Key of a row. Rows with the same key are compared together.
    pub key: &'static [&'static str],
    /// Columns that must be equal.
    pub columns: Columns,
    /// A further value that must be equal: its name, and SQL for it in which `{row}` is the row.
    pub derived: Option<(&'static str, &'static str)>,
    /// SQL condition for the rows to compare; the others do not follow from the topics.
    pub only: &'static str,
    /// How rows with the same key are compared.
    pub rule: Rule,
}

impl TableComparison {
    /// The table or view whose rows are compared: the numbers in `events` mean something in their own schema only.
    pub(super) fn relation(&self, table: &'static str) -> &'static str {
        match self.rule {
            Rule::Row => table,
            Rule::Records => "event_records",
        }
    }

    /// SQL for the compared columns of a row as one text, with JSON normalized.
    pub(super) fn row(&self, row: &str) -> String {
        let columns = match self.columns {
            Columns::Only(only) => {
                let pairs: Vec<String> = only.iter().map(|column| format!("'{column}', {row}.{column}")).collect();
                format!("jsonb_build_object({})", pairs.join(", "))
            }
            Columns::AllBut(but) => format!("(to_jsonb({row}) - '{{{}}}'::text[])", but.join(",")),
        };
        match self.derived {
            None => format!("{columns}::text"),
            Some((name, sql)) => {
                format!("({columns} || jsonb_build_object('{name}', {}))::text", sql.replace("{row}", row))
            }
        }
    }
}

/// Which columns of a table are compared.
#[derive(Clone, Copy, Debug)]
pub enum Columns {
    /// These columns.
    Only(&'static [&'static str]),
    /// All columns except these, so that a column that is added later is compared too.
    AllBut(&'static [&'static str]),
}

/// How rows with the same key are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One row, byte for byte.
    Row,
    /// The records of one event: see [`super::events`].
    Records,
}

const EVERY_ROW: &str = "true";

/// Compares every column of every row.
const fn whole(key: &'static [&'static str]) -> TableComparison {
    TableComparison { key, columns: Columns::AllBut(&[]), derived: None, only: EVERY_ROW, rule: Rule::Row }
}

/// Every table of the migrations except sqlx's own. Views refer to the tables of their own schema and need no
/// treatment.
pub const TABLES: &[Table] = &[
    // Copied before anything is read, so that a topic has the same number in both schemas.
    Table { name: "kafka_clusters", class: Class::Carried, compared: None },
    Table { name: "topics", class: Class::Carried, compared: None },
    Table {
        name: "events",
        class: Class::Derived,
        compared: Some(TableComparison {
            key: &["event_id"],
            columns: Columns::AllBut(&["recorded_at", "outcome_code", "row_location"]),
            derived: None,
            only: EVERY_ROW,
            rule: Rule::Records,
        }),
    },
    // Compared as the names and ids in `event_records`.
    Table { name: "event_types", class: Class::Derived, compared: None },
    Table { name: "event_reasons", class: Class::Derived, compared: None },
    Table { name: "odd_event_ids", class: Class::Derived, compared: None },
    Table {
        name: "orders",
        class: Class::Derived,
        compared: Some(TableComparison {
            key: &["order_id", "live_mode"],
            // When effects fired depends on when the events were read.
            columns: Columns::AllBut(&["version", "fired", "first_seen_at", "changed_at"]),
            derived: Some(("fired", "(SELECT jsonb_agg(e ORDER BY e) FROM json_object_keys({row}.fired) e)")),
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
    // Compared through `orders.fired`.
    Table { name: "outbox", class: Class::Outbox, compared: None },
    Table { name: "outbox_parked", class: Class::Carried, compared: None },
    Table { name: "outbox_retries", class: Class::Carried, compared: None },
    // The first announcement of a document is kept, and which one that is depends on the order of reading.
    Table {
        name: "invoices",
        class: Class::LiveWins { key: &["file_id"] },
        compared: Some(TableComparison {
            key: &["file_id"],
            columns: Columns::Only(&["file_id", "order_id", "live_mode", "purpose"]),
            derived: None,
            only: EVERY_ROW,
            rule: Rule::Row,
        }),
    },
    // Compared through the outcomes in `events`.
    Table {
        name: "dead_letters",
        class: Class::LiveWins { key: &["topic_id", "partition", "record_offset"] },
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
    Table { name: "shipment_rejections", class: Class::Carried, compared: None },
];

/// Where sqlx stores which migrations have run; each schema has its own.
pub(crate) const MIGRATIONS: &str = "_sqlx_migrations";

/// Returns the tables of a schema that are not in the list.
#[must_use]
pub fn unknown(existing: &[String]) -> Vec<String> {
    let listed = |name: &str| TABLES.iter().any(|table| table.name == name);
    existing.iter().filter(|name| !listed(name) && name.as_str() != MIGRATIONS).cloned().collect()
}

/// Returns the tables of a schema, each after those that it references.
pub(super) async fn known(connection: &mut PgConnection, schema: &str) -> Result<Vec<&'static Table>, Error> {
    let existing = store::tables(connection, schema).await?;
    Ok(existing.iter().filter_map(|(name, _)| TABLES.iter().find(|table| table.name == name)).collect())
}
