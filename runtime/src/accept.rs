//! Accepting connections.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Pause after a failure to accept, such as too many open files, so that retrying does not use up a core.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts the next connection, however often that fails; `failed` is called for each failure. May be dropped at any point.
pub async fn accept(listener: &TcpListener, mut failed: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and must not be delayed by Nagle's algorithm. A failure means that the connection is
                // already closed.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}
