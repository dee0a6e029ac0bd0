//! Comparison of JSON objects.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A member in which two objects differ: its name, and its value on either side; `None` where it is missing.
pub type Differing<'a> = (&'a str, Option<&'a Value>, Option<&'a Value>);

/// The members in which two objects differ, by name.
pub fn differing<'a>(
    one: &'a Map<String, Value>,
    other: &'a Map<String, Value>,
) -> impl Iterator<Item = Differing<'a>> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    names.into_iter().map(|name| (name.as_str(), one.get(name), other.get(name))).filter(|(_, one, other)| one != other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changed_added_and_missing_members_differ_and_equal_ones_do_not() {
        let (one, other) = (json!({"a": 1, "b": null, "d": 4}), json!({"a": 1, "c": 3, "d": "4"}));
        let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
        let found: Vec<_> = differing(one, other).collect();
        let expected = [("b", one.get("b"), None), ("c", None, other.get("c")), ("d", one.get("d"), other.get("d"))];
        assert_eq!(found, expected);
    }
}
