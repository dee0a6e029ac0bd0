//! The service as Digital River meets it: real sockets, librdkafka's mock cluster behind it.

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
