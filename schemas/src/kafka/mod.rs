//! How events are stored in Kafka: topics, partitions, and the headers of records.

pub mod partitioner;
pub mod record;
pub mod topics;
