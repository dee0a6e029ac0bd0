//! Read model of plans and their runs for the CLI.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::{Report, Selection};
use riverlock_ledger::Error;

/// A plan and its last run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field names are self-explanatory")]
pub struct RunView {
    pub plan: String,
    pub planned_at: DateTime<Utc>,
    pub planned_by: String,
    pub selection: Selection,
    pub planned: Report,
    /// State of the last run; `planned` if there is none. A run that is `running` may also have been killed.
    pub state: String,
    pub records: i64,
    pub fresh: i64,
    pub effects: i64,
    pub detail: Option<String>,
    pub started_by: Option<String>,
    /// Why it was applied; `None` if it was not, or by a version that did not store the reason.
    pub why: Option<String>,
    /// The operator who last resumed it after an interruption.
    pub resumed_by: Option<String>,
    pub resumed_why: Option<String>,
    pub updated_at: DateTime<Utc>,
}

/// Returns plans with their last runs, newest first. For a plan whose stored form cannot be parsed, `detail` has the
/// error.
pub async fn runs(connection: &mut PgConnection, limit: i64) -> Result<Vec<RunView>, Error> {
    let rows = sqlx::query!(
        r#"-- replay_runs_list
           SELECT encode(p.plan_hash, 'hex') AS "plan!", p.created_at, p.created_by, p.selection, p.summary,
                  coalesce(r.state, 'planned') AS "state!", coalesce(r.records, 0) AS "records!",
                  coalesce(r.fresh, 0) AS "fresh!", coalesce(r.effects, 0) AS "effects!", r.detail AS "detail?",
                  r.started_by AS "started_by?", r.why, r.resumed_by, r.resumed_why, coalesce(r.updated_at, p.created_at) AS "updated_at!"
           FROM replay_plans p
           LEFT JOIN LATERAL (SELECT * FROM replay_runs r
                              WHERE r.plan_hash = p.plan_hash AND r.generation = p.generation
                              ORDER BY run_id DESC LIMIT 1) r ON true
           ORDER BY p.created_at DESC LIMIT $1"#,
        limit
    );
    let rows = rows.fetch_all(connection).await?.into_iter().map(|row| {
        let read = serde_json::from_value(row.selection)
            .and_then(|selection: Selection| Ok((selection, serde_json::from_value::<Report>(row.summary)?)));
        let (read, detail) = match read {
            Ok(read) => (read, row.detail),
            Err(error) => (Default::default(), Some(format!("this version cannot read the plan: {error}"))),
        };
        let (selection, planned) = read;
        RunView {
            plan: row.plan,
            planned_at: row.created_at,
            planned_by: row.created_by,
            selection,
            planned,
            state: row.state,
            records: row.records,
            fresh: row.fresh,
            effects: row.effects,
            detail,
            started_by: row.started_by,
            why: row.why,
            resumed_by: row.resumed_by,
            resumed_why: row.resumed_why,
            updated_at: row.updated_at,
        }
    });
    Ok(rows.collect())
}
