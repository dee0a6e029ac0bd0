//! The schema in which the tables are built.

use std::collections::BTreeMap;

use riverlock_runtime::kafka::KafkaConfig;
use sqlx::{Connection as _, PgConnection};

use super::{Rebuild, RebuildError, RebuildPlan, store, tables};
use riverlock_ledger::{
    Error, PostgresConfig,
    postgres::{self, Lock, TRANSACTION_LIMIT, bounded, cluster},
    store as ledger,
};

/// Application name of rebuild sessions in PostgreSQL, so that they are not taken for services.
const APPLICATION: &str = "riverlock rebuild";
/// Prefix of the comment of a schema that is being built.
const BUILDING: &str = "riverlock builds here: ";
/// Prefix of the comment of a schema that was live before.
pub(super) const KEPT: &str = "riverlock kept this: ";

impl Rebuild {
    /// Creates the schema or resumes an earlier build, and takes the lock that allows only one rebuild at a time.
    ///
    /// # Errors
    /// When PostgreSQL fails, the live tables are not at this version, or an earlier build cannot be resumed.
    pub async fn open(kafka: &KafkaConfig, postgres: &PostgresConfig, plan: RebuildPlan) -> Result<Self, RebuildError> {
        if !postgres::is_schema_name(&plan.schema) {
            return Err(RebuildError::Schema(format!("`{}` is not a valid schema name", plan.schema)));
        }
        let limit = postgres.answer_limit();
        let mut guard = connect(postgres).await?;
        let live_schema = bounded(limit, store::current_schema(&mut guard))
            .await?
            .ok_or_else(|| RebuildError::Schema("the role's search_path contains no existing schema".to_owned()))?;
        if live_schema == plan.schema || !postgres::is_schema_name(&live_schema) {
            return Err(RebuildError::Schema(format!("the live tables are in schema {live_schema}; build in another")));
        }
        if !bounded(limit, postgres::try_lock(&mut guard, Lock::Rebuild)).await? {
            return Err(RebuildError::Busy);
        }
        let missing = bounded(limit, async { Ok::<_, Error>(postgres::migrations_missing(&mut guard).await?) }).await?;
        if missing > 0 {
            return Err(RebuildError::NotMigrated(missing));
        }
        cluster::ensure_current(kafka, &mut guard).await?;
        let names: Vec<&str> = plan.consumers.iter().map(|(name, _)| *name).collect();
        if let Some(cluster) = bounded(limit, store::earlier_cluster(&mut guard, &names)).await? {
            return Err(RebuildError::EarlierCluster(cluster));
        }
        let this = Self {
            kafka: kafka.clone(),
            live: postgres.in_schema(&live_schema),
            shadow: postgres.in_schema(&plan.schema),
            live_schema,
            shadow_schema: plan.schema.clone(),
            consumers: plan.consumers.clone(),
            guard,
        };
        // Creates tables, which can take long because all of them are written to disk.
        bounded(TRANSACTION_LIMIT, this.prepare(&plan)).await?;
        Ok(this)
    }

    /// The schema of the live tables.
    #[must_use]
    pub fn live_schema(&self) -> &str {
        &self.live_schema
    }

    async fn prepare(&self, plan: &RebuildPlan) -> Result<(), RebuildError> {
        let mut live = connect(&self.live).await?;
        let schema = &self.shadow_schema;
        let mut comment = store::schema_comment(&mut live, schema).await?;
        let (building, prefix) = building(&self.live_schema, &plan.fingerprint);
        if let Some(Some(comment)) = &comment
            && comment.starts_with(&format!("{BUILDING}for "))
            && !comment.starts_with(&prefix)
        {
            return Err(RebuildError::Schema(format!(
                "schema {schema} is being built for another schema than {}; choose another with --schema",
                self.live_schema
            )));
        }
        if plan.fresh && comment.as_ref().is_some_and(|comment| begins(comment.as_ref(), BUILDING)) {
            store::run(&mut live, format!("-- schema_drop\nDROP SCHEMA {schema} CASCADE")).await?;
            comment = None;
        }
        match comment {
            None => {
                let mut transaction = live.begin().await?;
                store::run(&mut transaction, format!("-- schema_create\nCREATE SCHEMA {schema}")).await?;
                // Consists of a hash and names of modes; a quote could only break the statement.
                let comment =
                    format!("-- schema_comment\nCOMMENT ON SCHEMA {schema} IS '{}'", building.replace('\'', ""));
                store::run(&mut transaction, comment).await?;
                transaction.commit().await?;
            }
            Some(Some(comment)) if comment == building || comment.starts_with(KEPT) => {}
            Some(comment) if begins(comment.as_ref(), BUILDING) => return Err(RebuildError::Mixed(schema.clone())),
            Some(_) => {
                return Err(RebuildError::Schema(format!(
                    "schema {schema} was not created by riverlock; choose another"
                )));
            }
        }
        let mut shadow = connect(&self.shadow).await?;
        postgres::migrate(&mut shadow)
            .await
            .map_err(|source| RebuildError::Migrate { schema: schema.clone(), source })?;
        for schema in [&self.live_schema, schema] {
            let existing: Vec<String> =
                store::tables(&mut live, schema).await?.into_iter().map(|(name, _)| name).collect();
            let names = tables::unknown(&existing);
            if !names.is_empty() {
                return Err(RebuildError::Tables { schema: schema.clone(), names });
            }
        }
        if crate::rebuild::store::offsets(&mut shadow).await?.is_empty() {
            self.set_logged(&mut shadow, false).await?;
        }
        self.copy_topics(&mut live).await
    }

    /// Switches the tables between logged and unlogged; building unlogged tables writes no WAL. All tables are switched
    /// or none: after a crash of PostgreSQL unlogged tables are empty, and then the offsets must be gone as well, so
    /// that the build starts over.
    pub(super) async fn set_logged(&self, connection: &mut PgConnection, logged: bool) -> Result<(), RebuildError> {
        let mut existing = store::tables(connection, &self.shadow_schema).await?;
        existing.retain(|(name, is_unlogged)| name != tables::MIGRATIONS && *is_unlogged == logged);
        // A logged table may not reference an unlogged one.
        if !logged {
            existing.reverse();
        }
        let word = if logged { "LOGGED" } else { "UNLOGGED" };
        let mut transaction = connection.begin().await?;
        for (name, _) in existing {
            let statement = format!("-- table_set_logged\nALTER TABLE {}.{name} SET {word}", self.shadow_schema);
            store::run(&mut transaction, statement).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Copies the topics, so that each has the same number in both schemas.
    pub(super) async fn copy_topics(&self, live: &mut PgConnection) -> Result<(), RebuildError> {
        let names: Vec<String> = self.consumers.iter().flat_map(|(_, topics)| topics).cloned().collect();
        ledger::topic_ids(live, &names).await?;
        let (from, to) = (&self.live_schema, &self.shadow_schema);
        let mut transaction = live.begin().await?;
        for copy in [
            format!("-- clusters_forget\nDELETE FROM {to}.kafka_clusters"),
            format!("-- clusters_copy\nINSERT INTO {to}.kafka_clusters SELECT * FROM {from}.kafka_clusters"),
            format!(
                "-- topics_copy
                 INSERT INTO {to}.topics (topic_id, cluster_id, name) OVERRIDING SYSTEM VALUE
                 SELECT topic_id, cluster_id, name FROM {from}.topics
                 ON CONFLICT (topic_id) DO UPDATE SET cluster_id = EXCLUDED.cluster_id"
            ),
        ] {
            store::run(&mut transaction, copy).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Returns the names of topics by number.
    pub(super) async fn topic_names(connection: &mut PgConnection) -> Result<BTreeMap<i16, String>, RebuildError> {
        let rows = sqlx::query!("-- topics_all\nSELECT topic_id, name FROM topics").fetch_all(connection);
        let rows = bounded(TRANSACTION_LIMIT, async { Ok::<_, Error>(rows.await?) }).await?;
        Ok(rows.into_iter().map(|row| (row.topic_id, row.name)).collect())
    }
}

/// Returns the comment of a schema that is built for the tables of `live`, and the prefix of all such comments.
/// Installs that share a database must neither resume nor drop each other's builds.
fn building(live: &str, fingerprint: &str) -> (String, String) {
    let prefix = format!("{BUILDING}for {live}: ");
    (format!("{prefix}{fingerprint}"), prefix)
}

fn begins(comment: Option<&String>, with: &str) -> bool {
    comment.is_some_and(|comment| comment.starts_with(with))
}

/// Opens a session without timeouts.
pub(super) async fn connect(postgres: &PostgresConfig) -> Result<PgConnection, sqlx::Error> {
    let patient = |options: sqlx::postgres::PgConnectOptions| {
        options
            .application_name(APPLICATION)
            .options([("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0")])
    };
    postgres.connect_with(patient).await
}

/// Opens a session for building. A crash of PostgreSQL may lose its last commits, but offsets and rows are always lost
/// together.
pub(super) async fn connect_to_build(postgres: &PostgresConfig) -> Result<PgConnection, sqlx::Error> {
    postgres
        .connect_with(|options| options.application_name(APPLICATION).options([("synchronous_commit", "off")]))
        .await
}
