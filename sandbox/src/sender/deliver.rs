//! The sender: delivers one event to one address, with retries until it is acknowledged.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{Client, Response, header, redirect};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::TargetConfig,
    data::seed,
    sender::{
        progress::{Progress, add},
        sign::{SIGNATURE_HEADER, header_in_style},
    },
};

/// How much of an answer's body is read, so that the connection can be used again; the rest closes it.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Unused connections that are kept open.
const IDLE_CONNECTIONS_MAX: usize = 1_024;

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered 2xx.
    Acknowledged {
        /// Its status.
        status: u16,
        /// Time from sending the last attempt to the head of its answer.
        latency: Duration,
        /// Requests that it took.
        attempts: u32,
    },
    /// No attempt was acknowledged.
    GivenUp {
        /// The failure of the last attempt.
        last: Failure,
        /// Requests made.
        attempts: u32,
    },
}

impl Outcome {
    /// Whether the receiver acknowledged the event.
    pub const fn is_acknowledged(self) -> bool {
        matches!(self, Self::Acknowledged { .. })
    }
}

/// Why an attempt does not count as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An answer outside 2xx, redirects included.
    Refused {
        /// Its status.
        status: u16,
    },
    /// No answer in time.
    Timeout,
    /// No connection, or a broken one.
    Unreachable,
    /// Shutdown began before the first attempt.
    Interrupted,
}

/// Delivers events to one endpoint. Shared by all deliveries, so that they share connections.
#[derive(Debug)]
pub struct Deliverer {
    client: Client,
    target: TargetConfig,
    seed: u64,
    clock: Clock,
    progress: Arc<Progress>,
}

impl Deliverer {
    /// A sender to `target`. `seed` decides the jitter between attempts, `clock` the signatures' timestamps.
    ///
    /// # Errors
    /// If the target is invalid, or no HTTP client can be created.
    pub fn new(target: TargetConfig, seed: u64, clock: Clock, progress: Arc<Progress>) -> anyhow::Result<Self> {
        target.validate()?;
        let builder = Client::builder()
            .user_agent(concat!("riverlock-sandbox/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(target.timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .tcp_nodelay(true)
            .no_proxy()
            .http1_only();
        // A machine without any root certificates can still send over plain http.
        let builder = if target.address.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().context("cannot make an HTTP client")?;
        Ok(Self { client, target, seed, clock, progress })
    }

    /// Delivers one event. Every attempt is signed with its own time; between attempts it waits, exponentially longer and
    /// with jitter. When `shutdown` is cancelled, the attempt in flight still ends, and none follows. Counts requests,
    /// answers, and failed deliveries.
    ///
    /// Source: Digital River, "Webhooks": any 2xx acknowledges, everything else is retried with exponential backoff,
    /// each retry with a new signature.
    pub async fn deliver(&self, event_id: &str, body: &Bytes, shutdown: &CancellationToken) -> Outcome {
        let mut jitter = seed::rng(self.seed, seed::of_text(event_id));
        let mut last = Failure::Interrupted;
        let mut attempts = 0;
        while attempts < self.target.attempts_max.get() && !shutdown.is_cancelled() {
            attempts += 1;
            match self.attempt(body).await {
                Ok((status, latency)) => return Outcome::Acknowledged { status, latency, attempts },
                Err(failure) => last = failure,
            }
            tracing::debug!(event.id = event_id, attempts, ?last, "delivery not acknowledged");
            if attempts < self.target.attempts_max.get() {
                let wait = self.backoff(attempts, &mut jitter);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
        add(&self.progress.given_up, 1);
        tracing::warn!(event.id = event_id, attempts, ?last, "delivery failed after its last attempt");
        Outcome::GivenUp { last, attempts }
    }

    /// Half of the exponential wait, and a random part of the other half.
    fn backoff(&self, attempts: u32, jitter: &mut fastrand::Rng) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let full = self.target.backoff_base.saturating_mul(1 << doublings).min(self.target.backoff_cap);
        full.mul_f64(jitter.f64().mul_add(0.5, 0.5))
    }

    async fn attempt(&self, body: &Bytes) -> Result<(u16, Duration), Failure> {
        let mut request = self
            .client
            .post(self.target.address.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.clone());
        if !self.target.secrets.is_empty() {
            let secrets: Vec<&str> = self.target.secrets.iter().map(ExposeSecret::expose_secret).collect();
            let now = self.clock.now().timestamp();
            let signature = header_in_style(self.target.signature_style, &secrets, now, body);
            request = request.header(SIGNATURE_HEADER, signature);
        }
        if let Some(basic) = &self.target.authentication {
            request = request.basic_auth(&basic.username, Some(basic.password.expose_secret()));
        }

        self.progress.count_request();
        let sent = Instant::now();
        match request.send().await {
            Ok(response) => {
                let latency = sent.elapsed();
                let status = response.status();
                drain(response).await;
                if status.is_success() {
                    self.progress.count_acknowledged(latency);
                    Ok((status.as_u16(), latency))
                } else {
                    self.progress.count_refused(status.as_u16());
                    Err(Failure::Refused { status: status.as_u16() })
                }
            }
            Err(error) if error.is_timeout() => {
                self.progress.count_timeout();
                Err(Failure::Timeout)
            }
            Err(error) => {
                tracing::debug!(%error, "request failed");
                self.progress.count_unreachable();
                Err(Failure::Unreachable)
            }
        }
    }
}

/// Reads and ignores an answer's body up to the limit, so that the connection can be used again.
async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
