//! Kafka: the producer, its delivery reports, and whether Kafka can be written to.

pub(crate) mod breaker;
pub(crate) mod errors;
pub(crate) mod partition_limits;
pub(crate) mod producer;
pub(crate) mod reports;
pub(crate) mod supervisor;
pub(crate) mod topic_check;
pub(crate) mod write_rights;
