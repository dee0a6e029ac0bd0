//! Seeded randomness without state: every draw depends only on its purpose, so that life 70 000 is generated without the
//! 69 999 before it.

use uuid::{Builder, Uuid};

/// A generator for one purpose: the same `seed` and `purpose` give the same sequence on every machine.
pub(crate) fn rng(seed: u64, purpose: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(mix(seed, purpose))
}

/// Two numbers into one. For a fixed `a` distinct `b` stay distinct.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    finalise(finalise(a) ^ b)
}

/// A number for a text, such as an event id, to be mixed with a seed.
pub(crate) fn of_text(text: &str) -> u64 {
    text.bytes().fold(0, |sum, byte| mix(sum, u64::from(byte)))
}

/// A random (version 4) UUID.
pub(crate) fn uuid(rng: &mut fastrand::Rng) -> Uuid {
    Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

/// The output function of `SplitMix64`: a bijection that spreads every input bit over the whole word.
fn finalise(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_yields_the_same_numbers_and_another_yields_others() {
        assert_eq!(uuid(&mut rng(1, 2)), uuid(&mut rng(1, 2)));
        assert_ne!(uuid(&mut rng(1, 2)), uuid(&mut rng(1, 3)));
        assert_ne!(uuid(&mut rng(1, 2)), uuid(&mut rng(2, 2)));
    }
}
