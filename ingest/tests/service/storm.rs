//! Clients that open requests and never complete them. They send raw HTTP/2 frames, because no client library does that.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::LocalSet,
    time::{Instant, sleep, timeout_at},
};

use crate::harness::PATH;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Interval at which a connection opens further requests. A shorter one would only measure the speed of unoptimized builds
/// of the storm and its target.
const ROUND: Duration = Duration::from_millis(500);

/// Time over which the connections are opened. Opening all at once would only measure how long unoptimized builds take for
/// ten thousand requests.
const RAMP: Duration = Duration::from_secs(3);

/// Connections that repeatedly open requests.
pub(crate) struct Storm {
    opened: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Storm {
    /// Opens `connections` with up to `streams` concurrent requests each, from one address of the loopback network.
    ///
    /// It runs in a separate thread, so that its work does not compete with its target's tasks for a runtime.
    pub(crate) fn start(target: SocketAddr, from: Ipv4Addr, connections: u32, streams: usize) -> Self {
        let (opened, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&opened), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let connection = |number: u32| {
                let (opened, stop) = (Arc::clone(&counter), Arc::clone(&ended));
                async move {
                    sleep(RAMP * number / connections).await;
                    while !stop.load(Ordering::Relaxed) {
                        // A closed connection is reopened.
                        let _ = open_requests(target, from, streams, &opened, &stop).await;
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            };
            let local = LocalSet::new();
            (0..connections).for_each(|number| drop(local.spawn_local(connection(number))));
            runtime.block_on(local);
        });
        Self { opened, stop, thread }
    }

    /// How many requests were opened.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request with a body: HPACK's indexed fields where available, else literals.
fn head() -> Vec<u8> {
    let literal = |index: u8, value: &str| [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    [vec![0x83, 0x86], literal(0x04, PATH), literal(0x01, "riverlock"), [vec![0x0f], literal(0x0d, "1000")].concat()]
        .concat()
}

async fn open_requests(
    target: SocketAddr,
    from: Ipv4Addr,
    streams: usize,
    opened: &AtomicUsize,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(target).await?;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
    let (mut next, mut open) = (1, 0);
    let (head, mut received) = (head(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let mut frames = Vec::new();
        while open < streams {
            frames.extend(frame(HEADERS, END_HEADERS, next, &head));
            next += 2;
            open += 1;
            opened.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(&frames).await?;
        let next_round = Instant::now() + ROUND;
        // Reading into a buffer is cancel-safe.
        while let Ok(read) = timeout_at(next_round, stream.read_buf(&mut received)).await {
            if read? == 0 {
                return Ok(());
            }
            while let Some((kind, flags, payload)) = take_frame(&mut received) {
                match kind {
                    // The head of an answer or a reset: the request is over in both cases. Resets after answers are counted
                    // as well; they only make this connection open a few more.
                    HEADERS | RESET => open -= usize::from(open > 0),
                    PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).await?,
                    SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Takes a whole frame from what was received: its kind, its flags and its payload.
fn take_frame(received: &mut Vec<u8>) -> Option<(u8, u8, Vec<u8>)> {
    let (&[a, b, c, kind, flags, ..], _) = received.split_first_chunk::<9>()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    if received.len() < 9 + length {
        return None;
    }
    let payload = received[9..9 + length].to_vec();
    received.drain(..9 + length);
    Some((kind, flags, payload))
}
