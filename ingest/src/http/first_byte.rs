//! When a request's first byte came: hyper tells only when its head is complete.
//!
//! For HTTP/1, where one request follows the other: the first byte that is read after the last answer. A request that was
//! sent before the last answer (pipelined) counts from its head's end. HTTP/2 mixes requests on a connection, so there each
//! counts from its head as well, which is one frame as a rule.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

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

    pub(super) fn bytes_came(&self, bytes: &[u8]) {
        // Some senders end a body with a line feed that is not part of it. It belongs to no request.
        if self.at.load(Ordering::Relaxed) == NONE && bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            let nanos = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(SERVING - 1);
            self.at.store(nanos.max(1), Ordering::Relaxed);
        }
    }

    /// An answer is written: what was read before it is no part of the next request.
    pub(super) fn bytes_went(&self) {
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
