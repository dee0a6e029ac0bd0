//! Reading of a request's body within limits.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{timeout, timeout_at};

use crate::{
    http::slots::Rank,
    refusal::Rejection,
    webhook::reading::{ArrivingRequest, GRACE},
};

/// How much of the body of a rejected request is still read, in bytes.
const DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long reading the body of a rejected request may take.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(250);

/// Reads the whole body. Bytes are reserved as they arrive, so that a sender that announces much and sends little occupies
/// little. It may take `time_max` from `now` on. `rank` returns the sender's network and rank; it is called only if the
/// body does not arrive together with the head.
pub(crate) async fn read(
    body: &mut Body,
    bytes_max: usize,
    (now, time_max): (Instant, Duration),
    arriving: &ArrivingRequest<'_>,
    rank: impl FnOnce() -> (Option<u64>, Rank),
) -> Result<Bytes, Rejection> {
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > bytes_max) {
        return Err(Rejection::TooLarge(bytes_max));
    }
    let until = now + time_max;
    let mut collected = pin!(collect(body, bytes_max, arriving));
    if let Ok(collected) = timeout(GRACE.min(time_max), &mut collected).await {
        return collected;
    }
    let (network, rank) = rank();
    let slot = arriving.take_slot(network, rank)?;
    tokio::select! {
        biased;
        () = slot.evicted() => Err(Rejection::Evicted),
        collected = timeout_at(until.into(), collected) => collected.unwrap_or(Err(Rejection::BodyTimeout(time_max))),
    }
}

async fn collect(body: &mut Body, bytes_max: usize, arriving: &ArrivingRequest<'_>) -> Result<Bytes, Rejection> {
    // Most bodies are a single chunk, which needs no copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = next_chunk(body).await? {
        if first.len().max(rest.len()) + chunk.len() > bytes_max {
            return Err(Rejection::TooLarge(bytes_max));
        }
        arriving.add_bytes(chunk.len())?;
        if first.is_empty() && rest.is_empty() {
            first = chunk;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&chunk);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The next chunk of data; `None` at the end.
async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Rejection> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "a body ended before it was complete: {error}");
            Rejection::BodyBroken
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads and discards what the sender is still sending, up to a limit and for no longer than the answer may take: a
/// connection that is closed with unread bytes is reset, and the sender would never see the answer.
///
/// Not for a sender that waits for permission to send (`Expect: 100-continue`), because reading would grant it. Not over
/// HTTP/2 either, where a stream ends without its connection.
pub(crate) async fn discard(body: &mut Body, left: Duration) {
    let reading = async {
        let mut count = 0;
        while let Ok(Some(chunk)) = next_chunk(body).await {
            count += chunk.len();
            if count > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(DISCARD_TIMEOUT.min(left), reading).await;
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use super::*;

    /// A body of which nothing arrives.
    struct SilentBody;

    impl HttpBody for SilentBody {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn discarding_a_body_is_bounded_by_the_time_left_to_answer() {
        let (left, mut body) = (Duration::from_millis(10), Body::new(SilentBody));
        tokio::select! {
            biased;
            () = discard(&mut body, left) => {}
            () = tokio::time::sleep(DISCARD_TIMEOUT / 2) => panic!("it takes longer than the time left to answer"),
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(DISCARD_TIMEOUT / 2) => {}
            () = discard(&mut body, Duration::from_secs(60)) => panic!("it must wait for the body"),
        }
    }
}
