//! A whole Riverlock on this machine: PostgreSQL, a broker and the three services, each a process of its own on loopback.

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

use self::settings::Written;
pub use self::{ports::Ports, service::Running};
use crate::{
    config::Config,
    develop::args::BrokerKind,
    run::{
        services::Service,
        setup::{self, args::SetupOptions},
    },
};

/// How long a service may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What runs. Ends with this process, however it ends.
pub struct Local {
    /// The configuration that the services have.
    pub config: Config,
    /// The file that it is in.
    pub config_file: PathBuf,
    /// The services, in the order of `Service::ALL`.
    pub services: Vec<Running>,
    /// The database server.
    pub postgres: Postgres,
    broker: Broker,
}

enum Broker {
    Kafka(Kafka),
    /// Held for its life only.
    Embedded {
        _cluster: EmbeddedBroker,
    },
}

impl Local {
    /// Starts everything in `home`, with the configuration that goes with `ports`; `binary` is this program's file.
    ///
    /// # Errors
    /// When one of the parts does not start; those that did end again.
    pub async fn start(
        binary: &Path,
        home: &Path,
        ports: &Ports,
        broker: BrokerKind,
        tell: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        tell("starting PostgreSQL");
        let postgres = Postgres::start(&home.join("postgres"), ports.postgres).await?;
        let (broker, bootstrap) = match broker {
            BrokerKind::Kafka => {
                tell("starting Apache Kafka");
                let kafka = Kafka::start(&home.join("kafka"), &[ports.kafka]).await?;
                let bootstrap = kafka.bootstrap();
                (Broker::Kafka(kafka), bootstrap)
            }
            BrokerKind::Embedded => {
                tell("starting the embedded broker: in memory, it keeps nothing");
                let defaults = Config::default().kafka;
                let topics = topics::names(&defaults).into_iter().map(|name| (name, defaults.partitions));
                let cluster = EmbeddedBroker::start(topics)?;
                let bootstrap = cluster.bootstrap();
                (Broker::Embedded { _cluster: cluster }, bootstrap)
            }
        };
        let config_file = home.join("riverlock.toml");
        if settings::write(&config_file, &ports.config(home, &postgres.url(), &bootstrap))? == Written::Kept {
            tell(&format!("{} was edited and is used as it is; delete it to have it made anew", config_file.display()));
        }
        let config = Config::load_with_kafka(Some(&config_file))?;

        tell("creating topics and tables");
        // The embedded broker is another cluster each time.
        let new_cluster = match &broker {
            Broker::Kafka(_) => None,
            Broker::Embedded { .. } => Some(cluster::connected(&config.kafka).await?),
        };
        let options = SetupOptions { new_cluster, ..SetupOptions::default() };
        setup::setup(&config, &options, &|_| {}).await?;
        tell("starting ingest, processor and invoice-fetcher");
        let mut services = Vec::new();
        for (service, admin) in Service::ALL.into_iter().zip(ports.admin) {
            services.push(Running::start(service, binary, &config_file, admin, home)?);
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

    /// Starts again whatever has ended, and says what that was.
    ///
    /// # Errors
    /// When something cannot be started again.
    pub async fn mend(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let mut mended = Vec::new();
        if !self.postgres.process().is_running() {
            self.postgres.restart().await?;
            mended.push("PostgreSQL");
        }
        if let Broker::Kafka(kafka) = &mut self.broker
            && !kafka.node(1).is_some_and(riverlock_sandbox::stack::Process::is_running)
        {
            kafka.start_node(1).await?;
            mended.push("Apache Kafka");
        }
        for service in &mut self.services {
            if service.restart_if_ended()? {
                mended.push(service.service.name());
            }
        }
        Ok(mended)
    }

    /// The processes with their ids, for people who want to look or to break something.
    #[must_use]
    pub fn processes(&self) -> Vec<(&'static str, i32)> {
        let mut processes = vec![("PostgreSQL", self.postgres.process().pid())];
        if let Broker::Kafka(kafka) = &self.broker {
            processes.extend(kafka.node(1).map(|node| ("Apache Kafka", node.pid())));
        }
        processes.extend(self.services.iter().map(|service| (service.service.name(), service.pid())));
        processes
    }

    /// Ends everything in order: services first, then what they stand on.
    ///
    /// # Errors
    /// When a process does not even end by SIGKILL.
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
