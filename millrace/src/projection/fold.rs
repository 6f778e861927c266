//! The default kind: a pure function over the rows that one aggregate owns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Row};

use crate::event::{Event, Recorded};
use crate::projection::apply::{self, Write, WriteError, Written};
use crate::projection::projector::source;
use crate::projection::{
    Applied, ApplyError, BoxFuture, Build, Column, Decoder, Poison, Projector, Record, RowSet,
    Start, ViewRow,
};

/// A view whose rows each belong to one aggregate.
///
/// Its table has, beside the row's own columns, `aggregate_id text`, `source text`, `version bigint` and
/// `incomplete boolean`, all filled by the sink. The primary key is `aggregate_id` where [`Rows`](Self::Rows)
/// is an `Option`, else `aggregate_id` and the row's key. A row's `version` is the sequence of the event that wrote it last. An
/// event is applied once: only if its sequence is above the version that the aggregate is at.
pub trait Fold: Send + Sync + 'static {
    /// The view's name in kebab case: unique, and the same in every release.
    const NAME: &'static str;
    /// Where it starts.
    const START: Start;
    /// Its tables and its SQL view; see [`Projector::sql`].
    const SQL: &'static str;
    /// The events that it follows.
    type Event: Event;
    /// `Option<Row>` or [`Rows<Row>`](crate::projection::Rows).
    type Rows: RowSet;

    /// Applies an event to the rows of its aggregate. Pure: no clock, no I/O.
    fn evolve(&self, rows: &mut Self::Rows, event: &Recorded<Self::Event>) -> Result<(), Poison>;
}

/// Erases a fold.
pub fn fold<F: Fold>(view: F) -> Box<dyn Projector> {
    Box::new(FoldProjector(view))
}

struct FoldProjector<F>(F);

type RowOf<F> = <<F as Fold>::Rows as RowSet>::Row;

/// An aggregate in memory while a batch is applied.
struct State<R> {
    rows: R,
    version: i64,
    incomplete: bool,
    source: String,
    /// It has a row in `aggregate_versions`.
    versioned: bool,
    /// It has rows in the author's table.
    stored: bool,
    changed: bool,
}

impl<R: RowSet> State<R> {
    fn new(source: String) -> Self {
        Self {
            rows: R::default(),
            version: 0,
            incomplete: false,
            source,
            versioned: false,
            stored: false,
            changed: false,
        }
    }
}

/// What the guard says of an event.
#[derive(Debug, PartialEq, Eq)]
enum Guard {
    Apply,
    Repeat,
    Gap,
}

/// Invariant: an event changes rows only if it follows the one that changed them last. A repeat in the
/// topic would be applied twice without it (a re-published batch after a relay's crash).
fn guard(version: i64, sequence: i64) -> Guard {
    fail::fail_point!("sabotage.fold.guard", |_| Guard::Apply);
    if sequence <= version {
        Guard::Repeat
    } else if sequence == version + 1 {
        Guard::Apply
    } else {
        Guard::Gap
    }
}

impl<F: Fold> FoldProjector<F> {
    async fn load<'e>(
        tx: &mut PgConnection,
        build: &Build,
        events: &[&'e Recorded<F::Event>],
    ) -> Result<BTreeMap<&'e str, State<F::Rows>>, sqlx::Error> {
        let mut states: BTreeMap<&'e str, State<F::Rows>> = BTreeMap::new();
        for event in events {
            states
                .entry(event.aggregate_id.as_str())
                .or_insert_with(|| State::new(source(&event.topic, event.partition)));
        }
        let ids: Vec<&str> = states.keys().copied().collect();
        for row in sqlx::query(AssertSqlSafe(select::<RowOf<F>>(&build.schema)))
            .bind(&ids)
            .fetch_all(&mut *tx)
            .await?
        {
            let Some(state) = state_of(&mut states, &row)? else {
                continue;
            };
            state.stored = true;
            state.rows.load(RowOf::<F>::read(&row, 3)?);
        }
        // One row an aggregate carries the version itself; only where there is no row can it stand here.
        let rowless: Vec<&str> = states
            .iter()
            .filter(|(_, state)| !(F::Rows::SINGLE && state.stored))
            .map(|(id, _)| *id)
            .collect();
        if !rowless.is_empty() {
            let versions = format!(
                "SELECT aggregate_id, version, incomplete FROM {}.aggregate_versions
                 WHERE aggregate_id = ANY($1)",
                build.schema
            );
            for row in sqlx::query(AssertSqlSafe(versions))
                .bind(&rowless)
                .fetch_all(&mut *tx)
                .await?
            {
                if let Some(state) = state_of(&mut states, &row)? {
                    state.versioned = true;
                }
            }
        }
        Ok(states)
    }

    /// Folds in memory; nothing is written unless every event is good or known to be repeated.
    fn evolve<'e>(
        &self,
        build: &Build,
        states: &mut BTreeMap<&'e str, State<F::Rows>>,
        events: &[&'e Recorded<F::Event>],
    ) -> Result<Written, WriteError> {
        let mut written = Written::default();
        let mut poisoned: BTreeSet<&str> = BTreeSet::new();
        let mut poison = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let id = event.aggregate_id.as_str();
            if poisoned.contains(id) {
                continue;
            }
            let state = states
                .get_mut(id)
                .expect("every event's aggregate was loaded");
            match guard(state.version, event.sequence) {
                Guard::Repeat => {
                    written.repeated += 1;
                    continue;
                }
                Guard::Gap if skipped_before(build, event) => {
                    written.incomplete += usize::from(!state.incomplete);
                    state.incomplete = true;
                }
                Guard::Gap => return Err(gap(state.version, event)),
                Guard::Apply => {}
            }
            state.rows.begin(event.sequence);
            match self.0.evolve(&mut state.rows, event) {
                Ok(()) => {
                    state.version = event.sequence;
                    state.changed = true;
                    written.applied += 1;
                }
                Err(reason) => {
                    poisoned.insert(id);
                    poison.push((index, reason.to_string()));
                }
            }
        }
        if poison.is_empty() {
            Ok(written)
        } else {
            Err(WriteError::Poison(poison))
        }
    }

    async fn store(
        tx: &mut PgConnection,
        build: &Build,
        states: &BTreeMap<&str, State<F::Rows>>,
    ) -> Result<(), sqlx::Error> {
        let changed = || states.iter().filter(|(_, state)| state.changed);
        let mut owners = Owners::default();
        let mut rows: Vec<&RowOf<F>> = Vec::new();
        for (id, state) in changed() {
            for (row, version) in state.rows.written() {
                owners.push(id, state, version.unwrap_or(state.version));
                rows.push(row);
            }
        }
        if !rows.is_empty() {
            let mut arguments = owners.bind()?;
            RowOf::<F>::bind(&rows, &mut arguments).map_err(sqlx::Error::Encode)?;
            sqlx::query_with(AssertSqlSafe(upsert::<RowOf<F>>(&build.schema)), arguments)
                .execute(&mut *tx)
                .await?;
        }
        Self::delete(tx, build, states).await?;
        Self::store_versions(tx, build, states).await
    }

    async fn delete(
        tx: &mut PgConnection,
        build: &Build,
        states: &BTreeMap<&str, State<F::Rows>>,
    ) -> Result<(), sqlx::Error> {
        let table = format!("{}.{}", build.schema, RowOf::<F>::TABLE);
        if F::Rows::SINGLE {
            let gone: Vec<&str> = states
                .iter()
                .filter(|(_, state)| {
                    state.changed && state.stored && state.rows.written().is_empty()
                })
                .map(|(id, _)| *id)
                .collect();
            if !gone.is_empty() {
                let delete = format!("DELETE FROM {table} WHERE aggregate_id = ANY($1)");
                sqlx::query(AssertSqlSafe(delete))
                    .bind(gone)
                    .execute(&mut *tx)
                    .await?;
            }
            return Ok(());
        }
        for (id, state) in states.iter().filter(|(_, state)| state.changed) {
            for key in state.rows.removed() {
                let mut delete = format!("DELETE FROM {table} WHERE aggregate_id = $1");
                for (index, column) in RowOf::<F>::KEY.iter().enumerate() {
                    let _ = write!(delete, " AND {column} = ${}", index + 2);
                }
                let mut arguments = PgArguments::default();
                arguments.add(*id).map_err(sqlx::Error::Encode)?;
                <RowOf<F> as ViewRow>::bind_key(&key, &mut arguments)
                    .map_err(sqlx::Error::Encode)?;
                sqlx::query_with(AssertSqlSafe(delete), arguments)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        Ok(())
    }

    /// Where an aggregate owns no row, or can own several, its version stands in a table beside them.
    async fn store_versions(
        tx: &mut PgConnection,
        build: &Build,
        states: &BTreeMap<&str, State<F::Rows>>,
    ) -> Result<(), sqlx::Error> {
        let mut owners = Owners::default();
        let mut superfluous = Vec::new();
        for (id, state) in states.iter().filter(|(_, state)| state.changed) {
            if !F::Rows::SINGLE || state.rows.written().is_empty() {
                owners.push(id, state, state.version);
            } else if state.versioned {
                superfluous.push(*id);
            }
        }
        if !owners.ids.is_empty() {
            let upsert = format!(
                "INSERT INTO {}.aggregate_versions (aggregate_id, source, version, incomplete)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[])
                 ON CONFLICT (aggregate_id) DO UPDATE
                 SET version = excluded.version, incomplete = excluded.incomplete",
                build.schema
            );
            sqlx::query_with(AssertSqlSafe(upsert), owners.bind()?)
                .execute(&mut *tx)
                .await?;
        }
        if !superfluous.is_empty() {
            let delete = format!(
                "DELETE FROM {}.aggregate_versions WHERE aggregate_id = ANY($1)",
                build.schema
            );
            sqlx::query(AssertSqlSafe(delete))
                .bind(superfluous)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

fn state_of<'s, R>(
    states: &'s mut BTreeMap<&str, State<R>>,
    row: &PgRow,
) -> Result<Option<&'s mut State<R>>, sqlx::Error> {
    let id: &str = row.try_get(0)?;
    let Some(state) = states.get_mut(id) else {
        return Ok(None);
    };
    state.version = state.version.max(row.try_get(1)?);
    state.incomplete |= row.try_get::<bool, _>(2)?;
    Ok(Some(state))
}

/// The four columns of the sink, one array each, in key order: equal lock order for all writers.
#[derive(Default)]
struct Owners<'s> {
    ids: Vec<&'s str>,
    sources: Vec<&'s str>,
    versions: Vec<i64>,
    incomplete: Vec<bool>,
}

impl<'s> Owners<'s> {
    fn push<R>(&mut self, id: &'s str, state: &'s State<R>, version: i64) {
        self.ids.push(id);
        self.sources.push(&state.source);
        self.versions.push(version);
        self.incomplete.push(state.incomplete);
    }

    fn bind(&self) -> Result<PgArguments, sqlx::Error> {
        let mut arguments = PgArguments::default();
        arguments
            .add(&self.ids)
            .and_then(|()| arguments.add(&self.sources))
            .and_then(|()| arguments.add(&self.versions))
            .and_then(|()| arguments.add(&self.incomplete))
            .map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }
}

fn select<R: ViewRow>(schema: &str) -> String {
    let mut sql = "SELECT aggregate_id, version, incomplete".to_owned();
    for column in R::COLUMNS {
        let _ = write!(sql, ", {}", column.name);
    }
    let _ = write!(
        sql,
        " FROM {schema}.{} WHERE aggregate_id = ANY($1)",
        R::TABLE
    );
    sql
}

fn upsert<R: ViewRow>(schema: &str) -> String {
    let mut names = "aggregate_id, source, version, incomplete".to_owned();
    let mut arrays = "$1::text[], $2::text[], $3::bigint[], $4::boolean[]".to_owned();
    let mut set = "version = excluded.version, incomplete = excluded.incomplete".to_owned();
    for (index, Column { name, pg_type }) in R::COLUMNS.iter().enumerate() {
        let _ = write!(names, ", {name}");
        let _ = write!(arrays, ", ${}::{pg_type}[]", index + 5);
        if !R::KEY.contains(name) {
            let _ = write!(set, ", {name} = excluded.{name}");
        }
    }
    let mut key = "aggregate_id".to_owned();
    for column in R::KEY {
        let _ = write!(key, ", {column}");
    }
    format!(
        "INSERT INTO {schema}.{} ({names}) SELECT * FROM unnest({arrays})
         ON CONFLICT ({key}) DO UPDATE SET {set}",
        R::TABLE
    )
}

/// The relay publishes without gaps, so one that lies behind a recorded skip comes from the skip.
fn skipped_before<E>(build: &Build, event: &Recorded<E>) -> bool {
    build.skips.iter().any(|skip| {
        skip.topic == event.topic && skip.partition == event.partition && skip.to <= event.offset
    })
}

fn gap<E>(version: i64, event: &Recorded<E>) -> WriteError {
    WriteError::Apply(ApplyError::Stop {
        topic: event.topic.clone(),
        partition: event.partition,
        offset: event.offset,
        reason: format!(
            "event {} of aggregate {} follows {version}: events between them are missing from the \
             topic; compare with `millrace events`, and if they are lost on purpose, reset the group \
             forwards over this offset, from the checkpoint to the one after it",
            event.sequence, event.aggregate_id
        ),
    })
}

impl<F: Fold> Write for FoldProjector<F> {
    type Payload = F::Event;

    fn write<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        events: &'a [&'a Recorded<F::Event>],
    ) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(async move {
            let mut states = Self::load(tx, build, events).await?;
            let written = self.evolve(build, &mut states, events)?;
            Self::store(tx, build, &states).await?;
            Ok(written)
        })
    }
}

impl<F: Fold> Projector for FoldProjector<F> {
    fn name(&self) -> &str {
        F::NAME
    }

    fn topics(&self) -> Vec<String> {
        vec![F::Event::topic()]
    }

    fn start(&self) -> Start {
        F::START
    }

    fn sql(&self) -> &str {
        F::SQL
    }

    fn library_sql(&self) -> &'static str {
        "CREATE TABLE aggregate_versions (
             aggregate_id text COLLATE \"C\" PRIMARY KEY,
             source       text NOT NULL,
             version      bigint NOT NULL,
             incomplete   boolean NOT NULL
         )"
    }

    fn columns(&self) -> Vec<(String, String, String)> {
        let own = [
            ("aggregate_id", "text"),
            ("source", "text"),
            ("version", "bigint"),
            ("incomplete", "boolean"),
        ];
        own.into_iter()
            .chain(
                RowOf::<F>::COLUMNS
                    .iter()
                    .map(|column| (column.name, column.pg_type)),
            )
            .map(|(name, pg_type)| {
                (
                    RowOf::<F>::TABLE.to_owned(),
                    name.to_owned(),
                    pg_type.to_owned(),
                )
            })
            .collect()
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
        tx: &'a mut PgConnection,
        build: &'a Build,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(async move {
            let Ok(envelope) = &record.envelope else {
                return Ok(());
            };
            let id = envelope.aggregate_id.as_str();
            let update = format!(
                "UPDATE {}.{} SET version = $2, incomplete = true WHERE aggregate_id = $1",
                build.schema,
                RowOf::<F>::TABLE
            );
            let rows = sqlx::query(AssertSqlSafe(update))
                .bind(id)
                .bind(envelope.sequence)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if rows == 0 || !F::Rows::SINGLE {
                let upsert = format!(
                    "INSERT INTO {}.aggregate_versions (aggregate_id, source, version, incomplete)
                     VALUES ($1, $2, $3, true)
                     ON CONFLICT (aggregate_id) DO UPDATE
                     SET version = excluded.version, incomplete = true",
                    build.schema
                );
                sqlx::query(AssertSqlSafe(upsert))
                    .bind(id)
                    .bind(source(&record.topic, record.partition))
                    .bind(envelope.sequence)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_takes_the_next_event_only() {
        assert_eq!(guard(0, 1), Guard::Apply);
        assert_eq!(guard(7, 8), Guard::Apply);
        assert_eq!(guard(7, 7), Guard::Repeat);
        assert_eq!(guard(7, 3), Guard::Repeat);
        assert_eq!(guard(7, 9), Guard::Gap);
    }
}
