//! `riverlock setup`: topics, tables, and the Kafka cluster that the database belongs to.
//!
//! Run again it changes nothing. While services of the same version run it may be run at any time; it refuses only to change
//! tables under services of another version, and to move to another cluster under any service.

pub mod args;

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use riverlock_ledger::{
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
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    args::by::By,
    config::Config,
    exit::{self, Wrong},
    run::setup::args::SetupOptions,
    terminal::out,
};

/// What was found and done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Whether everything is as the configuration says.
    is_well: bool,
    cluster: ClusterSummary,
    topics: Vec<TopicSummary>,
    /// Migrations that were run now.
    migrations: Vec<Item>,
    /// Messages that are published again.
    republished: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterSummary {
    id: String,
    /// Whether it became the current cluster now.
    is_new: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicSummary {
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
    Ok(exit::well_if(summary.is_well))
}

/// Creates what is missing, compares what is there, and brings the tables to this version.
pub(crate) async fn setup(
    config: &Config,
    options: &SetupOptions,
    tell: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Summary> {
    // What is done here takes as long as the tables are large.
    let patient = config.postgres.connect_with(|options| options.options([("statement_timeout", "0")]));
    let mut connection = patient.await.context("PostgreSQL does not take a connection")?;
    let connected = cluster::connected(&config.kafka).await?;
    let change = decide(config, options, &mut connection, &connected).await?;
    let limit = config.postgres.answer_limit();
    let pending = migrations::pending(&mut connection, postgres::migrations()).await?;
    let changes_tables = pending.iter().any(|migration| !migration.is_index());
    if changes_tables || change == Change::Move {
        bounded(limit, nobody_else(&mut connection, change)).await?;
    }
    let topics = set_up_topics(config, options, tell).await?;
    let migrations = migrate(config, pending.len(), tell).await?;

    if change != Change::Stay {
        bounded(TRANSACTION_LIMIT, cluster::adopt(&mut connection, &connected)).await?;
        tell(&format!("cluster {connected}: recorded as the one that the database belongs to"));
    }
    bounded(limit, store::topic_ids(&mut connection, &config.kafka.topics().all_raw())).await?;
    let republished = match options.republish_since {
        Some(since) => {
            let since = since.at(SystemClock.now());
            let session = session_of(&config.postgres, &mut connection).await?;
            let (by, why) =
                (By::default().name()?, format!("setup --new-cluster {connected} --republish-since {since}"));
            let again = outbox::publish_again(&mut connection, since, (&by, &why));
            let count = while_alive(&config.postgres, &[session], again).await?;
            tell(&format!("messages: {count} that were written since {since} will be published again"));
            count
        }
        None => 0,
    };
    let is_well = topics.iter().all(|topic| topic.state.differences.is_empty());
    let cluster = ClusterSummary { id: connected, is_new: change != Change::Stay };
    Ok(Summary { is_well, cluster, topics, migrations, republished })
}

/// What becomes of the cluster that the database belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It stays the one that it is.
    Stay,
    /// The first one is recorded.
    First,
    /// Another one takes its place.
    Move,
}

/// Whether the connected cluster is the right one. Asked before anything is created there.
async fn decide(
    config: &Config,
    options: &SetupOptions,
    connection: &mut PgConnection,
    connected: &str,
) -> anyhow::Result<Change> {
    if let Some(wanted) = options.new_cluster.as_deref().filter(|wanted| *wanted != connected) {
        let text = format!("kafka.brokers ({}) leads to cluster {connected}, not to {wanted}", config.kafka.brokers);
        return Err(Wrong(text).into());
    }
    match cluster::recorded(connection).await? {
        None => Ok(Change::First),
        Some(current) if current.id == connected => Ok(Change::Stay),
        Some(_) if options.new_cluster.is_some() => Ok(Change::Move),
        Some(current) => Err(Wrong(format!(
            "kafka.brokers ({}) leads to cluster {connected}, but since {} the database belongs to cluster {}. Correct \
             kafka.brokers. Only if Kafka was replaced for good: `riverlock setup --new-cluster {connected}` continues with \
             the new cluster from the beginning of its topics",
            config.kafka.brokers, current.adopted_at, current.id
        ))
        .into()),
    }
}

/// Refuses to change tables under services of another version, which would go on writing what they know, and to change the
/// cluster under services, which would go on with positions of the former one.
async fn nobody_else(connection: &mut PgConnection, change: Change) -> anyhow::Result<()> {
    let others = postgres::other_connections(connection).await?;
    if others == 0 {
        return Ok(());
    }
    let what = if change == Change::Move { "the cluster must be changed" } else { "the tables must be changed" };
    Err(Wrong(format!(
        "{what}, and {others} connections of running services or commands are open: end every processor and invoice-fetcher \
         first (ingest needs no database and goes on)"
    ))
    .into())
}

async fn set_up_topics(
    config: &Config,
    options: &SetupOptions,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Vec<TopicSummary>, TopicError> {
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
            let hint = if difference.can_be_applied { " (--apply-topic-settings changes it)" } else { "" };
            let need = if difference.is_required { "; the services refuse to start" } else { "" };
            tell(&format!("topic {}: {difference}{hint}{need}", state.name));
        }
        if let Some(reason) = &state.not_compared {
            tell(&format!("topic {}: its settings could not be compared: {reason}", state.name));
        }
    }
    let summary = |state: TopicState| TopicSummary {
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
            tell(&format!("migration {}: other sessions hold its locks; trying again", item.version));
        }
        Progress::Running { item, elapsed, percent } => {
            let built = percent.map(|percent| format!(", {percent:.0} % of the index built")).unwrap_or_default();
            tell(&format!("migration {}: running for {}{built}", item.version, seconds(elapsed)));
        }
        Progress::Done { item, elapsed } => {
            tell(&format!("migration {}: done ({})", item.version, seconds(elapsed)));
        }
    };
    let ran = migrations::run(&config.postgres, postgres::migrations(), &mut say).await;
    ran.context("the tables could not be brought to this version")
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

impl Summary {
    /// The result in one line.
    fn line(&self) -> String {
        let count = |is: fn(&TopicSummary) -> bool| self.topics.iter().filter(|topic| is(topic)).count();
        let differing = count(|topic| !topic.state.differences.is_empty());
        let differ = if differing > 0 { format!(", {differing} differ from the configuration") } else { String::new() };
        format!(
            "setup: cluster {}; {} topics, {} created, {} changed{differ}; {} migrations run, tables are at this version",
            self.cluster.id,
            self.topics.len(),
            count(|topic| topic.is_created),
            count(|topic| topic.is_changed),
            self.migrations.len(),
        )
    }
}
