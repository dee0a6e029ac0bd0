#![doc = include_str!("../README.md")]

pub mod api;
pub mod domain;
pub mod history;
mod projection;
pub mod refold;
mod republish;
pub mod store;
mod watch;

use riverlock_ledger::{PostgresConfig, consumer, consumer::BatchConfig, relay};
use riverlock_runtime::{ConfigError, Context, kafka::KafkaConfig, with_causes};
use riverlock_schemas::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use api::ApiConfig;
pub use projection::{CONSUMER, Orders};
pub use republish::republish;

/// Largest value of `processor.cached_orders`.
const CACHED_ORDERS_MAX: usize = 1_000_000;

/// Configuration of the processor: `[processor]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessorConfig {
    /// Modes that are processed. Events of another mode are recorded as ignored.
    pub modes: Vec<Mode>,
    /// How records are grouped into transactions.
    pub batch: BatchConfig,
    /// Orders that are kept in memory because they changed last, so that they need not be read again for their next event.
    /// 0 keeps none. An order takes a few kilobytes.
    pub cached_orders: usize,
    /// The order API. Off unless a token is configured.
    pub api: Option<ApiConfig>,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self { modes: vec![Mode::Test, Mode::Live], batch: BatchConfig::default(), cached_orders: 20_000, api: None }
    }
}

impl ProcessorConfig {
    /// Checks ranges and combinations of settings.
    ///
    /// # Errors
    /// When `modes` is empty, a limit is out of range or the API's token is too weak.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.modes.is_empty() {
            return Err(ConfigError::refused("processor.modes", "is empty; expected \"live\", \"test\" or both"));
        }
        if self.cached_orders > CACHED_ORDERS_MAX {
            let reason = format!("is {}; at most {CACHED_ORDERS_MAX} orders are kept in memory", self.cached_orders);
            return Err(ConfigError::refused("processor.cached_orders", reason));
        }
        self.api.as_ref().map_or(Ok(()), |api| api.validate("processor.api"))?;
        self.batch.validate("processor.batch")
    }
}

/// Starts the consumer and the outbox relay, which run until shutdown.
pub fn start(config: ProcessorConfig, kafka: &KafkaConfig, postgres: &PostgresConfig, context: &Context) {
    let (kafka, postgres) = (kafka.clone(), postgres.clone());
    context.shutdown.spawn("relay", relay::run(kafka.clone(), postgres.clone(), context.clone()));
    context.shutdown.spawn("orders-watch", watch::run(postgres.clone(), context.clone()));
    let task = {
        let context = context.clone();
        async move {
            let topics = kafka.topics().orders();
            let orders = Orders::with_cache(config.modes, config.cached_orders);
            consumer::run(orders, topics, config.batch, &kafka, &postgres, &context)
                .await
                .map_err(|error| with_causes(&error))
        }
    };
    context.shutdown.spawn(CONSUMER, task);
}
