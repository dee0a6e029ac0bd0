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

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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

    fn bytes_came(&self) {
        if self.at.load(Ordering::Relaxed) == NONE {
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
}

/// A connection whose reads are looked at.
pub(crate) struct Observed<S> {
    stream: S,
    first_byte: FirstByte,
}

impl<S> Observed<S> {
    pub(crate) fn new(stream: S, first_byte: FirstByte) -> Self {
        Self { stream, first_byte }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.first_byte.bytes_came();
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
        first_byte.bytes_came();
        let after = Instant::now();
        pause();
        first_byte.bytes_came();
        let begun = first_byte.begin();
        assert!(before <= begun && begun <= after, "bytes of the same head do not move it");

        // The body, and an interim answer to a sender that waits for leave.
        first_byte.bytes_came();
        first_byte.bytes_went();
        first_byte.end();
        // What was still read of the last body, before its answer went.
        first_byte.bytes_came();
        first_byte.bytes_went();
        pause();
        let before = Instant::now();
        first_byte.bytes_came();
        pause();
        assert!((before..Instant::now()).contains(&first_byte.begin()));
    }

    #[test]
    fn a_request_that_was_read_with_the_one_before_it_begins_with_its_turn() {
        let first_byte = FirstByte::new(Instant::now());
        first_byte.bytes_came();
        first_byte.begin();
        first_byte.end();
        pause();
        let before = Instant::now();
        assert!(first_byte.begin() >= before);
    }
}
