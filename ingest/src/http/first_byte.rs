//! When a request's first byte came: hyper tells only when its head is complete.
//!
//! For HTTP/1, where one request follows the other: the first byte that is read after the last answer. A request that was
//! sent before the last answer (pipelined) counts from its head's end. HTTP/2 mixes requests on a connection, so there each
//! counts from its head as well, which is one frame as a rule.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::http::connection::Connection;

/// No byte of the next request has come.
const NONE: u64 = 0;
/// A request is being served: bytes belong to its body.
const SERVING: u64 = u64::MAX;

/// When the first byte of a connection's next request came.
#[derive(Clone)]
pub(crate) struct FirstByte {
    /// The connection's beginning.
    base: Instant,
    /// In nanoseconds since then, or one of the above.
    at: Arc<AtomicU64>,
}

impl FirstByte {
    pub(crate) fn new(now: Instant) -> Self {
        Self { base: now, at: Arc::new(AtomicU64::new(NONE)) }
    }

    fn bytes_came(&self, bytes: &[u8]) {
        // Some senders end a body with a line feed that is not part of it. It belongs to no request.
        if self.at.load(Ordering::Relaxed) == NONE && bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            let nanos = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(SERVING - 1);
            self.at.store(nanos.max(1), Ordering::Relaxed);
        }
    }

    /// An answer is written: what was read before it is no part of the next request.
    fn bytes_went(&self) {
        if self.at.load(Ordering::Relaxed) != SERVING {
            self.at.store(NONE, Ordering::Relaxed);
        }
    }

    /// The request's head is complete. Says when its first byte came.
    pub(crate) fn begin(&self) -> Instant {
        match self.at.swap(SERVING, Ordering::Relaxed) {
            NONE | SERVING => Instant::now(),
            nanos => self.base + Duration::from_nanos(nanos),
        }
    }

    /// The request has its answer.
    pub(crate) fn end(&self) {
        self.at.store(NONE, Ordering::Relaxed);
    }

    /// When the first byte of a request came whose head is not complete; `None` if there is no such request.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        match self.at.load(Ordering::Relaxed) {
            NONE | SERVING => None,
            nanos => Some(self.base + Duration::from_nanos(nanos)),
        }
    }
}

/// A connection whose reads are looked at, and held back where too many requests without proof came over it.
pub(crate) struct Observed<S> {
    stream: S,
    first_byte: FirstByte,
    connection: Arc<Connection>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Observed<S> {
    pub(crate) fn new(stream: S, first_byte: FirstByte, connection: Arc<Connection>) -> Self {
        Self { stream, first_byte, connection, pause: None }
    }

    /// Waits until the connection may be read from.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(until) = self.connection.pause_until() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(Duration::ZERO)));
            pause.as_mut().reset(until.into());
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        self.pause = None;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_pause(context).is_pending() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.first_byte.bytes_came(&buffer.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.first_byte.bytes_went();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.first_byte.bytes_went();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the clock move, so that two times differ.
    fn pause() {
        std::thread::sleep(Duration::from_millis(2));
    }

    #[test]
    fn a_request_begins_with_the_first_byte_after_the_last_answer() {
        let first_byte = FirstByte::new(Instant::now());
        pause();
        let before = Instant::now();
        first_byte.bytes_came(b"x");
        let after = Instant::now();
        pause();
        first_byte.bytes_came(b"x");
        let begun = first_byte.begin();
        assert!(before <= begun && begun <= after, "bytes of the same head do not move it");

        // The body, and an interim answer to a sender that waits for leave.
        first_byte.bytes_came(b"x");
        first_byte.bytes_went();
        first_byte.end();
        // What was still read of the last body, before its answer went.
        first_byte.bytes_came(b"x");
        first_byte.bytes_went();
        pause();
        let before = Instant::now();
        first_byte.bytes_came(b"x");
        pause();
        assert!((before..Instant::now()).contains(&first_byte.begin()));
    }

    #[test]
    fn line_feeds_between_requests_begin_none() {
        let first_byte = FirstByte::new(Instant::now());
        first_byte.bytes_came(b"\r\n\n");
        assert_eq!(first_byte.head_since(), None);
        pause();
        let before = Instant::now();
        first_byte.bytes_came(b"\nPOST");
        assert!(first_byte.head_since().is_some_and(|since| since >= before));
        assert!(first_byte.begin() >= before);
        assert_eq!(first_byte.head_since(), None, "its head is complete");
    }

    #[test]
    fn a_request_that_was_read_with_the_one_before_it_begins_with_its_turn() {
        let first_byte = FirstByte::new(Instant::now());
        first_byte.bytes_came(b"x");
        first_byte.begin();
        first_byte.end();
        pause();
        let before = Instant::now();
        assert!(first_byte.begin() >= before);
    }
}
