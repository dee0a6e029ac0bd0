//! Reports shipments to Digital River, each once.
//!
//! A report is stored before anything is sent ([`add`]), and sent by a worker that leases it ([`worker`]). Digital River has no
//! idempotency keys, and a partial quantity that is reported twice captures its money twice. Therefore the state `sending` is
//! stored before the request, one report of an order is in flight at a time, and a lost answer is never followed by a second
//! request before the order's fulfillments were read back ([`decide`] says what follows from what is found). What cannot be
//! resolved is left to a person ([`settle`]).

pub mod add;
pub mod check;
pub mod decide;
pub mod metrics;
mod report;
pub mod settle;
mod store;
pub mod view;
pub mod worker;

pub use add::{AddError, Added, NewReport, Source};
pub use check::Refusal;
pub use riverlock_digital_river::fulfillments::Line;
