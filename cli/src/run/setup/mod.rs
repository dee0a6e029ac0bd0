//! `riverlock setup`: topics, tables, and the Kafka cluster that the database belongs to.
//!
//! Running it again changes nothing. It may run beside services of the same version. It refuses to change tables while services
//! of another version run, and to move to another cluster while any service runs.

pub mod args;
mod former;

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use riverlock_invoice_fetcher::queue;
use riverlock_ledger::{
    Error,
    alive::{session_of, while_alive},
    outbox,
    postgres::{
        self, TRANSACTION_LIMIT, bounded, cluster,
        migrations::{self, Item, Progress},
    },
    store,
};
use riverlock_runtime::{
    Clock as _, SystemClock,
    kafka::topics::{self, TopicError, TopicState},
};
use riverlock_schemas::time::rfc3339;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::{
    config::Config,
    exit::{self, Problem},
    options::operator::Operator,
    terminal::{out, text::count},
};

use self::{args::SetupOptions, former::FormerTopic};

/// The result of a setup.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SetupReport {
    /// Whether all topics match the configuration.
    #[serde(rename = "isWell")]
    is_ok: bool,
    cluster: ClusterReport,
    topics: Vec<TopicReport>,
    /// Topics of earlier versions, which are only read.
    former_topics: Vec<FormerTopic>,
    /// Migrations of this run.
    migrations: Vec<Item>,
    /// Messages that will be published again.
    republished: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterReport {
    id: String,
    /// Whether this run recorded it as the current cluster.
    is_new: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicReport {
    #[serde(flatten)]
    state: TopicState,
    is_created: bool,
    is_changed: bool,
}

pub(crate) async fn run(file: Option<&Path>, options: &SetupOptions) -> anyhow::Result<ExitCode> {
    let config = Config::load_with_kafka(file)?;
    let output = options.output;
    let tell = move |line: &str| if output.json { out::note(line) } else { out::line(line) };
    let summary = setup(&config, options, &tell).await?;
    output.whole(&summary, |text| writeln!(text, "{}", summary.line()))?;
    Ok(exit::success_if(summary.is_ok))
}

/// Creates missing topics, compares existing ones with the configuration, and migrates the tables.
pub(crate) async fn setup(
    config: &Config,
    options: &SetupOptions,
    tell: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<SetupReport> {
    // The duration of a migration depends on the size of the tables.
    let patient = config.postgres.connect_with(|options| options.options([("statement_timeout", "0")]));
    let mut connection = patient.await.context("PostgreSQL does not take a connection")?;
    let connected = cluster::connected(&config.kafka).await?;
    let change = cluster_change(config, options, &mut connection, &connected).await?;
    let limit = config.postgres.answer_limit();
    let pending = migrations::pending(&mut connection, postgres::migrations()).await?;
    let changes_tables = pending.iter().any(|migration| !migration.is_index());
    if changes_tables || change == ClusterChange::Move {
        bounded(limit, ensure_no_other_sessions(&mut connection, change)).await?;
    }
    let topics = set_up_topics(config, options, tell).await?;
    let migrations = migrate(config, pending.len(), tell).await?;

    if change != ClusterChange::Stay {
        bounded(TRANSACTION_LIMIT, cluster::adopt(&mut connection, &connected)).await?;
        tell(&format!("cluster {connected}: recorded as the cluster of this database"));
    }
    let mut kafka = config.kafka.clone();
    topics::find_former(&mut kafka).await?;
    let names = kafka.topics();
    let read: Vec<String> = names.all_raw().into_iter().chain(names.former().iter().cloned()).collect();
    bounded(limit, store::topic_ids(&mut connection, &read)).await?;
    let former = former::topics(&kafka, &mut connection).await?;
    former.iter().for_each(|topic| tell(&topic.line()));
    let republished = match options.republish_since {
        Some(since) => {
            let since = since.at(SystemClock.now());
            let session = session_of(&config.postgres, &mut connection).await?;
            let (by, why) =
                (Operator::default().name()?, format!("setup --new-cluster {connected} --republish-since {since}"));
            let again = republish(&mut connection, since, (&by, &why));
            let count = while_alive(&config.postgres, &[session], again).await?;
            tell(&format!("messages: {count} written since {} will be published again", rfc3339(since)));
            count
        }
        None => 0,
    };
    let is_ok = topics.iter().all(|topic| topic.state.differences.is_empty());
    let cluster = ClusterReport { id: connected, is_new: change != ClusterChange::Stay };
    Ok(SetupReport { is_ok, cluster, topics, former_topics: former, migrations, republished })
}

/// Adds messages that were written since a time to the outbox again, in one transaction, and returns their number.
async fn republish(connection: &mut PgConnection, since: DateTime<Utc>, by: (&str, &str)) -> Result<u64, Error> {
    let now = SystemClock.now();
    let mut transaction = connection.begin().await?;
    let last = outbox::last(&mut transaction).await?;
    let orders = riverlock_processor::republish(&mut transaction, since, now).await?;
    let documents = queue::republish::republish(&mut transaction, since, now).await?;
    outbox::record_republished(&mut transaction, last, by).await?;
    transaction.commit().await?;
    Ok(orders + documents)
}

/// The change of the recorded Kafka cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClusterChange {
    /// The recorded cluster stays.
    Stay,
    /// The first cluster is recorded.
    First,
    /// Another cluster replaces the recorded one.
    Move,
}

/// Compares the connected cluster with the recorded one, before anything is created in it.
async fn cluster_change(
    config: &Config,
    options: &SetupOptions,
    connection: &mut PgConnection,
    connected: &str,
) -> anyhow::Result<ClusterChange> {
    if let Some(wanted) = options.new_cluster.as_deref().filter(|wanted| *wanted != connected) {
        let text = format!("kafka.brokers ({}) connects to cluster {connected}, not to {wanted}", config.kafka.brokers);
        return Err(Problem(text).into());
    }
    match cluster::recorded(connection).await? {
        None => Ok(ClusterChange::First),
        Some(current) if current.id == connected => Ok(ClusterChange::Stay),
        Some(_) if options.new_cluster.is_some() => Ok(ClusterChange::Move),
        Some(current) => Err(Problem(format!(
            "kafka.brokers ({}) connects to cluster {connected}, but since {} the database belongs to cluster {}. Correct \
             kafka.brokers. Only if Kafka was replaced permanently: `riverlock setup --new-cluster {connected}` continues with \
             the new cluster from the beginning of its topics",
            config.kafka.brokers, rfc3339(current.adopted_at), current.id
        ))
        .into()),
    }
}

/// Refuses to change tables while services of another version would keep writing to them, and to change the cluster while
/// services would keep using positions of the former one.
async fn ensure_no_other_sessions(connection: &mut PgConnection, change: ClusterChange) -> anyhow::Result<()> {
    let others = postgres::other_connections(connection).await?;
    if others == 0 {
        return Ok(());
    }
    let what = if change == ClusterChange::Move { "the cluster must be changed" } else { "the tables must be changed" };
    Err(Problem(format!(
        "{what}, but {others} connections of running services or commands are open: stop every processor and invoice-fetcher \
         first (ingest uses no database and can continue)"
    ))
    .into())
}

async fn set_up_topics(
    config: &Config,
    options: &SetupOptions,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Vec<TopicReport>, TopicError> {
    let began = Instant::now();
    let created = topics::create(&config.kafka).await?;
    for name in &created {
        tell(&format!("topic {name}: created ({})", seconds(began.elapsed())));
    }
    let mut states = topics::compare(&config.kafka).await?;
    let mut changed = Vec::new();
    if options.apply_topic_settings {
        let began = Instant::now();
        changed = topics::apply(&config.kafka, &states).await?;
        for state in states.iter().filter(|state| changed.contains(&state.name)) {
            for difference in state.differences.iter().filter(|difference| difference.can_be_applied) {
                let (name, key, wanted) = (&state.name, &difference.key, &difference.wanted);
                let (found, took) = (&difference.found, seconds(began.elapsed()));
                tell(&format!("topic {name}: {key} changed from {found} to {wanted} ({took})"));
            }
        }
        if !changed.is_empty() {
            states = topics::compare(&config.kafka).await?;
        }
    }
    for state in &states {
        for difference in &state.differences {
            let hint = if difference.can_be_applied { " (change it with --apply-topic-settings)" } else { "" };
            let need = if difference.is_required { "; the services refuse to start" } else { "" };
            tell(&format!("topic {}: {difference}{hint}{need}", state.name));
        }
        if let Some(reason) = &state.not_compared {
            tell(&format!("topic {}: its settings could not be compared: {reason}", state.name));
        }
    }
    let summary = |state: TopicState| TopicReport {
        is_created: created.contains(&state.name),
        is_changed: changed.contains(&state.name),
        state,
    };
    Ok(states.into_iter().map(summary).collect())
}

async fn migrate(config: &Config, pending: usize, tell: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Vec<Item>> {
    let mut done = 0;
    let mut say = |progress: Progress| match progress {
        Progress::OtherSession => tell("tables: another setup is running; waiting for it"),
        Progress::Begins(item) => {
            done += 1;
            tell(&format!("migration {} ({done} of {pending}), {}: running", item.version, item.description));
        }
        Progress::Locked(item) => {
            tell(&format!("migration {}: other sessions hold its locks; retrying", item.version));
        }
        Progress::Running { item, elapsed, percent } => {
            let done_part = percent.map(|percent| format!(", {percent:.0} % done")).unwrap_or_default();
            tell(&format!("migration {}: running for {}{done_part}", item.version, seconds(elapsed)));
        }
        Progress::Done { item, elapsed } => {
            tell(&format!("migration {}: done ({})", item.version, seconds(elapsed)));
        }
    };
    let ran = migrations::run(&config.postgres, postgres::migrations(), &mut say).await;
    ran.context("migrating the tables")
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

impl SetupReport {
    /// The result on one line.
    fn line(&self) -> String {
        let number = |is: fn(&TopicReport) -> bool| self.topics.iter().filter(|topic| is(topic)).count();
        let differing = number(|topic| !topic.state.differences.is_empty());
        let differ = if differing > 0 { format!(", {differing} differ from the configuration") } else { String::new() };
        format!(
            "setup: cluster {}; {}, {} created, {} changed{differ}; {} run, tables are at this version",
            self.cluster.id,
            count(self.topics.len(), "topic"),
            number(|topic| topic.is_created),
            number(|topic| topic.is_changed),
            count(self.migrations.len(), "migration"),
        )
    }
}
