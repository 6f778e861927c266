//! The rows of effects in Postgres schema `millrace_effects`: every step is one statement or one transaction.
//!
//! Invariant: `calls` of a row only grows, and whoever records how a call ended names its number and is its owner. So an
//! outcome that comes late, from a process that was stopped, is taken as long as nobody began another call, and
//! dropped otherwise.

mod calls;
mod claims;

pub(super) use calls::{
    Ending, Letter, Row, dead, expire, record, record_answer, settle, take, take_uncertain, to_emit,
};
pub(super) use claims::{
    Claimed, advance, claim, ensure, insert, known, paused, record_error, set,
};

use sqlx::{Connection, PgConnection};

use super::EffectError;

/// Creates or updates the tables.
pub(super) async fn migrate(conn: &mut PgConnection) -> Result<(), EffectError> {
    let mut tx = conn.begin().await?;
    // Two processes that start at once would both create the schema.
    sqlx::raw_sql(
        "SELECT pg_advisory_xact_lock(hashtext('millrace_effects'));
         CREATE SCHEMA IF NOT EXISTS millrace_effects;",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    sqlx::raw_sql("SET search_path TO millrace_effects")
        .execute(&mut *conn)
        .await?;
    sqlx::migrate!("migrations/effects").run(&mut *conn).await?;
    sqlx::raw_sql("RESET search_path").execute(conn).await?;
    Ok(())
}
