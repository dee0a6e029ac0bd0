//! Keys of events: 16 bytes that stand for an event id in `events`.
//!
//! Digital River's event ids are UUIDs. A UUID in lower case with hyphens is its own key. The key of every other text, and of
//! a UUID of version 8, is a UUID of version 8 made from 122 bits of the text's SHA-256, so that different ids have different
//! keys. The text is in the table `odd_event_ids`. `event_key_of` in the database computes the same.

use riverlock_schemas::hash::Sha256Hash;
use uuid::{Builder, Uuid};

/// Version of the UUIDs that are made from a hash.
const HASHED_VERSION: usize = 8;

/// Returns the key of an event id, or of its substitute.
#[must_use]
pub fn of(event_id: &str) -> Uuid {
    let plain = Uuid::try_parse(event_id).ok().filter(|key| !is_odd(key));
    let is_same_text = |key: &Uuid| key.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == event_id;
    plain.filter(is_same_text).unwrap_or_else(|| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256Hash::of(event_id.as_bytes()).as_bytes()[..16]);
        Builder::from_custom_bytes(bytes).into_uuid()
    })
}

/// Whether the id is not the key itself but in `odd_event_ids`.
#[must_use]
pub fn is_odd(key: &Uuid) -> bool {
    key.get_version_num() == HASHED_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_in_its_usual_form_is_its_own_key() {
        let usual = "64347306-1459-4654-9a94-82b128c40250";
        assert_eq!(of(usual).to_string(), usual);
        let odd = [
            "64347306-1459-4654-9A94-82B128C40250",
            "{64347306-1459-4654-9a94-82b128c40250}",
            "643473061459 4654-9a94-82b128c40250",
            "64347306145946549a9482b128c40250",
            "64347306-1459-8654-9a94-82b128c40250",
            "e1",
            "",
        ];
        let keys: std::collections::BTreeSet<Uuid> = odd.into_iter().map(of).collect();
        assert_eq!(keys.len(), odd.len(), "no two ids have one key");
        assert!(keys.iter().all(is_odd));
        // SHA-256 of "e1" begins with these digits, but for the version and the variant.
        assert_eq!(of("e1").to_string(), "8b5cc4df-7eec-8d32-a781-4eca4af047ae");
    }
}
