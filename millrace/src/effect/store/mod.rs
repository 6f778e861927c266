//! The rows of effects in Postgres schema `millrace_effects`: every step is one statement or one transaction.
//!
//! Invariant: `calls` of a row only grows, and whoever records how a call ended names its number and is its owner. So an
//! outcome that comes late, from a process that was stopped, is taken as long as nobody began another call, and
//! dropped otherwise.

mod calls;
mod claims;

pub(super) use calls::{
    Ending, Letter, Row, dead, expire, record, record_answer, settle, take, take_uncertain,
    to_emit, told,
};
pub(super) use claims::{Claimed, claim, ensure, insert, paused, set};

use sqlx::PgConnection;

use super::EffectError;
use crate::migration;

/// Creates or updates the tables.
pub(super) async fn migrate(conn: &mut PgConnection) -> Result<(), EffectError> {
    let migrator = sqlx::migrate!("migrations/effects");
    migration::run(conn, &["millrace_effects"], migrator).await
}
