//! The position of a record on the command line.

use riverlock_schemas::kafka::record::Position;

/// Parses a position as it is printed: `topic[partition]@offset`.
///
/// # Errors
/// When the text has another form.
pub fn position(text: &str) -> Result<Position, &'static str> {
    let parse = || {
        let (partition, offset) = text.rsplit_once("]@")?;
        let (topic, partition) = partition.rsplit_once('[')?;
        Some(Position { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    };
    parse().ok_or("expected topic[partition]@offset")
}
