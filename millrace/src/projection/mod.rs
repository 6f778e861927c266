//! Projections: views that are functions of the log.
//!
//! An author writes one of three kinds. A [`Fold`] owns the rows of one aggregate and changes them by a
//! pure function; a [`Tally`] adds numbers under any key; a [`SqlProjection`] writes what it likes
//! inside the sink's transaction. [`fold`], [`tally`] and [`sql_projection`] erase the kind into a
//! [`Projector`], which writes a batch into one build's tables: the live sink and a rebuild use the same.
//!
//! Invariant: a view's rows and the offset of the next record are written in one Postgres transaction,
//! so a row is never ahead of or behind its checkpoint. Invariant: a projector never touches a
//! checkpoint; its callers do.

mod apply;
pub mod builds;
pub mod checkpoint;
mod fold;
pub mod ops;
mod park;
mod projector;

pub mod reset;
mod row;
pub mod sink;
mod sql_kind;
mod tally;

pub use crate::log::record::{Envelope, HeaderBlock, Record, RecordError};
pub use fold::{Fold, fold};
pub use park::{ParkedKey, Request, release};
pub(crate) use projector::source;
pub use projector::{
    Applied, ApplyError, Aside, BoxFuture, Build, Decoder, LearnError, Payload, Poison, Projector,
    SchemaSource, Skip, Start, is_outage, is_poison,
};
pub use row::{Column, ColumnType, RowSet, Rows, Summand, TallyRow, ViewRow};
pub use sql_kind::{Dynamic, SqlError, SqlProjection, sql_projection};
pub use tally::{Tally, tally};

/// What an operator does about a log that does not hold what a view must read.
pub const RUNBOOK: &str = "docs/runbooks/offset-out-of-range.md";

/// What the row macros name of the Postgres client, so that an author needs no dependency on it.
pub mod sql {
    pub use sqlx::error::BoxDynError;
    pub use sqlx::postgres::{PgArguments, PgConnection, PgRow};
    pub use sqlx::{Arguments, Error, Row};
}
