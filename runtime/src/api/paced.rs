//! A connection that is closed if its client reads the answers too slowly.
//!
//! Otherwise a client that requests a large answer and does not read it would keep its connection and its task
//! indefinitely.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How fast a client must read, in bytes per second, averaged over each [`WINDOW`] in which a write is pending.
pub(super) const RATE_MIN: u64 = 4 * 1024;

/// The time over which the rate is measured. It must be long enough for the kernel, which accepts more data only once a
/// part of its buffer is free: see [`SEND_BUFFER_BYTES`].
pub(super) const WINDOW: Duration = Duration::from_secs(30);

/// Size of the kernel's send buffer of a connection, in bytes. Without a limit it grows to megabytes, and only after that
/// many does it show whether a slow client still reads.
pub(super) const SEND_BUFFER_BYTES: u32 = 128 * 1024;

/// A stream whose peer must read at a minimum rate.
pub(super) struct PacedConnection<S> {
    stream: S,
    rate_min: u64,
    window: Duration,
    /// Set while a write is pending.
    waiting: Option<PendingWrite>,
    /// Whether the last write was pending.
    is_pending: bool,
}

struct PendingWrite {
    /// The end of the window.
    end: Pin<Box<Sleep>>,
    /// Bytes that the peer read in this window.
    taken: u64,
}

impl<S> PacedConnection<S> {
    pub(super) fn new(stream: S, rate_min: u64, window: Duration) -> Self {
        Self { stream, rate_min, window, waiting: None, is_pending: false }
    }

    /// Notes that bytes were accepted, or that nothing is to be written. A window that ended while no write was pending is
    /// not checked.
    fn took(&mut self, bytes: usize) -> io::Result<()> {
        let was_pending = std::mem::take(&mut self.is_pending);
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        waiting.taken += bytes as u64;
        let (taken, has_ended) = (waiting.taken, waiting.end.deadline() <= Instant::now());
        if has_ended {
            self.waiting = None;
        }
        if has_ended && was_pending { self.check_rate(taken) } else { Ok(()) }
    }

    /// Notes that a write is pending. Ready with an error once the peer was too slow for a whole window.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.is_pending = true;
        let window = self.window;
        loop {
            let waiting = self.waiting.get_or_insert_with(|| PendingWrite { end: Box::pin(sleep(window)), taken: 0 });
            ready!(waiting.end.as_mut().poll(context));
            let taken = waiting.taken;
            self.waiting = None;
            if let Err(error) = self.check_rate(taken) {
                return Poll::Ready(error);
            }
        }
    }

    fn check_rate(&self, taken: u64) -> io::Result<()> {
        if taken < self.rate_min * self.window.as_secs().max(1) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is read too slowly"));
        }
        Ok(())
    }

    fn result<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        taken: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(done)) => Poll::Ready(self.took(taken(&done)).map(|()| done)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedConnection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.result(context, result, |taken| *taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.result(context, result, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.result(context, result, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection whose peer must read 1000 bytes per second, measured over a second, and the peer.
    fn connection() -> (PacedConnection<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(500);
        (PacedConnection::new(here, 1_000, SECOND), there)
    }

    #[tokio::test]
    async fn a_connection_whose_peer_stops_reading_fails_after_a_window() {
        let (mut writer, _reader) = connection();
        let begun = Instant::now();
        let error = writer.write_all(&[0; 2_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((900..3_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_connection_fails_if_its_peer_reads_too_slowly() {
        for (pause, keeps_up) in [(Duration::from_millis(20), true), (Duration::from_millis(400), false)] {
            let (mut writer, mut reader) = connection();
            let reading = async {
                let mut piece = [0; 100];
                while reader.read_exact(&mut piece).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            };
            let writing = async move { writer.write_all(&[0; 10_000]).await };
            let (written, ()) = tokio::join!(writing, reading);
            assert_eq!(written.is_ok(), keeps_up, "{pause:?}: {written:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_may_be_idle_while_nothing_is_sent() {
        let (mut writer, mut reader) = connection();
        for _ in 0..2 {
            let mut piece = [0; 600];
            let (written, read) = tokio::join!(writer.write_all(&[0; 600]), reader.read_exact(&mut piece));
            assert_eq!((written.unwrap(), read.unwrap()), ((), 600));
            tokio::time::sleep(SECOND + SECOND / 5).await;
        }
    }
}
