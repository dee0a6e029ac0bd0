//! An open-loop load generator: the times of requests are fixed in advance, so a receiver that slows down gets as many as
//! before, and their waiting time is part of the latency. [`saturate`] is a closed loop instead: every connection sends its next
//! request after the answer.
//!
//! HTTP/1.1 over persistent connections; every body is signed with the second in which it is sent. Timers have milliseconds:
//! requests of the same millisecond are sent together, up to a millisecond late.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use riverlock_sandbox::sender::{histogram::Histogram, sign};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// How long Digital River waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(3_000);
/// How long after the last due time late requests are still sent.
const LATE_MAX: Duration = Duration::from_secs(3);
/// Buffer for an answer: its head and a short body.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// The receiver, and the content of requests.
#[derive(Clone)]
pub struct Target {
    /// The receiver.
    pub address: SocketAddr,
    /// The path of its endpoint.
    pub path: String,
    /// The signing secret.
    pub secret: String,
    /// The bodies, sent in turn.
    pub bodies: Arc<[bytes::Bytes]>,
    /// Most concurrent requests; further ones are sent late, which their latencies include.
    pub connections: usize,
}

/// The results of the requests.
#[derive(Default)]
pub struct Outcome {
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Requests whose connection broke or could not be opened.
    pub broken: u64,
    /// Requests that were too late to be sent.
    pub unsent: u64,
    /// Latency from the due time to the complete answer.
    pub latency: Histogram,
    /// Latency from sending to the complete answer.
    pub answer: Histogram,
    /// Time from the first due time to the last answer.
    pub took: Duration,
    /// Times of the first and the last 202.
    pub accepted: Option<(Instant, Instant)>,
}

impl Outcome {
    /// Requests answered 202.
    #[must_use]
    pub fn accepted_count(&self) -> u64 {
        self.answers.get(&202).copied().unwrap_or_default()
    }

    /// Requests that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.timeouts + self.broken
    }

    /// Requests answered 202, per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    pub fn accepted_per_second(&self) -> f64 {
        self.accepted_count() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// State shared by the senders.
struct Plan {
    target: Target,
    start: Instant,
    pace: Pace,
    next: AtomicU64,
    outcome: Mutex<Outcome>,
}

/// When requests are due.
enum Pace {
    /// This many per second, and in all.
    Open { rate: u64, count: u64 },
    /// Each after the previous answer on its connection, until then.
    Closed { end: Instant },
}

impl Plan {
    /// When the request with this number is due; `None` if there are no more.
    fn due(&self, index: u64) -> Option<Instant> {
        match self.pace {
            Pace::Open { rate, count } => {
                (index < count).then(|| self.start + Duration::from_nanos(index.saturating_mul(1_000_000_000) / rate))
            }
            Pace::Closed { end } => Some(Instant::now().max(self.start)).filter(|now| *now < end),
        }
    }
}

/// Sends `rate` requests per second for `duration`, and waits for their answers.
pub async fn run(target: &Target, rate: u64, duration: Duration) -> Outcome {
    let count = rate * u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) / 1_000;
    send_all(target, |_| Pace::Open { rate, count }).await
}

/// Sends one request after the other on every connection for `duration`, and waits for the last answers.
pub async fn saturate(target: &Target, duration: Duration) -> Outcome {
    send_all(target, |start| Pace::Closed { end: start + duration }).await
}

async fn send_all(target: &Target, pace: impl FnOnce(Instant) -> Pace) -> Outcome {
    let start = Instant::now() + Duration::from_millis(5);
    let plan = Arc::new(Plan {
        target: target.clone(),
        start,
        pace: pace(start),
        next: AtomicU64::new(0),
        outcome: Mutex::default(),
    });
    let mut senders = JoinSet::new();
    for _ in 0..target.connections {
        senders.spawn(send(Arc::clone(&plan)));
    }
    while senders.join_next().await.is_some() {}
    let plan = Arc::into_inner(plan).expect("every sender has ended");
    let mut outcome = plan.outcome.into_inner().expect("no sender panics while it holds the outcome");
    outcome.took = plan.start.elapsed();
    outcome
}

async fn send(plan: Arc<Plan>) {
    let mut connection = None;
    loop {
        let index = plan.next.fetch_add(1, Ordering::Relaxed);
        let Some(due) = plan.due(index) else { return };
        sleep_until(due).await;
        let sent = Instant::now();
        if sent.duration_since(due) > LATE_MAX {
            plan.outcome.lock().expect("no sender panics while it holds the outcome").unsent += 1;
            continue;
        }
        let request = plan.target.request(index);
        let answered = timeout(ANSWER_TIMEOUT, exchange(&mut connection, plan.target.address, &request)).await;
        let now = Instant::now();
        let mut outcome = plan.outcome.lock().expect("no sender panics while it holds the outcome");
        match answered {
            Ok(Ok(status)) => {
                *outcome.answers.entry(status).or_default() += 1;
                outcome.latency.record(now - due);
                outcome.answer.record(now - sent);
                if status == 202 {
                    outcome.accepted = Some((outcome.accepted.map_or(now, |(first, _)| first), now));
                }
            }
            Ok(Err(_)) => outcome.broken += 1,
            Err(_) => {
                outcome.timeouts += 1;
                connection = None;
            }
        }
    }
}

impl Target {
    /// Builds a request, signed now.
    fn request(&self, index: u64) -> Vec<u8> {
        let at = usize::try_from(index).unwrap_or_default() % self.bodies.len();
        let body = &self.bodies[at];
        let signature = sign::header(&[&self.secret], crate::now().timestamp(), body);
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: riverlock\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}: {signature}\r\n\r\n",
            self.path,
            body.len(),
            sign::SIGNATURE_HEADER,
        );
        let mut request = Vec::with_capacity(head.len() + body.len());
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(body);
        request
    }

    /// Sends a signed body on a new connection, with these header lines (each ends in `\\r\\n`) instead of a
    /// `Content-Type`. Returns the status of the answer.
    ///
    /// # Errors
    /// If there is no connection, or no answer in time.
    pub async fn post(&self, headers: &str, body: &[u8]) -> anyhow::Result<u16> {
        let signature = sign::header(&[&self.secret], crate::now().timestamp(), body);
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: riverlock\r\nContent-Length: {}\r\n{headers}{}: {signature}\r\n\r\n",
            self.path,
            body.len(),
            sign::SIGNATURE_HEADER,
        );
        let request = [head.as_bytes(), body].concat();
        timeout(ANSWER_TIMEOUT, exchange(&mut None, self.address, &request)).await.context("no answer in time")?
    }

    /// Sends one request on a new connection; returns the status of the answer.
    ///
    /// # Errors
    /// If there is no connection, or no answer in time.
    pub async fn once(&self) -> anyhow::Result<u16> {
        let request = self.request(0);
        timeout(ANSWER_TIMEOUT, exchange(&mut None, self.address, &request)).await.context("no answer in time")?
    }
}

/// Sends a request and reads its answer. The connection stays open if both succeed and the receiver does not close it.
async fn exchange(kept: &mut Option<TcpStream>, address: SocketAddr, request: &[u8]) -> anyhow::Result<u16> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(request).await?;
    let (status, stays_open) = read_answer(&mut stream).await?;
    if stays_open {
        *kept = Some(stream);
    }
    Ok(status)
}

/// Reads an answer to its end: its status, and whether another request may follow.
async fn read_answer(stream: &mut TcpStream) -> anyhow::Result<(u16, bool)> {
    let mut bytes = [0; ANSWER_BYTES_MAX];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut bytes[filled..]).await?;
        anyhow::ensure!(read > 0, "the connection ended, or the answer is longer than {ANSWER_BYTES_MAX} bytes");
        filled += read;
        let Some(end) = bytes[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end])?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
        let (mut length, mut stays_open) = (0, true);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("connection") {
                stays_open = !value.trim().eq_ignore_ascii_case("close");
            }
        }
        if filled >= end + 4 + length {
            return Ok((status, stays_open));
        }
    }
}
