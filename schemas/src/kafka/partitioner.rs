//! The partition of a key: murmur2, like Java's default partitioner and ingest's producer (`murmur2_random`).

const SEED: u32 = 0x9747_b28c;
const MIX: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The partition of a key in a topic with `partitions` partitions.
///
/// # Panics
/// Never: the remainder is less than `partitions`, which is an `i32`.
#[must_use]
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    let partitions = u32::try_from(partitions).unwrap_or_default().max(1);
    i32::try_from((murmur2(key) & 0x7fff_ffff) % partitions).expect("the remainder is smaller than an i32")
}

fn murmur2(data: &[u8]) -> u32 {
    // The hash has 32 bits, so the length is truncated to 32 bits too.
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or_default();
    let mut hash = SEED ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut mixed = word.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte)).wrapping_mul(MIX);
        mixed ^= mixed >> SHIFT;
        hash = hash.wrapping_mul(MIX) ^ mixed.wrapping_mul(MIX);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte));
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_equal_those_in_kafkas_tests() {
        // Kafka, UtilsTest.testMurmur2.
        for (key, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), expected.cast_unsigned(), "{key}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for key in ["", "a", "310000000001"] {
            assert!((0..12).contains(&partition(key.as_bytes(), 12)));
        }
        assert_eq!(partition(b"anything", 1), 0);
    }
}
