//! Projections that apply every event, and differ only in what applying does.

use chrono::{DateTime, Utc};
use riverlock_ledger::{Decision, Error, NewEvent, Projection};
use riverlock_schemas::Envelope;
use sqlx::PgConnection;

/// What applying events does.
pub(crate) trait Applying: Send + Sync + 'static {
    /// The consumer's name.
    const NAME: &'static str;

    /// Called for every record that the consumer decides about.
    fn decided(&self) {}

    /// Applies the events with these ids.
    fn apply(&self, connection: &mut PgConnection, ids: &[String]) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The projection that applies every event in this way.
pub(crate) struct Every<T>(pub(crate) T);

impl<T: Applying> Projection for Every<T> {
    type Event = String;
    type Applied = ();

    fn name(&self) -> &'static str {
        T::NAME
    }

    fn decide(&self, envelope: &Envelope<'_>, _body: &[u8]) -> Decision<String> {
        self.0.decided();
        Decision::Apply(envelope.id.to_string())
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        fresh: Vec<NewEvent<String>>,
        _now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let ids: Vec<String> = fresh.into_iter().map(|fresh| fresh.event).collect();
        self.0.apply(connection, &ids).await
    }
}

/// Has PostgreSQL reject the batch if an id contains `rejected`.
pub(crate) async fn reject_some(connection: &mut PgConnection, ids: &[String]) -> Result<(), Error> {
    let divisors: Vec<i32> = ids.iter().map(|id| i32::from(!id.contains("rejected"))).collect();
    sqlx::query("SELECT sum(1 / divisor) FROM unnest($1) AS divisor").bind(divisors).execute(connection).await?;
    Ok(())
}
