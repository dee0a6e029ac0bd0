//! Arguments of `riverlock setup`.

use clap::Args;

use crate::{options::moment::Moment, terminal::out::Output};

/// How topics and tables are set up.
#[derive(Clone, Debug, Default, Args)]
pub struct SetupOptions {
    /// Change topic settings that differ from the configuration (default: report them)
    #[arg(long)]
    pub apply_topic_settings: bool,
    /// Use the Kafka cluster with this id from now on, after Kafka was replaced; kafka.brokers must lead to it
    #[arg(long, value_name = "CLUSTER_ID")]
    pub new_cluster: Option<String>,
    /// Publish messages to the new cluster again that were written at or after this time, or this long ago, such as 36h
    #[arg(long, value_name = "TIME", requires = "new_cluster")]
    pub republish_since: Option<Moment>,
    /// The output format; with JSON, progress goes to standard error
    #[command(flatten)]
    pub output: Output,
}
