//! Packed form of a digest, for storage: usually 22 bytes instead of 42.
//!
//! It leaves out the cells of absent aspects, the keys that have only one value, and whatever follows from the other columns of
//! the record's row: mode, type and order. The first two bytes have the version in their upper four bits, and a bit for each aspect that
//! is present. Then follow the cells: a key of 0 to 2 bytes, and a value of 2 bytes.
//!
//! A digest that has no packed form is stored unpacked; the two can be told apart by their sizes.

use super::{Aspect, Content, VERSION};

/// Bytes of the version and the bits of the aspects.
const HEAD_BYTES: usize = 2;
/// Number of the version's lowest bit.
const VERSION_SHIFT: u32 = 12;

impl Aspect {
    /// Size of the aspect's key in the packed form, in bytes; `None` if the cell follows from other columns.
    fn packed_key_bytes(self) -> Option<usize> {
        match self {
            Self::Type | Self::Order => None,
            // The key is 1.
            Self::State | Self::Quantities => Some(0),
            // The key is a mask of at most 8 fields.
            Self::Money | Self::Products | Self::Address | Self::Details => Some(1),
            Self::Times | Self::Subject => Some(2),
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

impl Content {
    /// The bytes to store. `known` is the digest of the row's other columns: [`Content::of_parts`].
    #[must_use]
    pub fn pack(&self, known: &Self) -> Vec<u8> {
        let packed = self.packed();
        // Not every digest follows from its packed form and the columns: an order id that is no valid key is not stored, for
        // example.
        if Self::unpack(&packed, known) == Some(*self) { packed } else { self.0.to_vec() }
    }

    fn packed(&self) -> Vec<u8> {
        let mut present = u16::from(VERSION) << VERSION_SHIFT;
        let mut packed = vec![0; HEAD_BYTES];
        for aspect in Aspect::ALL {
            let (key, value) = self.cell(aspect);
            let Some(key_bytes) = aspect.packed_key_bytes().filter(|_| key != 0) else { continue };
            present |= aspect.bit();
            packed.extend_from_slice(&key.to_be_bytes()[2 - key_bytes..]);
            packed.extend_from_slice(&value.to_be_bytes());
        }
        packed[..HEAD_BYTES].copy_from_slice(&present.to_be_bytes());
        packed
    }

    /// Reads stored bytes; `None` if they are of another version. `known` is the same as for [`Content::pack`].
    #[must_use]
    pub fn unpack(bytes: &[u8], known: &Self) -> Option<Self> {
        if bytes.len() == Self::BYTES {
            return Self::from_slice(bytes);
        }
        let (head, mut rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let present = u16::from_be_bytes(*head);
        if present >> VERSION_SHIFT != u16::from(VERSION) {
            return None;
        }
        let mut content = *known;
        for aspect in Aspect::ALL.into_iter().filter(|aspect| present & aspect.bit() != 0) {
            let (key, after) = rest.split_at_checked(aspect.packed_key_bytes()?)?;
            let (value, after) = after.split_first_chunk::<2>()?;
            rest = after;
            let key = match *key {
                [] => [0, 1],
                [low] => [0, low],
                [high, low] => [high, low],
                _ => return None,
            };
            let at = aspect.offset();
            content.0[at..at + key.len()].copy_from_slice(&key);
            content.0[at + key.len()..at + key.len() + value.len()].copy_from_slice(value);
        }
        rest.is_empty().then_some(content)
    }

    /// Like [`Self::unpack`], from hexadecimal digits.
    #[must_use]
    pub fn unpack_hex(digits: &str, known: &Self) -> Option<Self> {
        Self::unpack(&hex::decode(digits).ok()?, known)
    }
}
