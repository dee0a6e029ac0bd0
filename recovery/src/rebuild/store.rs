//! Statements across schemas. A schema's name cannot be a statement parameter, so these statements are assembled here.
//! Every name in them comes from the catalog or from [`super::tables`], or was checked to need no quotes.

use riverlock_ledger::{
    Error,
    postgres::{TRANSACTION_LIMIT, bounded},
};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::rebuild::Offsets;

/// Runs an assembled statement.
pub(super) async fn run(connection: &mut PgConnection, statement: String) -> Result<u64, Error> {
    Ok(sqlx::query(AssertSqlSafe(statement)).execute(connection).await?.rows_affected())
}

/// The schema in which unqualified names are resolved.
pub(super) async fn current_schema(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar!("-- schema_current\nSELECT current_schema()::text").fetch_one(connection).await?)
}

/// Returns a schema's comment; the outer `None` means that there is no such schema.
pub(super) async fn schema_comment(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<Option<String>>, Error> {
    let comment = sqlx::query_scalar!(
        "-- schema_comment
         SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1",
        schema
    );
    Ok(comment.fetch_optional(connection).await?)
}

/// Returns the tables of a schema and whether they are unlogged. A table comes after those that it references.
pub(super) async fn tables(connection: &mut PgConnection, schema: &str) -> Result<Vec<(String, bool)>, Error> {
    let rows = sqlx::query!(
        r#"-- schema_tables
           SELECT c.relname::text AS "name!", c.relpersistence = 'u' AS "is_unlogged!"
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname"#,
        schema
    );
    let mut left: Vec<(String, bool)> =
        rows.fetch_all(&mut *connection).await?.into_iter().map(|row| (row.name, row.is_unlogged)).collect();
    let rows = sqlx::query!(
        r#"-- schema_references
           SELECT c.relname::text AS "name!", f.relname::text AS "refers_to!"
           FROM pg_constraint k
           JOIN pg_class c ON c.oid = k.conrelid
           JOIN pg_class f ON f.oid = k.confrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = $1 AND k.contype = 'f' AND k.conrelid <> k.confrelid"#,
        schema
    );
    let references: Vec<(String, String)> =
        rows.fetch_all(connection).await?.into_iter().map(|row| (row.name, row.refers_to)).collect();
    let mut sorted = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits =
            |name: &str| references.iter().any(|(from, to)| from == name && left.iter().any(|(other, _)| other == to));
        let (later, mut now): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|(name, _)| waits(name));
        if now.is_empty() {
            // Circular references: no order is right, and a statement that needs one will fail.
            now.clone_from(&later);
            left.clear();
        } else {
            left = later;
        }
        sorted.append(&mut now);
    }
    Ok(sorted)
}

/// Returns the columns of a table that can be written.
pub(super) async fn columns(connection: &mut PgConnection, schema: &str, table: &str) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar!(
        r#"-- schema_columns
           SELECT column_name::text AS "name!" FROM information_schema.columns
           WHERE table_schema = $1 AND table_name = $2 AND is_generated = 'NEVER' ORDER BY ordinal_position"#,
        schema,
        table
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns the identity columns of a table.
pub(super) async fn identities(connection: &mut PgConnection, schema: &str, table: &str) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar!(
        r#"-- schema_identities
           SELECT column_name::text AS "name!" FROM information_schema.columns
           WHERE table_schema = $1 AND table_name = $2 AND is_identity = 'YES'"#,
        schema,
        table
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Returns an earlier Kafka cluster whose records these consumers have read, if there is one.
pub(super) async fn earlier_cluster(
    connection: &mut PgConnection,
    consumers: &[&str],
) -> Result<Option<String>, Error> {
    let cluster = sqlx::query_scalar!(
        "-- rebuild_earlier_cluster
         SELECT t.cluster_id FROM consumer_offsets o
         JOIN topics t USING (topic_id) JOIN topic_names n USING (topic_id)
         WHERE o.consumer = ANY($1) AND o.next_offset > 0 AND NOT n.is_current LIMIT 1",
        consumers as _
    );
    Ok(cluster.fetch_optional(connection).await?)
}

/// Returns statements that grant the privileges on schema `from`, its tables and views to the same roles on schema
/// `to`.
pub(super) async fn grants(connection: &mut PgConnection, from: &str, to: &str) -> Result<Vec<String>, Error> {
    let statements = sqlx::query_scalar!(
        r#"-- schema_grants
           SELECT format('GRANT %s ON %s TO %s%s', privilege, object, grantee, grantable) AS "statement!" FROM (
               SELECT a.privilege_type AS privilege, format('SCHEMA %I', $2::text) AS object,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS grantable
               FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = $1 AND a.grantee <> n.nspowner
               UNION ALL
               SELECT a.privilege_type, format('TABLE %I.%I', $2::text, c.relname),
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
               WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v') AND a.grantee <> c.relowner
           ) g"#,
        from,
        to
    );
    Ok(statements.fetch_all(connection).await?)
}

/// Returns the offsets of all consumers.
pub(crate) async fn offsets(connection: &mut PgConnection) -> Result<Offsets, Error> {
    let rows = sqlx::query!(
        "-- consumer_offsets_all
         SELECT consumer, topic_id, partition, next_offset FROM consumer_offsets"
    );
    let rows = bounded(TRANSACTION_LIMIT, async { Ok::<_, Error>(rows.fetch_all(connection).await?) }).await?;
    Ok(rows.into_iter().map(|row| ((row.consumer, row.topic_id, row.partition), row.next_offset)).collect())
}
