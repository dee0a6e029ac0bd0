//! Reading the envelope and the payload on one way through a body means what reading them one after the other means, whatever
//! the body is.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::path::Path;

use proptest::{collection::vec, prelude::*};
use riverlock_ledger::Projection as _;
use riverlock_processor::Orders;
use riverlock_schemas::{Envelope, Mode};

/// What takes the place of a member: values of every type, those that cannot be decoded, names that mean something.
const ODD: [&str; 16] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
    "\"o\\u0000\"",
    "1e400",
    "-1",
    "18446744073709551616",
    "\"orderId\":\"other\"",
    "\"id\":7",
    "\"liveMode\":\"yes\"",
    "\"state\":\"accepted\"",
    "\"type\":\"order.complete\"",
    "\"stateTransitions\":{\"complete\":null,\"complete\":\"2026-01-01T00:00:00Z\",\"new\":\"2026-01-01T00:00:00Z\"}",
];

/// One change of a body that is cut at its commas.
#[derive(Clone, Debug)]
enum Change {
    Remove(usize),
    /// A key may stand twice then.
    Repeat(usize, usize),
    /// The type may come after the object then.
    Swap(usize, usize),
    Put(usize, usize),
    /// What stands after the colon becomes something odd.
    Value(usize, usize),
}

impl Change {
    fn apply(&self, parts: &mut Vec<String>) {
        let count = parts.len();
        match *self {
            Self::Remove(at) => drop(parts.remove(at % count)),
            Self::Repeat(from, to) => parts.insert(to % count, parts[from % count].clone()),
            Self::Swap(a, b) => parts.swap(a % count, b % count),
            Self::Put(at, odd) => parts.insert(at % count, ODD[odd % ODD.len()].to_owned()),
            Self::Value(at, odd) => {
                let part = &mut parts[at % count];
                if let Some((key, value)) = part.split_once(':') {
                    let closing = &value[value.trim_end_matches(['}', ']', '\n', ' ']).len()..];
                    *part = format!("{key}:{}{closing}", ODD[odd % 10]);
                }
            }
        }
        if parts.is_empty() {
            parts.push(String::new());
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let (a, b) = (any::<usize>(), any::<usize>());
    let change = prop_oneof![
        any::<usize>().prop_map(Change::Remove),
        (a, b).prop_map(|(from, to)| Change::Repeat(from, to)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::Swap(a, b)),
        (any::<usize>(), any::<usize>()).prop_map(|(at, odd)| Change::Put(at, odd)),
        (any::<usize>(), any::<usize>()).prop_map(|(at, odd)| Change::Value(at, odd)),
    ];
    vec(change, 0..4)
}

fn golden() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("schemas/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn one_way_through_a_body_means_what_two_mean() {
    let (golden, orders) = (golden(), Orders::new(vec![Mode::Test, Mode::Live]));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(20_000));
    runner
        .run(&(0..golden.len(), changes()), |(file, changes)| {
            let mut parts: Vec<String> = golden[file].split(',').map(str::to_owned).collect();
            changes.iter().for_each(|change| change.apply(&mut parts));
            let body = parts.join(",");
            let two = Envelope::parse(body.as_bytes()).map(|envelope| {
                let decision = orders.decide(&envelope, body.as_bytes());
                (envelope, decision)
            });
            let one = orders.read(body.as_bytes(), None).map(|reading| (reading.envelope, reading.decision));
            prop_assert_eq!(one, two);
            Ok(())
        })
        .unwrap();
}
