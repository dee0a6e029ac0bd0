//! `riverlock setup` on the command line.

use clap::Args;

use crate::{options::moment::Moment, terminal::out::Output};

/// How topics and tables are set up.
#[derive(Clone, Debug, Default, Args)]
pub struct SetupOptions {
    /// Change the settings of topics that differ from the configuration; without this they are only shown
    #[arg(long)]
    pub apply_topic_settings: bool,
    /// Kafka was replaced: from now on, the database belongs to the cluster with this id, which kafka.brokers leads to
    #[arg(long, value_name = "CLUSTER_ID")]
    pub new_cluster: Option<String>,
    /// Publish messages that were written since to the new cluster again: a time, or how long ago, such as 36h
    #[arg(long, value_name = "TIME", requires = "new_cluster")]
    pub republish_since: Option<Moment>,
    /// How to print the result; with JSON, progress goes to standard error
    #[command(flatten)]
    pub output: Output,
}
