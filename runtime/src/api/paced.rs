//! A connection that is given up when its reader stands still, or takes what is sent too slowly.
//!
//! Otherwise a client that asks for much and reads nothing would keep its connection, and what serves it, for ever.

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

/// How much a reader must take in each [`WINDOW`] in which it is waited for, bytes per second on average.
pub(super) const RATE_MIN: u64 = 4 * 1024;

/// Over how long the rate is looked at. Long enough for the kernel, which takes more only once a part of its buffer is free:
/// see [`SEND_BUFFER_BYTES`].
pub(super) const WINDOW: Duration = Duration::from_secs(30);

/// What the kernel may hold of a connection's answers, bytes. Without a limit it holds megabytes, and tells only after many of
/// them whether a slow reader still reads.
pub(super) const SEND_BUFFER_BYTES: u32 = 128 * 1024;

/// Writes to a reader that must keep up with a rate.
pub(super) struct PacedConnection<S> {
    stream: S,
    rate_min: u64,
    window: Duration,
    /// Runs while the reader is waited for.
    waiting: Option<PendingWrite>,
    /// Whether it was waited for until now.
    is_pending: bool,
}

struct PendingWrite {
    /// The window's end.
    end: Pin<Box<Sleep>>,
    /// Bytes that the reader took in this window.
    taken: u64,
}

impl<S> PacedConnection<S> {
    pub(super) fn new(stream: S, rate_min: u64, window: Duration) -> Self {
        Self { stream, rate_min, window, waiting: None, is_pending: false }
    }

    /// The reader took so much, or nothing is to be written. A window that ended while nobody waited says nothing.
    fn took(&mut self, bytes: usize) -> io::Result<()> {
        let was_pending = std::mem::take(&mut self.is_pending);
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        waiting.taken += bytes as u64;
        let (taken, has_ended) = (waiting.taken, waiting.end.deadline() <= Instant::now());
        if has_ended {
            self.waiting = None;
        }
        if has_ended && was_pending { self.judge(taken) } else { Ok(()) }
    }

    /// The reader is waited for. Ready with an error when it has been for too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.is_pending = true;
        let window = self.window;
        loop {
            let waiting = self.waiting.get_or_insert_with(|| PendingWrite { end: Box::pin(sleep(window)), taken: 0 });
            ready!(waiting.end.as_mut().poll(context));
            let taken = waiting.taken;
            self.waiting = None;
            if let Err(error) = self.judge(taken) {
                return Poll::Ready(error);
            }
        }
    }

    fn judge(&self, taken: u64) -> io::Result<()> {
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

    /// A connection whose reader must take 1000 bytes a second, looked at over a second, and its reader.
    fn connection() -> (PacedConnection<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(500);
        (PacedConnection::new(here, 1_000, SECOND), there)
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_is_given_up_after_a_window() {
        let (mut writer, _reader) = connection();
        let begun = Instant::now();
        let error = writer.write_all(&[0; 2_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((900..3_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_given_up_and_one_that_keeps_up_is_not() {
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
    async fn nothing_is_expected_of_a_reader_while_nothing_is_sent() {
        let (mut writer, mut reader) = connection();
        for _ in 0..2 {
            let mut piece = [0; 600];
            let (written, read) = tokio::join!(writer.write_all(&[0; 600]), reader.read_exact(&mut piece));
            assert_eq!((written.unwrap(), read.unwrap()), ((), 600));
            tokio::time::sleep(SECOND + SECOND / 5).await;
        }
    }
}
