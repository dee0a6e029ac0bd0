//! The time at which a request's first byte was received; hyper only reports a complete head.
//!
//! Over HTTP/1, requests are sequential: the time is that of the first byte that is read after the last answer. A request
//! that was sent before the last answer (pipelined) counts from the end of its head. HTTP/2 interleaves requests on a
//! connection, so there each counts from the end of its head as well, which is usually one frame.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// No byte of the next request was received.
const NONE: u64 = 0;
/// A request is being served: received bytes belong to its body.
const SERVING: u64 = u64::MAX;

/// When the first byte of a connection's next request was received.
#[derive(Clone)]
pub(crate) struct FirstByte {
    /// When the connection was accepted.
    base: Instant,
    /// In nanoseconds since `base`, or one of the constants above.
    at: Arc<AtomicU64>,
}

impl FirstByte {
    pub(crate) fn new(now: Instant) -> Self {
        Self { base: now, at: Arc::new(AtomicU64::new(NONE)) }
    }

    pub(super) fn bytes_received(&self, bytes: &[u8]) {
        // Some senders append a line break after the body. It belongs to no request.
        if self.at.load(Ordering::Relaxed) == NONE && bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            let nanos = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(SERVING - 1);
            self.at.store(nanos.max(1), Ordering::Relaxed);
        }
    }

    /// Notes that an answer is being written: bytes read before it are not part of the next request.
    pub(super) fn bytes_sent(&self) {
        if self.at.load(Ordering::Relaxed) != SERVING {
            self.at.store(NONE, Ordering::Relaxed);
        }
    }

    /// Notes that the request's head is complete. Returns when its first byte was received.
    pub(crate) fn begin(&self) -> Instant {
        match self.at.swap(SERVING, Ordering::Relaxed) {
            NONE | SERVING => Instant::now(),
            nanos => self.base + Duration::from_nanos(nanos),
        }
    }

    /// Notes that the request was answered.
    pub(crate) fn end(&self) {
        self.at.store(NONE, Ordering::Relaxed);
    }

    /// When the first byte of a request with an incomplete head was received; `None` if there is no such request.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        match self.at.load(Ordering::Relaxed) {
            NONE | SERVING => None,
            nanos => Some(self.base + Duration::from_nanos(nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sleeps, so that two times differ.
    fn pause() {
        std::thread::sleep(Duration::from_millis(2));
    }

    #[test]
    fn a_request_begins_with_the_first_byte_after_the_last_answer() {
        let first_byte = FirstByte::new(Instant::now());
        pause();
        let before = Instant::now();
        first_byte.bytes_received(b"x");
        let after = Instant::now();
        pause();
        first_byte.bytes_received(b"x");
        let begun = first_byte.begin();
        assert!(before <= begun && begun <= after, "further bytes of the same head do not change it");

        // The body, and an interim answer to `Expect: 100-continue`.
        first_byte.bytes_received(b"x");
        first_byte.bytes_sent();
        first_byte.end();
        // The rest of the last body, read before its answer was sent.
        first_byte.bytes_received(b"x");
        first_byte.bytes_sent();
        pause();
        let before = Instant::now();
        first_byte.bytes_received(b"x");
        pause();
        assert!((before..Instant::now()).contains(&first_byte.begin()));
    }

    #[test]
    fn line_breaks_between_requests_do_not_begin_a_request() {
        let first_byte = FirstByte::new(Instant::now());
        first_byte.bytes_received(b"\r\n\n");
        assert_eq!(first_byte.head_since(), None);
        pause();
        let before = Instant::now();
        first_byte.bytes_received(b"\nPOST");
        assert!(first_byte.head_since().is_some_and(|since| since >= before));
        assert!(first_byte.begin() >= before);
        assert_eq!(first_byte.head_since(), None, "its head is complete");
    }

    #[test]
    fn a_pipelined_request_begins_when_its_head_is_processed() {
        let first_byte = FirstByte::new(Instant::now());
        first_byte.bytes_received(b"x");
        first_byte.begin();
        first_byte.end();
        pause();
        let before = Instant::now();
        assert!(first_byte.begin() >= before);
    }
}
