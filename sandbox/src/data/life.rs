//! One generated order with all its events, as a pure function of a seed and an index.
//!
//! Lives are generated one by one and not stored, so that any number needs little memory. Seed, mode and start determine
//! each of them, so that results can be checked later.

use bytes::Bytes;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use crate::{
    config::Mode,
    data::{
        order::Order,
        payload::{Envelope, Moment, Versions, file_body, order_body, unknown_body},
        pdf::Purpose,
        seed,
    },
};

/// Time between the beginnings of two consecutive lives, milliseconds.
const LIVES_APART_MILLISECONDS: i64 = 250;

/// Order ids are twelve digits: the smallest, and how many there are.
const ORDER_ID_FIRST: u64 = 100_000_000_000;
const ORDER_IDS: u64 = 900_000_000_000;

// Purposes of generators; a new purpose gets a new number, so that the draws of others do not change.
const FOR_ORDER_IDS: u64 = 1;
const FOR_ORDER: u64 = 2;
const FOR_STORY: u64 = 3;
const FOR_EVENTS: u64 = 4;
const FOR_FILES: u64 = 5;

/// Types that Riverlock ignores. Source: Digital River, "Event types".
const UNKNOWN_TYPES: [&str; 3] = ["customer.updated", "subscription.extended", "payout.created"];

/// The history of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Which life of its seed this is.
    pub index: u64,
    /// The order: twelve digits, distinct for every index below 9 · 10¹¹ of one seed.
    pub order_id: String,
    /// The events, in the order in which they happened.
    pub events: Vec<PlannedEvent>,
    /// The final state of a receiver that got every event at least once, in any order.
    pub expected: ExpectedOrder,
}

/// One event, ready to be signed and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedEvent {
    /// The event's id, a UUID.
    pub id: String,
    /// Such as `order.accepted`.
    pub event_type: &'static str,
    /// The order that it concerns; `None` for types without an order.
    pub order_id: Option<String>,
    /// The creation time in its envelope.
    pub created_time: DateTime<Utc>,
    /// The JSON text, always the same bytes for the same event.
    pub body: Bytes,
}

/// The expected final state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedOrder {
    /// `complete`, `fulfilled`, `ready`, `on_hold`, `blocked` or `cancelled`.
    pub status: &'static str,
    /// File ids of the invoices.
    pub invoices: Vec<String>,
    /// File ids of the credit memos.
    pub credit_memos: Vec<String>,
}

impl ExpectedOrder {
    /// Every file to be archived: the invoices, then the credit memos.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.invoices.iter().chain(&self.credit_memos).map(String::as_str)
    }
}

impl Life {
    /// Generates life number `index`. The same arguments always yield the same bytes; another seed, mode or `start` yields
    /// other orders, so that no event id has two bodies.
    ///
    /// `start` is when the first life begins; life `index` begins a quarter of a second later for each before it, and
    /// lasts minutes to hours.
    pub fn generate(seed: u64, index: u64, mode: Mode, start: DateTime<Utc>) -> Self {
        let world = seed::mix(seed::mix(seed, start.timestamp_millis().cast_unsigned()), u64::from(mode.is_live()));
        let own = seed::mix(world, index);
        let first = seed::mix(world, FOR_ORDER_IDS) % ORDER_IDS;
        let order_id = (ORDER_ID_FIRST + (first + index % ORDER_IDS) % ORDER_IDS).to_string();

        let offset = TimeDelta::milliseconds(LIVES_APART_MILLISECONDS.saturating_mul(index.cast_signed()));
        let begin = start.checked_add_signed(offset).unwrap_or(start);
        let order = Order::draw(
            &mut seed::rng(own, FOR_ORDER),
            order_id.clone(),
            mode.is_live(),
            begin.duration_trunc(TimeDelta::seconds(1)).unwrap_or(begin),
        );
        let mut teller = EventWriter::new(own, &order);
        let story = Story::draw(&mut seed::rng(own, FOR_STORY));
        story.tell(&mut teller);
        let (events, invoices, credit_memos) = (teller.events, teller.invoices, teller.credit_memos);
        Self {
            index,
            order_id,
            events,
            expected: ExpectedOrder { status: story.ending.status(), invoices, credit_memos },
        }
    }
}

/// How a life ends.
#[derive(Debug, Clone, Copy)]
enum LifeEnding {
    Complete { invoices: usize, credit_memo: bool, cancelled_line: bool },
    Fulfilled,
    Ready,
    OnHold,
    Blocked,
    CancelledEarly,
    CancelledLate,
}

impl LifeEnding {
    const fn status(self) -> &'static str {
        match self {
            Self::Complete { .. } => "complete",
            Self::Fulfilled => "fulfilled",
            Self::Ready => "ready",
            Self::OnHold => "on_hold",
            Self::Blocked => "blocked",
            Self::CancelledEarly | Self::CancelledLate => "cancelled",
        }
    }
}

/// The outline of a life, from which its events are generated.
struct Story {
    pending_payment: bool,
    review: bool,
    ending: LifeEnding,
    unknown: bool,
}

impl Story {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let ending = match rng.u16(..1000) {
            0..880 => LifeEnding::Complete {
                invoices: if rng.u8(..100) < 2 { 2 } else { 1 },
                credit_memo: rng.u8(..100) < 3,
                cancelled_line: rng.u8(..100) < 5,
            },
            880..905 => LifeEnding::CancelledEarly,
            905..930 => LifeEnding::CancelledLate,
            930..960 => LifeEnding::Blocked,
            960..970 => LifeEnding::Ready,
            970..985 => LifeEnding::OnHold,
            _ => LifeEnding::Fulfilled,
        };
        let (mut pending_payment, mut review) = match rng.u8(..100) {
            0..10 => (true, false),
            10..20 => (false, true),
            20..25 => (true, true),
            _ => (false, false),
        };
        match ending {
            LifeEnding::Blocked => review = true,
            LifeEnding::OnHold | LifeEnding::CancelledEarly if !review => pending_payment = true,
            _ => {}
        }
        Self { pending_payment, review, ending, unknown: rng.u8(..100) < 2 }
    }

    fn tell(&self, teller: &mut EventWriter<'_>) {
        if self.pending_payment {
            teller.reach("pending_payment", "order.pending_payment");
        }
        if self.review {
            teller.fraud("review_opened");
            teller.reach("in_review", "order.review_opened");
        }
        match self.ending {
            LifeEnding::OnHold => {}
            LifeEnding::CancelledEarly => teller.reach("cancelled", "order.cancelled"),
            LifeEnding::Blocked => {
                teller.fraud("blocked");
                teller.reach("blocked", "order.blocked");
            }
            LifeEnding::Ready => teller.accept(),
            LifeEnding::CancelledLate => {
                teller.accept();
                teller.reach("cancelled", "order.cancelled");
            }
            LifeEnding::Fulfilled => {
                teller.accept();
                teller.fulfil(Shipping::Everything);
            }
            LifeEnding::Complete { invoices, credit_memo, cancelled_line } => {
                teller.accept();
                teller.fulfil(if cancelled_line { Shipping::AllButOne } else { Shipping::Everything });
                teller.reach("complete", "order.complete");
                (0..invoices).for_each(|_| teller.invoice());
                if credit_memo {
                    teller.credit_memo();
                }
            }
        }
        if self.unknown {
            teller.unknown();
        }
    }
}

/// The shipped lines of an order; the rest is cancelled.
#[derive(Clone, Copy)]
enum Shipping {
    Everything,
    /// All lines but the last; everything if there is only one.
    AllButOne,
}

/// Generates the events of one order, one after the other.
struct EventWriter<'a> {
    order: &'a Order,
    own: u64,
    rng: fastrand::Rng,
    moment: Moment,
    events: Vec<PlannedEvent>,
    invoices: Vec<String>,
    credit_memos: Vec<String>,
}

impl<'a> EventWriter<'a> {
    fn new(own: u64, order: &'a Order) -> Self {
        let created = order.created;
        Self {
            order,
            own,
            rng: seed::rng(own, FOR_EVENTS),
            moment: Moment {
                states: Vec::new(),
                fraud: Vec::new(),
                lines: order.lines.iter().map(|_| vec![("created", created)]).collect(),
                updated: created,
            },
            events: Vec::new(),
            invoices: Vec::new(),
            credit_memos: Vec::new(),
        }
    }

    /// Advances the order's time by `seconds.start` to `seconds.end`; returns the new time.
    fn wait(&mut self, seconds: std::ops::Range<i64>) -> DateTime<Utc> {
        let micros = if self.order.shape.fractions { self.rng.i64(0..1_000_000) } else { 0 };
        self.moment.updated += TimeDelta::seconds(self.rng.i64(seconds)) + TimeDelta::microseconds(micros);
        self.moment.updated
    }

    /// Adds a state of the fraud check shortly after the previous event.
    fn fraud(&mut self, state: &'static str) {
        let at = self.wait(1..3);
        self.moment.fraud.push((state, at));
    }

    fn accept(&mut self) {
        self.fraud("passed");
        self.reach("accepted", "order.accepted");
    }

    fn fulfil(&mut self, shipping: Shipping) {
        let lines = self.moment.lines.len();
        for line in 0..lines {
            let is_left_out = matches!(shipping, Shipping::AllButOne) && lines > 1 && line == lines - 1;
            let at = self.wait(60..1_800);
            self.moment.lines[line].push((if is_left_out { "cancelled" } else { "fulfilled" }, at));
        }
        self.reach("fulfilled", "order.fulfilled");
    }

    /// Changes the order's state, and adds an event about it.
    fn reach(&mut self, state: &'static str, event_type: &'static str) {
        let at = self.wait(6..240);
        let previous = self.moment.state();
        self.moment.states.push((state, at));
        if matches!(state, "cancelled" | "blocked") {
            self.moment.lines.iter_mut().for_each(|line| line.push((state, at)));
        }
        let has_previous = !previous.is_empty() && self.rng.u8(..100) < 15;
        let envelope = self.envelope(event_type);
        let body = order_body(&envelope, self.order, &self.moment, has_previous.then_some(previous));
        self.push(envelope, Some(self.order.id.clone()), body);
    }

    fn invoice(&mut self) {
        let file_id = self.file("order.invoice.created", Purpose::Invoice);
        self.invoices.push(file_id);
    }

    fn credit_memo(&mut self) {
        let file_id = self.file("order.credit_memo.created", Purpose::CreditMemo);
        self.credit_memos.push(file_id);
    }

    fn file(&mut self, event_type: &'static str, purpose: Purpose) -> String {
        self.wait(6..90);
        let number = u64::try_from(self.invoices.len() + self.credit_memos.len()).expect("a life has few files");
        let drawn = seed::uuid(&mut seed::rng(self.own, seed::mix(FOR_FILES, number)));
        let file_id = purpose.mark(drawn).to_string();
        let envelope = self.envelope(event_type);
        let body = file_body(&envelope, self.order, &file_id, purpose.as_str());
        self.push(envelope, Some(self.order.id.clone()), body);
        file_id
    }

    /// Adds an unrelated event just after one of the order's events.
    fn unknown(&mut self) {
        let after = self.rng.usize(..self.events.len());
        let event_type = UNKNOWN_TYPES[self.rng.usize(..UNKNOWN_TYPES.len())];
        let mut envelope = self.envelope(event_type);
        envelope.created = self.events[after].created_time + TimeDelta::milliseconds(1);
        let body = unknown_body(&envelope, &self.order.customer_id, self.order.total());
        self.push(envelope, None, body);
        self.events[after + 1..].rotate_right(1);
    }

    /// The envelope of an event at the present time of the order.
    fn envelope(&mut self, event_type: &'static str) -> Envelope {
        let versions = match self.rng.u8(..4) {
            0 => Versions::Webhooks,
            1 => Versions::CapitalRiver,
            2 => Versions::Ids,
            _ => Versions::Absent,
        };
        Envelope {
            id: seed::uuid(&mut self.rng).to_string(),
            event_type,
            live: self.order.live,
            created: self.moment.updated + TimeDelta::microseconds(self.rng.i64(300_000..4_000_000)),
            versions,
        }
    }

    fn push(&mut self, envelope: Envelope, order_id: Option<String>, body: Vec<u8>) {
        let Envelope { id, event_type, created, .. } = envelope;
        self.events.push(PlannedEvent { id, event_type, order_id, created_time: created, body: body.into() });
    }
}

#[cfg(test)]
mod tests;
