//! The listener: connections, TLS, and their limits per client address.

pub(crate) mod address;
pub(crate) mod certificate;
pub(crate) mod connection;
pub(crate) mod first_byte;
pub(crate) mod known;
pub(crate) mod nofile;
pub(crate) mod observed_stream;
pub(crate) mod server;
pub(crate) mod slots;
pub(crate) mod tls;
