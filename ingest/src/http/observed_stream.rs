//! A connection's stream: records when bytes arrive, and pauses reads after too many unauthenticated requests.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::http::{connection::Connection, first_byte::FirstByte};

/// A stream whose reads are observed, and paused after too many unauthenticated requests.
pub(crate) struct ObservedStream<S> {
    pub(crate) stream: S,
    pub(crate) first_byte: FirstByte,
    pub(crate) connection: Arc<Connection>,
    pub(crate) pause: Option<Pin<Box<Sleep>>>,
}

impl<S> ObservedStream<S> {
    pub(crate) fn new(stream: S, first_byte: FirstByte, connection: Arc<Connection>) -> Self {
        Self { stream, first_byte, connection, pause: None }
    }

    /// Pending while reading from the connection is paused.
    pub(crate) fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
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

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
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
            self.first_byte.bytes_received(&buffer.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.first_byte.bytes_sent();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.first_byte.bytes_sent();
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
