//! Reads the journal in its order, below the gate, in batches.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Row};
use uuid::Uuid;

use crate::event::{ce_type, events_topic};
use crate::position::JournalPosition;
use crate::relay::RelayError;
use crate::relay::gate::{self, Gate, GateRule};
use crate::relay::sequence::Sequences;

/// Longest wait for any answer of Postgres.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows of the first batch, before the size of an event is known.
const FIRST_BATCH: i64 = 512;
/// Rows of the first batch after a read that took too long.
const CAREFUL_BATCH: i64 = 16;
/// Part of the usual bytes that such a first batch may have; it doubles with each batch.
const CAREFUL_PART: usize = 16;

/// How much to read at once.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Events.
    pub events_max: u32,
    /// Bytes of payload; one event always passes.
    pub bytes_max: usize,
}

/// What all events of one type and schema have in common on their topic.
#[derive(Debug, PartialEq, Eq)]
pub struct EventKind {
    /// Topic, such as `counter.events`.
    pub topic: String,
    /// `ce_type`.
    pub ce_type: String,
    /// `ce_schemaversion`.
    pub schema_version: String,
}

/// A row of the journal, ready to be published.
#[derive(Debug)]
pub struct JournalEvent {
    /// Place in the journal's order.
    pub position: JournalPosition,
    /// What it has in common with others.
    pub kind: Arc<EventKind>,
    /// Aggregate type.
    pub aggregate_type: Arc<str>,
    /// The record's key.
    pub aggregate_id: String,
    /// Version within the aggregate.
    pub sequence: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// The record's value.
    pub payload: Vec<u8>,
    /// Further headers as JSON; none for most events.
    pub headers: Option<String>,
    /// When the command was accepted.
    pub occurred_at: DateTime<Utc>,
}

/// Events that follow the cursor, and the gate below which they were read.
#[derive(Debug)]
pub struct Batch {
    /// In the journal's order; may be empty.
    pub events: Vec<JournalEvent>,
    /// The gate.
    pub gate: Gate,
    /// True if a limit ended the batch: there is probably more.
    pub full: bool,
}

/// A session with the journal that reads on from a cursor.
pub struct Reader {
    connection: PgConnection,
    cursor: JournalPosition,
    rule: GateRule,
    limits: BatchLimits,
    next_limit: i64,
    /// Bytes of the next batch; at most those of `limits`.
    next_bytes: usize,
    kinds: Kinds,
    sequences: Sequences,
}

/// `name` will be the session's `application_name`. Sorting is switched off for the session: the rows come from one
/// index per partition, merged, and no estimate may ever turn that into a sort of the whole journal.
pub(super) fn session(database_url: &str, name: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(database_url)?
        .application_name(name)
        .options([
            ("default_transaction_isolation", "read committed"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_sort", "off"),
            ("enable_incremental_sort", "off"),
            ("jit", "off"),
        ])
        .disable_statement_logging())
}

/// Opens a session that plans as the reader needs it.
pub async fn connect(database_url: &str) -> Result<PgConnection, RelayError> {
    connect_as(database_url, "millrace-relay").await
}

/// The same under another `application_name`.
pub(crate) async fn connect_as(database_url: &str, name: &str) -> Result<PgConnection, RelayError> {
    let options = session(database_url, name)?;
    answer(async { Ok(options.connect().await?) }).await
}

/// Where a reader begins that wants what comes from now on: the last event below the gate.
pub async fn newest(connection: &mut PgConnection) -> Result<JournalPosition, RelayError> {
    answer(async {
        let gate = gate::look(connection, GateRule::JournalWriters).await?;
        let last: Option<(i32, i64, i64)> = sqlx::query_as(
            "SELECT e.generation, e.xid::text::bigint, e.position
             FROM millrace.events AS e
             WHERE (e.generation, e.xid) < ($1, ($2::bigint)::text::xid8)
             ORDER BY e.generation DESC, e.xid DESC, e.position DESC LIMIT 1",
        )
        .bind(gate.generation)
        .bind(gate.below)
        .fetch_optional(connection)
        .await?;
        let (generation, xid, position) = last.unwrap_or((gate.generation, 0, 0));
        Ok(JournalPosition {
            generation,
            xid,
            position,
        })
    })
    .await
}

/// The statement that reads rows; public so that a test can look at its plan and its result.
///
/// Its columns are qualified throughout: `ORDER BY xid` alone would sort by the TEXT of an output column of that
/// name, and lose rows where the number of digits grows.
///
/// `$6` bounds the rows, `$7` the bytes: rows end with the first that goes beyond. Rows alone are no bound, 5,000
/// events may be 4.5 GB. The lengths cost little: that of a payload stored out of line is known without reading it.
pub const ROWS: &str = "
SELECT b.generation, b.xid::text::bigint, b.position, b.aggregate_type, b.aggregate_id, b.sequence, b.event_id,
       b.event_type, b.schema_id, b.payload, nullif(b.headers::text, '{}'), b.occurred_at
FROM (
    SELECT l.*, sum(octet_length(l.payload)) OVER (
               ORDER BY l.generation, l.xid, l.position ROWS UNBOUNDED PRECEDING
           ) - octet_length(l.payload) AS bytes_before
    FROM (
        SELECT e.generation, e.xid, e.position, e.aggregate_type, e.aggregate_id, e.sequence, e.event_id,
               e.event_type, e.schema_id, e.payload, e.headers, e.occurred_at
        FROM millrace.events AS e
        WHERE (e.generation, e.xid, e.position) > ($1, ($2::bigint)::text::xid8, $3)
          AND (e.generation, e.xid) < ($4, ($5::bigint)::text::xid8)
        ORDER BY e.generation, e.xid, e.position LIMIT $6
    ) AS l
) AS b
WHERE b.bytes_before <= $7
ORDER BY b.generation, b.xid, b.position";

impl Reader {
    /// Reads on after `cursor`; every aggregate's sequence is checked from there.
    pub fn new(
        connection: PgConnection,
        cursor: JournalPosition,
        limits: BatchLimits,
        rule: GateRule,
    ) -> Self {
        Self {
            connection,
            cursor,
            rule,
            limits,
            next_limit: FIRST_BATCH.min(i64::from(limits.events_max)).max(1),
            next_bytes: limits.bytes_max,
            kinds: Kinds::default(),
            sequences: Sequences::default(),
        }
    }

    /// Begins with a small batch: for the reader after one whose read took too long, which would only take too
    /// long again. Batches grow from there.
    #[must_use]
    pub fn careful(mut self) -> Self {
        self.next_limit = self.next_limit.min(CAREFUL_BATCH);
        self.next_bytes = (self.limits.bytes_max / CAREFUL_PART).max(1);
        self
    }

    /// Key of the last row that was read.
    pub fn cursor(&self) -> JournalPosition {
        self.cursor
    }

    /// The next events, none if there are none below the gate. After an error the reader must be dropped.
    pub async fn next(&mut self) -> Result<Batch, RelayError> {
        answer(self.next_unbounded()).await
    }

    async fn next_unbounded(&mut self) -> Result<Batch, RelayError> {
        // Two statements, the gate first: see the module `gate`.
        let gate = gate::look(&mut self.connection, self.rule).await?;
        let (rows, full) = self.rows(&gate).await?;
        if rows.is_empty() {
            return Ok(Batch {
                events: Vec::new(),
                gate,
                full: false,
            });
        }
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            events.push(self.kinds.event(&mut self.connection, row).await?);
        }
        self.sequences.check(&mut self.connection, &events).await?;
        if let Some(last) = events.last() {
            self.cursor = last.position;
        }
        Ok(Batch { events, gate, full })
    }

    /// Rows after the cursor up to the limits; the second value says whether a limit was met.
    async fn rows(&mut self, gate: &Gate) -> Result<(Vec<PgRow>, bool), RelayError> {
        let (asked, bytes_max) = (self.next_limit, self.next_bytes);
        let mut stream = sqlx::query(ROWS)
            .bind(self.cursor.generation)
            .bind(self.cursor.xid)
            .bind(self.cursor.position)
            .bind(gate.generation)
            .bind(gate.below)
            .bind(asked)
            .bind(i64::try_from(bytes_max).unwrap_or(i64::MAX))
            .fetch(&mut self.connection);
        let mut rows: Vec<PgRow> = Vec::with_capacity(asked as usize);
        let (mut bytes, mut received, mut cut) = (0_usize, 0_i64, false);
        while let Some(row) = stream.try_next().await? {
            received += 1;
            let size = row.try_get::<&[u8], _>(9)?.len();
            // The last row may go beyond the limit: it shows that there is more, and is read again.
            cut = cut || (!rows.is_empty() && bytes + size > bytes_max);
            if !cut {
                bytes += size;
                rows.push(row);
            }
        }
        drop(stream);
        let full = received == asked || cut;
        if !rows.is_empty() {
            self.next_bytes = bytes_max.saturating_mul(2).min(self.limits.bytes_max);
            let average = (bytes / rows.len()).max(1);
            let fitting = i64::try_from(self.next_bytes / average).unwrap_or(i64::MAX);
            self.next_limit = fitting.clamp(1, i64::from(self.limits.events_max));
        }
        Ok((rows, full))
    }
}

/// No query of the relay may take long: a server that does not answer is lost.
pub(super) async fn answer<T>(
    work: impl Future<Output = Result<T, RelayError>>,
) -> Result<T, RelayError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(RelayError::PostgresTimeout(
            ANSWER_TIMEOUT.as_millis() as u64
        )),
    }
}

/// What events of a schema have in common, looked up once. As small as the set of schemas.
#[derive(Default)]
struct Kinds {
    by_schema: HashMap<i32, Vec<Known>>,
}

struct Known {
    aggregate_type: Arc<str>,
    event_type: String,
    kind: Arc<EventKind>,
}

impl Kinds {
    async fn event(
        &mut self,
        connection: &mut PgConnection,
        row: &PgRow,
    ) -> Result<JournalEvent, RelayError> {
        let position = JournalPosition {
            generation: row.try_get(0)?,
            xid: row.try_get(1)?,
            position: row.try_get(2)?,
        };
        let (aggregate_type, event_type): (&str, &str) = (row.try_get(3)?, row.try_get(7)?);
        let schema_id: i32 = row.try_get(8)?;
        let event_id: Uuid = row.try_get(6)?;
        let (aggregate_type, kind) = match self.known(schema_id, aggregate_type, event_type) {
            Some(known) => (Arc::clone(&known.aggregate_type), Arc::clone(&known.kind)),
            None => {
                let version = schema_version(connection, schema_id, aggregate_type, event_type)
                    .await?
                    .ok_or_else(|| RelayError::SchemaUnknown {
                        event_id,
                        position,
                        schema_id,
                        record: event_type.to_owned(),
                        aggregate_type: aggregate_type.to_owned(),
                    })?;
                self.learn(schema_id, aggregate_type, event_type, version)
            }
        };
        Ok(JournalEvent {
            position,
            kind,
            aggregate_type,
            aggregate_id: row.try_get(4)?,
            sequence: row.try_get(5)?,
            event_id,
            payload: row.try_get(9)?,
            headers: row.try_get(10)?,
            occurred_at: row.try_get(11)?,
        })
    }

    fn known(&self, schema_id: i32, aggregate_type: &str, event_type: &str) -> Option<&Known> {
        self.by_schema.get(&schema_id)?.iter().find(|known| {
            known.event_type == event_type && known.aggregate_type.as_ref() == aggregate_type
        })
    }

    fn learn(
        &mut self,
        schema_id: i32,
        aggregate_type: &str,
        event_type: &str,
        version: i32,
    ) -> (Arc<str>, Arc<EventKind>) {
        let kind = Arc::new(EventKind {
            topic: events_topic(aggregate_type),
            ce_type: ce_type(aggregate_type, event_type),
            schema_version: version.to_string(),
        });
        let name: Arc<str> = Arc::from(aggregate_type);
        self.by_schema.entry(schema_id).or_default().push(Known {
            aggregate_type: Arc::clone(&name),
            event_type: event_type.to_owned(),
            kind: Arc::clone(&kind),
        });
        (name, kind)
    }
}

/// Number of the schema file; its subject is `<topic>-<namespace>.<record>`.
async fn schema_version(
    connection: &mut PgConnection,
    schema_id: i32,
    aggregate_type: &str,
    record: &str,
) -> Result<Option<i32>, RelayError> {
    let subjects: Vec<(String, Option<i32>)> =
        sqlx::query_as("SELECT s.subject, s.version FROM millrace.schemas AS s WHERE s.id = $1")
            .bind(schema_id)
            .fetch_all(connection)
            .await?;
    let prefix = format!("{}-", events_topic(aggregate_type));
    let of_record = |subject: &str| {
        let name = subject.strip_prefix(&prefix)?;
        Some(name.rsplit('.').next() == Some(record))
    };
    Ok(subjects
        .into_iter()
        .find(|(subject, _)| of_record(subject) == Some(true))
        .and_then(|(_, version)| version))
}
