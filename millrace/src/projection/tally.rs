//! Numbers added under any key: what one aggregate's events change is not one aggregate's row.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, PgConnection};

use crate::event::{Event, Recorded};
use crate::projection::apply::{self, Write, WriteError, Written};
use crate::projection::projector::source;
use crate::projection::{
    Applied, ApplyError, BoxFuture, Build, Column, Decoder, Poison, Projector, Record, Start,
    TallyRow, ViewRow,
};

/// A view that adds numbers up under a key of its own.
///
/// Its table has, beside the row's own columns, `source text`; the primary key is the row's key and
/// `source`. Each source partition keeps a partial sum of its own, so that partitions never write the same
/// row and one of them can be rebuilt alone; the SQL view adds the partial sums up. An addition cannot be
/// recognised as a repeat by its row: exactly-once rests on the checkpoint and on the relay.
pub trait Tally: Send + Sync + 'static {
    /// The view's name in kebab case: unique, and the same in every release.
    const NAME: &'static str;
    /// Where it starts.
    const START: Start;
    /// Its table and its SQL view; see [`Projector::sql`].
    const SQL: &'static str;
    /// The events that it follows.
    type Event: Event;
    /// What is added.
    type Row: TallyRow;

    /// What an event adds. Pure: no clock, no I/O.
    fn add(&self, event: &Recorded<Self::Event>) -> Result<Vec<Self::Row>, Poison>;
}

/// Erases a tally.
pub fn tally<T: Tally>(view: T) -> Box<dyn Projector> {
    Box::new(TallyProjector(view))
}

struct TallyProjector<T>(T);

type Sums<R> = BTreeMap<(<R as ViewRow>::Key, String), R>;

impl<T: Tally> TallyProjector<T> {
    fn add_up(
        &self,
        events: &[&Recorded<T::Event>],
    ) -> Result<(Sums<T::Row>, Written), WriteError> {
        let mut sums: Sums<T::Row> = BTreeMap::new();
        let mut poison = Vec::new();
        let mut overflow = false;
        for (index, event) in events.iter().enumerate() {
            let rows = match self.0.add(event) {
                Ok(rows) => rows,
                Err(reason) => {
                    poison.push((index, reason.to_string()));
                    continue;
                }
            };
            for row in rows {
                let key = (row.key(), source(&event.topic, event.partition));
                match sums.get_mut(&key) {
                    Some(sum) => overflow |= sum.add(&row).is_none(),
                    None => {
                        sums.insert(key, row);
                    }
                }
            }
        }
        if !poison.is_empty() {
            return Err(WriteError::Poison(poison));
        }
        if overflow {
            return Err(WriteError::Data("a number grew too large".to_owned()));
        }
        let written = Written {
            applied: events.len(),
            ..Written::default()
        };
        Ok((sums, written))
    }
}

fn upsert<R: ViewRow>(schema: &str) -> String {
    let table = R::TABLE;
    let mut names = "source".to_owned();
    let mut arrays = "$1::text[]".to_owned();
    let mut key = "source".to_owned();
    let mut set = String::new();
    for (index, Column { name, pg_type }) in R::COLUMNS.iter().enumerate() {
        let _ = write!(names, ", {name}");
        let _ = write!(arrays, ", ${}::{pg_type}[]", index + 2);
        if R::KEY.contains(name) {
            let _ = write!(key, ", {name}");
        } else {
            let comma = if set.is_empty() { "" } else { ", " };
            let _ = write!(set, "{comma}{name} = {table}.{name} + excluded.{name}");
        }
    }
    format!(
        "INSERT INTO {schema}.{table} ({names}) SELECT * FROM unnest({arrays})
         ON CONFLICT ({key}) DO UPDATE SET {set}"
    )
}

impl<T: Tally> Write for TallyProjector<T> {
    type Payload = T::Event;

    fn write<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        events: &'a [&'a Recorded<T::Event>],
    ) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(async move {
            let (sums, written) = self.add_up(events)?;
            if sums.is_empty() {
                return Ok(written);
            }
            let sources: Vec<&str> = sums.keys().map(|(_, source)| source.as_str()).collect();
            let rows: Vec<&T::Row> = sums.values().collect();
            let mut arguments = PgArguments::default();
            arguments.add(sources).map_err(sqlx::Error::Encode)?;
            T::Row::bind(&rows, &mut arguments).map_err(sqlx::Error::Encode)?;
            sqlx::query_with(AssertSqlSafe(upsert::<T::Row>(&build.schema)), arguments)
                .execute(&mut *tx)
                .await?;
            Ok(written)
        })
    }
}

impl<T: Tally> Projector for TallyProjector<T> {
    fn name(&self) -> &str {
        T::NAME
    }

    fn topics(&self) -> Vec<String> {
        vec![T::Event::topic()]
    }

    fn start(&self) -> Start {
        T::START
    }

    fn sql(&self) -> &str {
        T::SQL
    }

    fn absorbs_repeats(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<(String, String, String)> {
        std::iter::once(("source", "text"))
            .chain(
                T::Row::COLUMNS
                    .iter()
                    .map(|column| (column.name, column.pg_type)),
            )
            .map(|(name, pg_type)| {
                (
                    T::Row::TABLE.to_owned(),
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

    // A sum has no aggregate whose row could be marked.
    fn pass_over<'a>(
        &'a self,
        _tx: &'a mut PgConnection,
        _build: &'a Build,
        _record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(async { Ok(()) })
    }
}
