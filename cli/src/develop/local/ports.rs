//! The addresses of a local stack, and the configuration that follows from them.

use std::path::Path;

use riverlock_sandbox::stack::ports;

/// The confidential key that the sandbox requires.
pub(super) const API_KEY: &str = "sandbox-confidential-key";
/// The secret of the sandbox's signatures.
pub(super) const SIGNING_SECRET: &str = "sandbox-signing-secret";
/// Requests per second of the sandbox and the invoice-fetcher: Digital River's limit in live mode.
const API_REQUESTS_PER_SECOND: u32 = 250;

/// Loopback ports.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// PostgreSQL.
    pub postgres: u16,
    /// Apache Kafka; its controller has this plus 1000.
    pub kafka: u16,
    /// Webhooks.
    pub ingest: u16,
    /// The sandbox.
    pub sandbox: u16,
    /// The admin ports of the services, in the order of `Service::ALL`.
    pub admin: [u16; 3],
}

impl Ports {
    /// The ports of `make up`, always the same.
    pub const FIXED: Self =
        Self { postgres: 15432, kafka: 19092, ingest: 8080, sandbox: 8087, admin: [9464, 9465, 9466] };

    /// Unused ports.
    ///
    /// # Errors
    /// When too few are left.
    pub fn free() -> anyhow::Result<Self> {
        let free: [u16; 7] = ports::free_ports(7)?
            .try_into()
            .map_err(|found: Vec<u16>| anyhow::anyhow!("asked for 7 ports and got {}", found.len()))?;
        let [postgres, kafka, ingest, sandbox, admin @ ..] = free;
        Ok(Self { postgres, kafka, ingest, sandbox, admin })
    }

    /// Checks that no other process uses one of the ports.
    ///
    /// # Errors
    /// Names the used port and its purpose.
    pub fn ensure_free(&self) -> anyhow::Result<()> {
        ports::ensure_free(self.postgres, "PostgreSQL")?;
        ports::ensure_free(self.kafka, "Apache Kafka")?;
        ports::ensure_free(self.ingest, "ingest")?;
        ports::ensure_free(self.sandbox, "the sandbox")?;
        self.admin.iter().try_for_each(|port| ports::ensure_free(*port, "a service's metrics"))
    }

    /// The configuration file of the stack in `home`.
    #[must_use]
    pub fn config(&self, home: &Path, postgres_url: &str, brokers: &str) -> String {
        let Self { ingest, sandbox, admin: [admin, ..], .. } = self;
        let store = home.join("invoices").display().to_string();
        format!(
            r#"[kafka]
brokers = "{brokers}"
# Short, so that a killed service is replaced soon.
session_timeout = "6s"

[postgres]
url = "{postgres_url}"

[admin]
listen = "127.0.0.1:{admin}"

[ingest]
listen = "127.0.0.1:{ingest}"

[ingest.limits]
# There is no load balancer that has to notice the end.
shutdown_delay = "0s"

[[ingest.endpoints]]
name = "sandbox"
path = "/webhooks/digital-river"
secrets = [{{ id = "sandbox", secret = "{SIGNING_SECRET}" }}]

[invoice_fetcher]
api_base_url = "http://127.0.0.1:{sandbox}"
store = "file://{store}"

[invoice_fetcher.test]
api_key = "{API_KEY}"
requests_per_second = {API_REQUESTS_PER_SECOND}

[invoice_fetcher.live]
api_key = "{API_KEY}"
requests_per_second = {API_REQUESTS_PER_SECOND}

[sandbox]
listen = "127.0.0.1:{sandbox}"
api_key = "{API_KEY}"
rate_limit_per_second = {API_REQUESTS_PER_SECOND}

[sandbox.target]
address = "http://127.0.0.1:{ingest}/webhooks/digital-river"
secrets = ["{SIGNING_SECRET}"]
"#
        )
    }
}
