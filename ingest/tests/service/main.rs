//! Tests of the service over real sockets, with librdkafka's mock cluster.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod load;
#[cfg(test)]
mod odd;
#[cfg(test)]
mod quarantine;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tls;
