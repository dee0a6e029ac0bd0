//! A local stack: PostgreSQL, a broker and the three services, each a process of its own on loopback.

mod ports;
mod service;
mod settings;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use riverlock_ledger::postgres::cluster;
use riverlock_runtime::kafka::topics;
use riverlock_sandbox::stack::{EmbeddedBroker, Kafka, Postgres};

use self::settings::SettingsFile;
pub use self::{ports::Ports, service::ServiceProcess};
use super::args::BrokerKind;
use crate::{
    config::Config,
    run::{
        services::Service,
        setup::{self, args::SetupOptions},
    },
};

/// How long a service may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running stack. It ends with this process, even if this process is killed.
pub struct Local {
    /// The configuration of the services.
    pub config: Config,
    /// The file of the configuration.
    pub config_file: PathBuf,
    /// The services, in the order of `Service::ALL`.
    pub services: Vec<ServiceProcess>,
    /// The database server.
    pub postgres: Postgres,
    broker: Broker,
}

enum Broker {
    Kafka(Kafka),
    /// Owned only to keep it running.
    Embedded {
        _cluster: EmbeddedBroker,
    },
}

impl Local {
    /// Starts everything in `home`, with the configuration for `ports`; `binary` is the file of this program.
    ///
    /// # Errors
    /// When a part does not start; the others are ended.
    pub async fn start(
        binary: &Path,
        home: &Path,
        ports: &Ports,
        broker: BrokerKind,
        print: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        print("starting PostgreSQL");
        let postgres = Postgres::start(&home.join("postgres"), ports.postgres).await?;
        let (broker, bootstrap) = match broker {
            BrokerKind::Kafka => {
                print("starting Apache Kafka");
                let kafka = Kafka::start(&home.join("kafka"), &[ports.kafka]).await?;
                let bootstrap = kafka.bootstrap();
                (Broker::Kafka(kafka), bootstrap)
            }
            BrokerKind::Embedded => {
                print("starting the embedded broker, which keeps nothing");
                let defaults = Config::default().kafka;
                let topics = topics::names(&defaults).into_iter().map(|name| (name, defaults.partitions));
                let cluster = EmbeddedBroker::start(topics)?;
                let bootstrap = cluster.bootstrap();
                (Broker::Embedded { _cluster: cluster }, bootstrap)
            }
        };
        let config_file = home.join("riverlock.toml");
        if settings::write(&config_file, &ports.config(home, &postgres.url(), &bootstrap))? == SettingsFile::Kept {
            print(&format!("{} was edited and is used unchanged; delete it to create it anew", config_file.display()));
        }
        let mut config = Config::load_with_kafka(Some(&config_file))?;

        print("creating topics and tables");
        // The embedded broker is a new cluster each time.
        let new_cluster = match &broker {
            Broker::Kafka(_) => None,
            Broker::Embedded { .. } => Some(cluster::connected(&config.kafka).await?),
        };
        let options = SetupOptions { new_cluster, ..SetupOptions::default() };
        setup::setup(&config, &options, &|_| {}).await?;
        // A stack of an earlier version may have been started in this folder.
        topics::find_former(&mut config.kafka).await?;
        print("starting ingest, processor and invoice-fetcher");
        let mut services = Vec::new();
        for (service, admin) in Service::ALL.into_iter().zip(ports.admin) {
            services.push(ServiceProcess::start(service, binary, &config_file, admin, home)?);
        }
        for service in &services {
            service.until_ready(READY_WITHIN).await?;
        }
        Ok(Self { config, config_file, services, postgres, broker })
    }

    /// The broker, unless it is the embedded one.
    pub fn kafka(&mut self) -> Option<&mut Kafka> {
        match &mut self.broker {
            Broker::Kafka(kafka) => Some(kafka),
            Broker::Embedded { .. } => None,
        }
    }

    /// Restarts processes that have ended, and returns their names.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub async fn restart_ended(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let mut restarted = Vec::new();
        if !self.postgres.process().is_running() {
            self.postgres.restart().await?;
            restarted.push("PostgreSQL");
        }
        if let Broker::Kafka(kafka) = &mut self.broker
            && !kafka.node(1).is_some_and(riverlock_sandbox::stack::Process::is_running)
        {
            kafka.start_node(1).await?;
            restarted.push("Apache Kafka");
        }
        for service in &mut self.services {
            if service.restart_if_ended()? {
                restarted.push(service.service.name());
            }
        }
        Ok(restarted)
    }

    /// The processes with their ids.
    #[must_use]
    pub fn processes(&self) -> Vec<(&'static str, i32)> {
        let mut processes = vec![("PostgreSQL", self.postgres.process().pid())];
        if let Broker::Kafka(kafka) = &self.broker {
            processes.extend(kafka.node(1).map(|node| ("Apache Kafka", node.pid())));
        }
        processes.extend(self.services.iter().map(|service| (service.service.name(), service.pid())));
        processes
    }

    /// Ends everything in order: services first, then the servers that they use.
    ///
    /// # Errors
    /// When a process does not end on SIGKILL.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for service in &self.services {
            service.stop().await?;
        }
        if let Broker::Kafka(kafka) = &mut self.broker {
            kafka.stop().await?;
        }
        self.postgres.stop().await
    }
}
