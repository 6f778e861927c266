//! A view with its kind erased, and what writing a batch can come to.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use sqlx::PgConnection;

use crate::codec::{Codec, CodecError};
use crate::event::Event;
use crate::projection::Record;
use crate::registry::{Registry, RegistryError};

/// A future that an object-safe trait returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a view's group starts on a partition that it never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record that the topic still holds.
    Earliest,
    /// At the end: everything before counts as skipped on purpose, and `status` shows it.
    Now,
}

/// One build of a view: the tables that a batch is written into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The view's name.
    pub view: String,
    /// Its number, from 1.
    pub number: i32,
    /// Postgres schema of its tables, such as `daily_sums_b2`.
    pub schema: String,
    /// Recorded skips: a gap in an aggregate's events behind one of them is passed. A build from the log's start
    /// reads what was skipped, so its skips hold no offset and only say where gaps begin.
    pub skips: Vec<Skip>,
    /// Most parked aggregates of a partition; one more stops it.
    pub parked_max: i64,
}

/// Offsets that an operator skipped on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset skipped.
    pub from: i64,
    /// First offset not skipped.
    pub to: i64,
}

/// An event, or the state that it meets, with which a view cannot go on. Its text is what an operator reads.
///
/// The aggregate is parked and the others go on. Never for a server that is away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Poison(String);

impl Poison {
    /// Poison for this reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// What a batch came to; counts of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Applied to rows.
    pub applied: usize,
    /// Repeats that the guard left out.
    pub repeated: usize,
    /// Put aside: the first bad event of an aggregate, and those that follow it.
    pub parked: usize,
    /// Aggregates newly marked incomplete because events of theirs were skipped.
    pub incomplete: usize,
    /// Which records were put aside, by their index in the batch.
    pub aside: BTreeMap<usize, Aside>,
    /// Where an aggregate was put aside, and why: topic, partition and reason.
    pub reasons: Vec<(String, i32, String)>,
}

/// Why a record was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It cannot be applied.
    Bad,
    /// It follows one of its aggregate that cannot be.
    Behind,
}

/// Why a batch was not written. The transaction is to be rolled back whole.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Postgres is away, refuses or is in another state than it must be: try again.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The registry, or the journal behind it, is away: try again. Never taken for poison.
    #[error("{0}")]
    Unavailable(String),
    /// This partition cannot go on before an operator acts; the others can.
    #[error("{topic}/{partition} stopped at offset {offset}: {reason}")]
    Stop {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Offset of the record that it stopped at.
        offset: i64,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Why a schema id could not be learnt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LearnError {
    /// A final answer: the record is none of ours.
    #[error("{0}")]
    Unknown(String),
    /// Nobody could be asked.
    #[error("{0}")]
    Unavailable(String),
}

/// Who makes unknown schema ids known to the codec.
pub trait SchemaSource: Send + Sync {
    /// Adds the schema to the codec that it shares with the [`Decoder`].
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>>;
}

impl SchemaSource for Registry {
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>> {
        Box::pin(async move {
            Registry::learn(self, schema_id)
                .await
                .map_err(|error| match error {
                    RegistryError::UnknownId(_) | RegistryError::ForeignSchema { .. } => {
                        LearnError::Unknown(error.to_string())
                    }
                    away => LearnError::Unavailable(away.to_string()),
                })
        })
    }
}

/// Reads values, asking for schemas that were not met before.
#[derive(Clone)]
pub struct Decoder {
    codec: Codec,
    schemas: Arc<dyn SchemaSource>,
}

impl Decoder {
    /// A decoder; `schemas` must feed this very `codec`.
    pub fn new(codec: Codec, schemas: Arc<dyn SchemaSource>) -> Self {
        Self { codec, schemas }
    }

    /// A decoder that learns from the registry.
    pub fn of(registry: Registry) -> Self {
        Self::new(registry.codec().clone(), Arc::new(registry))
    }

    /// What it reads with.
    pub(crate) fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Makes a schema known to the codec.
    pub(crate) async fn learn(&self, schema_id: u32) -> Result<(), LearnError> {
        self.schemas.learn(schema_id).await
    }

    /// Decodes a value. The inner error is final: the record is poison.
    pub(crate) async fn decode<P: Payload>(
        &self,
        payload: &[u8],
    ) -> Result<Result<P, CodecError>, LearnError> {
        match P::read(&self.codec, payload) {
            Err(CodecError::UnknownSchema(id)) => match self.schemas.learn(id).await {
                Ok(()) => Ok(P::read(&self.codec, payload)),
                Err(LearnError::Unknown(_)) => Ok(Err(CodecError::UnknownSchema(id))),
                Err(away) => Err(away),
            },
            read => Ok(read),
        }
    }
}

/// What a record's value is decoded into.
pub trait Payload: Sized + Send + Sync + 'static {
    /// Decodes a framed value.
    fn read(codec: &Codec, payload: &[u8]) -> Result<Self, CodecError>;
}

impl<E: Event> Payload for E {
    fn read(codec: &Codec, payload: &[u8]) -> Result<Self, CodecError> {
        codec.decode(payload)
    }
}

/// A view with its kind erased: what the sink runs and a rebuild runs again.
pub trait Projector: Send + Sync + 'static {
    /// The view's name in kebab case. It is the view's identity: group, checkpoints and builds hang on it.
    fn name(&self) -> &str;

    /// The SQL view's name in schema `views`: the name in snake case.
    fn view_name(&self) -> String {
        self.name().replace('-', "_")
    }

    /// The consumer group of the live sink.
    fn group(&self) -> String {
        format!("millrace.view.{}", self.name())
    }

    /// The topics that it reads.
    fn topics(&self) -> Vec<String>;

    /// Where it starts on a partition that it never read.
    fn start(&self) -> Start;

    /// The author's SQL: `CREATE TABLE` and index statements, run with the build's schema as search path,
    /// then one `CREATE VIEW views.<name> AS …`, run again by every swap as `CREATE OR REPLACE VIEW`.
    fn sql(&self) -> &str;

    /// Tables that the library adds to every build of this kind; run before the author's SQL.
    fn library_sql(&self) -> &'static str {
        ""
    }

    /// Columns that the tables must have, as (table, column, type): checked when a build is created.
    fn columns(&self) -> Vec<(String, String, String)> {
        Vec::new()
    }

    /// Writes a batch into the build's tables, in the transaction that `tx` has open.
    ///
    /// Records of a partition must come in the order of their offsets; partitions may alternate. Poison
    /// is parked in the same transaction. An error leaves the transaction to be rolled back whole.
    /// Checkpoints are the caller's.
    fn apply<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        decoder: &'a Decoder,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Applied, ApplyError>>;

    /// Counts one event of an aggregate as seen though it was never applied, and marks its rows
    /// incomplete: an operator skipped it.
    fn pass_over<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>>;

    /// True where applying an event again changes nothing: a fold by its guard, SQL by what it writes. A
    /// tally cannot, and rests on the checkpoint alone.
    fn absorbs_repeats(&self) -> bool {
        true
    }
}

/// The text in a row's `source`: `<topic>/<partition>`.
pub(crate) fn source(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

/// True for an error that lies in the data: another try would fail again, another event may not.
///
/// These are the classes 22 (data exception), 23 (integrity), 44 (check option), 54 (a limit of the server,
/// such as an index entry too large) and P0001 (raised).
pub fn is_poison(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            ["22", "23", "44", "54"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "P0001"
        }),
        _ => false,
    }
}

/// True for a server that is away, overloaded or shutting down, and for a lost race: try again, always.
pub fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            ["08", "40", "53", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "55P03"
                || code == "25P03"
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
