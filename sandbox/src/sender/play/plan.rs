//! The order and the repetitions in which events of a life are sent: a pure function of the seed.

use crate::data::seed;

const FOR_PLAN: u64 = 6;

/// Percentages of lives whose events are sent in a wrong order, and sent concurrently.
const SHUFFLED_PERCENT: u8 = 5;
const AT_ONCE_PERCENT: u8 = 5;

/// Percentages of events that are sent twice at the same time, again much later, and again although the first was
/// acknowledged (as if the answer had been lost).
const TWICE_PERCENT: u8 = 4;
const LATE_PERCENT: u8 = 4;
const AGAIN_PERCENT: u8 = 2;

/// How the events of one life are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    /// Indices into the life's events, in the order of sending, each once.
    pub(crate) sends: Vec<Send>,
}

/// Whether an event waits for the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    OneByOne,
    AllAtOnce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Send {
    pub(crate) event: usize,
    pub(crate) repeat: Repeat,
}

/// The repetition of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Never,
    AtTheSameInstant,
    AfterItsAnswer,
    LongAfter,
}

/// The plan for a life with this many events.
pub(crate) fn draw(seed: u64, index: u64, events: usize) -> Plan {
    let mut rng = seed::rng(seed::mix(seed, index), FOR_PLAN);
    let mut order: Vec<usize> = (0..events).collect();
    let mut pace = Pace::OneByOne;
    let kind = rng.u8(..100);
    if kind < SHUFFLED_PERCENT + AT_ONCE_PERCENT {
        rng.shuffle(&mut order);
    }
    if kind < AT_ONCE_PERCENT {
        pace = Pace::AllAtOnce;
    }
    let mut repeat = || match rng.u8(..100) {
        draw if draw < TWICE_PERCENT => Repeat::AtTheSameInstant,
        draw if draw < TWICE_PERCENT + LATE_PERCENT => Repeat::LongAfter,
        draw if draw < TWICE_PERCENT + LATE_PERCENT + AGAIN_PERCENT => Repeat::AfterItsAnswer,
        _ => Repeat::Never,
    };
    Plan { pace, sends: order.into_iter().map(|event| Send { event, repeat: repeat() }).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_sent_and_about_a_tenth_twice_and_a_tenth_of_lives_out_of_order() {
        let (mut repeated, mut out_of_order, mut at_once) = (0, 0, 0);
        for index in 0..10_000 {
            let plan = draw(1, index, 4);
            assert_eq!(plan, draw(1, index, 4));
            let mut events: Vec<usize> = plan.sends.iter().map(|send| send.event).collect();
            out_of_order += u32::from(!events.is_sorted());
            at_once += u32::from(plan.pace == Pace::AllAtOnce);
            repeated += plan.sends.iter().filter(|send| send.repeat != Repeat::Never).count();
            events.sort_unstable();
            assert_eq!(events, [0, 1, 2, 3]);
        }
        assert!((3_600..4_400).contains(&repeated), "{repeated}");
        assert!((800..1_150).contains(&out_of_order), "{out_of_order}");
        assert!((400..600).contains(&at_once), "{at_once}");
    }
}
