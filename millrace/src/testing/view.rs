//! A view on a real Postgres, without Kafka: events in, rows out, and the last event twice.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use uuid::Uuid;

use crate::codec::{Codec, Schema, Writer};
use crate::event::Event;
use crate::log::headers;
use crate::position::JournalPosition;
use crate::projection::{
    BoxFuture, Build, Decoder, HeaderBlock, LearnError, Projector, Record, SchemaSource, builds,
};
use crate::registry::SchemaSet;

/// A view under test, in a transaction that is never committed.
pub struct ViewTest {
    conn: PgConnection,
    projector: Box<dyn Projector>,
    build: Build,
    decoder: Decoder,
    codec: Codec,
    sequences: HashMap<(&'static str, String), i64>,
    offset: i64,
    now: DateTime<Utc>,
}

/// All schemas are known from the start.
struct NoOthers;

impl SchemaSource for NoOthers {
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>> {
        Box::pin(async move { Err(LearnError::Unknown(schema_id.to_string())) })
    }
}

/// What a test fails with.
pub type TestError = Box<dyn std::error::Error + Send + Sync>;

impl ViewTest {
    /// Creates the view's tables in the database of this URL; they are gone when the test ends.
    pub async fn start(
        database_url: &str,
        projector: Box<dyn Projector>,
        schemas: &[SchemaSet],
    ) -> Result<Self, TestError> {
        let mut conn = PgConnectOptions::from_str(database_url)?.connect().await?;
        builds::migrate(&mut conn).await?;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await?;
        // Nobody else's build has this number, in case the database is one that is in use.
        let number = i32::MAX;
        let schema = builds::create(&mut conn, &*projector, number).await?;
        builds::publish(&mut conn, &*projector, &schema).await?;
        let codec = codec_of(schemas)?;
        Ok(Self {
            build: Build {
                view: projector.name().to_owned(),
                number,
                schema,
                skips: Vec::new(),
                parked_max: 1_000,
            },
            conn,
            projector,
            decoder: Decoder::new(codec.clone(), Arc::new(NoOthers)),
            codec,
            sequences: HashMap::new(),
            offset: 0,
            now: DateTime::UNIX_EPOCH,
        })
    }

    /// Time of the events that follow; the epoch until it is set.
    pub fn at(&mut self, now: DateTime<Utc>) {
        self.now = now;
    }

    /// Applies the aggregate's next events, in one batch, and the last of them a second time: a view
    /// that absorbs repeats must then show the same rows.
    ///
    /// An error if an event was parked, with the view's reason.
    pub async fn given<E: Event>(&mut self, id: &str, events: Vec<E>) -> Result<(), TestError> {
        let mut records = Vec::with_capacity(events.len());
        for event in &events {
            records.push(self.record(id, event)?);
        }
        self.apply(&records).await?;
        let Some(last) = records.last().filter(|_| self.projector.absorbs_repeats()) else {
            return Ok(());
        };
        let before = self.rows().await?;
        self.apply(std::slice::from_ref(last)).await?;
        let after = self.rows().await?;
        if before != after {
            return Err(format!(
                "the last event was applied twice and the rows changed\nonce:  {before:#?}\ntwice: {after:#?}"
            )
            .into());
        }
        Ok(())
    }

    /// The view's rows as JSON objects, ordered by their columns from left to right.
    pub async fn rows(&mut self) -> Result<Vec<Value>, TestError> {
        let select = format!(
            "SELECT to_jsonb(shown) FROM (SELECT * FROM {}.{} AS it ORDER BY it) AS shown",
            builds::VIEWS_SCHEMA,
            self.projector.view_name()
        );
        Ok(sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_all(&mut self.conn)
            .await?)
    }

    async fn apply(&mut self, records: &[Record]) -> Result<(), TestError> {
        let applied = self
            .projector
            .apply(&mut self.conn, &self.build, &self.decoder, records)
            .await?;
        if applied.parked == 0 {
            return Ok(());
        }
        let reason: String = sqlx::query_scalar(
            "SELECT aggregate_id || ': ' || reason FROM millrace_views.parked
             WHERE view = $1 AND build = $2 ORDER BY parked_at LIMIT 1",
        )
        .bind(&self.build.view)
        .bind(self.build.number)
        .fetch_one(&mut self.conn)
        .await?;
        Err(format!("parked: {reason}").into())
    }

    fn record<E: Event>(&mut self, id: &str, event: &E) -> Result<Record, TestError> {
        let sequence = self
            .sequences
            .entry((E::AGGREGATE, id.to_owned()))
            .or_default();
        *sequence += 1;
        let position = JournalPosition {
            generation: 1,
            xid: 1,
            position: self.offset + 1,
        };
        let mut block = HeaderBlock::default();
        for (name, value) in [
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TIME, headers::time(self.now)),
            (headers::SEQUENCE, sequence.to_string()),
            (headers::SCHEMA_VERSION, "1".to_owned()),
            (headers::POSITION, position.to_string()),
        ] {
            block.push(name, Some(value.as_bytes()));
        }
        let (_, payload) = self.codec.encode(event)?;
        let record = Record::new(
            (E::topic().into(), 0, self.offset),
            Some(id.as_bytes().to_vec()),
            Some(payload),
            block,
        );
        self.offset += 1;
        Ok(record)
    }
}

/// A codec for these schemas with ids of its own: no registry is asked.
fn codec_of(sets: &[SchemaSet]) -> Result<Codec, TestError> {
    let mut writers = HashMap::new();
    let mut readers = Vec::new();
    for set in sets {
        for schema in set.schemas {
            let schema_id = readers.len() as u32 + 1;
            readers.push((schema_id, schema.json));
            if !schema.retired {
                let writer = Writer {
                    schema_id,
                    version: schema.version,
                    schema: Schema::parse_str(schema.json)?,
                };
                writers.insert((set.aggregate, schema.record), writer);
            }
        }
    }
    let codec = Codec::new(writers);
    for (schema_id, json) in readers {
        codec.add_reader(schema_id, json)?;
    }
    Ok(codec)
}
