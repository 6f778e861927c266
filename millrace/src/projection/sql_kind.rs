//! Plain SQL in the sink's transaction, for views that are no fold and no tally.

use std::future::Future;

use serde_json::Value;
use sqlx::PgConnection;

use crate::codec::{Codec, CodecError};
use crate::event::Recorded;
use crate::projection::apply::{self, Write, WriteError, Written};
use crate::projection::projector::source;
use crate::projection::{
    Applied, ApplyError, BoxFuture, Build, Decoder, Payload, Poison, Projector, Record, Start,
    is_poison,
};

/// A view that writes its tables itself.
///
/// Every table must have a column `source text`, filled from [`Recorded::source`], so that one
/// partition can be rebuilt alone. The tables are found by their bare names: the build's schema is the
/// transaction's search path.
pub trait SqlProjection: Send + Sync + 'static {
    /// The view's name in kebab case: unique, and the same in every release.
    const NAME: &'static str;
    /// Where it starts.
    const START: Start;
    /// Its tables and its SQL view; see [`Projector::sql`].
    const SQL: &'static str;
    /// An event type, or [`Dynamic`] to read every event of every topic.
    type Payload: Payload;

    /// The topics that it reads.
    fn topics(&self) -> Vec<String>;

    /// Writes the events, which come in the order of each partition.
    ///
    /// May be called again with fewer events after an error: what it wrote before was rolled back.
    fn project(
        &self,
        events: &[&Recorded<Self::Payload>],
        tx: &mut PgConnection,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// An event read without knowing its struct: in its writer's shape, as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Dynamic {
    /// Name of its Avro record.
    pub event_type: String,
    /// Its fields.
    pub data: Value,
}

impl Payload for Dynamic {
    fn read(codec: &Codec, payload: &[u8]) -> Result<Self, CodecError> {
        let (event_type, data) = codec.decode_json(payload)?;
        Ok(Self { event_type, data })
    }
}

/// Why a projection could not write.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// One of the events cannot be applied; which one is found by trying halves.
    #[error(transparent)]
    Poison(#[from] Poison),
    /// What Postgres said.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Erases a projection in SQL.
pub fn sql_projection<S: SqlProjection>(view: S) -> Box<dyn Projector> {
    Box::new(SqlProjector(view))
}

impl<P> Recorded<P> {
    /// What a row that comes from this event carries in `source`: `<topic>/<partition>`.
    pub fn source(&self) -> String {
        source(&self.topic, self.partition)
    }
}

struct SqlProjector<S>(S);

impl<S: SqlProjection> Write for SqlProjector<S> {
    type Payload = S::Payload;

    fn write<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        events: &'a [&'a Recorded<S::Payload>],
    ) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(async move {
            // Local to the transaction, so nothing that runs later on the connection sees it.
            sqlx::query("SELECT set_config('search_path', $1, true)")
                .bind(&build.schema)
                .execute(&mut *tx)
                .await?;
            match self.0.project(events, tx).await {
                Ok(()) => Ok(Written {
                    applied: events.len(),
                    ..Written::default()
                }),
                Err(SqlError::Poison(reason)) => Err(WriteError::Data(reason.to_string())),
                Err(SqlError::Database(error)) if is_poison(&error) => {
                    Err(WriteError::Data(error.to_string()))
                }
                Err(SqlError::Database(error)) => Err(error.into()),
            }
        })
    }
}

impl<S: SqlProjection> Projector for SqlProjector<S> {
    fn name(&self) -> &str {
        S::NAME
    }

    fn topics(&self) -> Vec<String> {
        self.0.topics()
    }

    fn start(&self) -> Start {
        S::START
    }

    fn sql(&self) -> &str {
        S::SQL
    }

    fn apply<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        decoder: &'a Decoder,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Applied, ApplyError>> {
        Box::pin(apply::apply(self, tx, build, decoder, records))
    }

    fn pass_over<'a>(
        &'a self,
        _tx: &'a mut PgConnection,
        _build: &'a Build,
        _record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(async { Ok(()) })
    }
}
