//! Appending: one statement for many commands, with a compare-and-set for each aggregate.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use fail::fail_point;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{FromRow, PgConnection, Postgres};
use uuid::Uuid;

use crate::position::JournalPosition;

/// New events of one aggregate, all or none of which are appended.
#[derive(Debug, Default)]
pub(crate) struct Append {
    pub(crate) aggregate_id: String,
    /// Version that the decisions rest on; 0 for a new aggregate.
    pub(crate) expected: i64,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) outcomes: Vec<NewOutcome>,
    /// Timers by name: what is pending of the name ends, and what is given is set.
    pub(crate) timers: BTreeMap<&'static str, Option<NewTimer>>,
}

/// A timer that an event sets.
#[derive(Debug)]
pub(crate) struct NewTimer {
    pub(crate) timer_id: Uuid,
    pub(crate) due_at: DateTime<Utc>,
    pub(crate) command_type: &'static str,
    pub(crate) command_id: String,
    pub(crate) payload: Vec<u8>,
    /// JSON object, as of the event that sets it.
    pub(crate) headers: String,
}

/// An event that has not been appended yet; its sequence follows from its place.
#[derive(Debug)]
pub(crate) struct NewEvent {
    pub(crate) id: Uuid,
    pub(crate) event_type: &'static str,
    pub(crate) schema_id: u32,
    pub(crate) payload: Vec<u8>,
    /// JSON object of correlationid, causationid, tenantid, traceparent.
    pub(crate) headers: String,
    pub(crate) occurred_at: DateTime<Utc>,
}

/// The outcome of a command that must answer the same when it comes again.
#[derive(Debug, Clone)]
pub(crate) struct NewOutcome {
    pub(crate) command_id: String,
    pub(crate) command_type: String,
    pub(crate) data_hash: Vec<u8>,
    /// Version after the command.
    pub(crate) version: i64,
    pub(crate) events: i32,
    pub(crate) rejection: Option<String>,
}

/// Where the appended events stand, by aggregate id: position of sequence `expected + 1 + n` at index n.
///
/// An aggregate that is missing lost its compare-and-set: nothing of it was written.
pub(crate) type Appended = HashMap<String, Vec<JournalPosition>>;

#[derive(FromRow)]
struct AppendedRow {
    aggregate_id: String,
    generation: i32,
    xid: i64,
    position: i64,
}

// The update's condition sees the version before the append as `excluded.version - excluded.appended`. The
// positions are handed out in the order of `ord`, so they follow the sequence within an aggregate.
const APPEND: &str = "
WITH won AS (
    INSERT INTO millrace.streams AS s (aggregate_type, aggregate_id, version, appended)
    SELECT $1, i.id, i.expected + i.n, i.n
    FROM unnest($2::text[], $3::bigint[], $4::int[]) AS i (id, expected, n)
    ORDER BY i.id
    ON CONFLICT (aggregate_type, aggregate_id)
    DO UPDATE SET version = excluded.version, appended = excluded.appended
    WHERE s.version = excluded.version - excluded.appended
    RETURNING s.aggregate_id
), outcomes AS (
    INSERT INTO millrace.commands
        (aggregate_type, aggregate_id, command_id, command_type, data_hash, version, events)
    SELECT $1, o.id, o.command_id, o.command_type, o.hash, o.version, o.events
    FROM unnest($5::text[], $6::text[], $7::text[], $8::bytea[], $9::bigint[], $10::int[])
        AS o (id, command_id, command_type, hash, version, events)
    JOIN won ON won.aggregate_id = o.id
    /*on-conflict*/
)/*timers*/
INSERT INTO millrace.events
    (generation, aggregate_type, aggregate_id, sequence, event_id, event_type, schema_id,
     payload, headers, occurred_at)
SELECT (SELECT generation FROM millrace.journal), $1, e.id, e.sequence, e.event_id, e.event_type,
       e.schema_id, e.payload, e.headers::jsonb, e.occurred_at
FROM unnest($11::text[], $12::bigint[], $13::uuid[], $14::text[], $15::int[],
            $16::bytea[], $17::text[], $18::timestamptz[])
     WITH ORDINALITY
     AS e (id, sequence, event_id, event_type, schema_id, payload, headers, occurred_at, ord)
JOIN won ON won.aggregate_id = e.id
ORDER BY e.ord
RETURNING aggregate_id, generation, xid::text::bigint AS xid, position";

// Only where timers change, which most appends do not. A timer whose own command is among the outcomes has fired, whatever
// else its event says of it. Timers of versions up to the expected one are visible: they were committed before the state was
// loaded that this append rests on. `changed` is a table of its own: joined with the look-ups in one query, they were repeated
// for rows of `won` (decision 0010).
const TIMERS: &str = ", changed AS MATERIALIZED (
    SELECT c.id, c.name FROM unnest($19::text[], $20::text[]) AS c (id, name)
    JOIN won ON won.aggregate_id = c.id
), ended AS (
    UPDATE millrace.timers AS t
    SET ended_at = now(), state = CASE
        WHEN EXISTS (SELECT FROM unnest($5::text[], $6::text[]) AS f (id, command_id)
                     WHERE f.id = t.aggregate_id AND f.command_id = t.command_id)
        THEN 'fired' ELSE 'cancelled' END
    WHERE t.timer_id = ANY (ARRAY(
        SELECT p.timer_id FROM changed AS c, LATERAL (
            SELECT timer_id FROM millrace.timers
            WHERE aggregate_type = $1 AND aggregate_id = c.id AND name = c.name AND state = 'pending'
            ORDER BY timer_id
        ) AS p
    )) AND t.state = 'pending'
), set_timers AS (
    INSERT INTO millrace.timers
        (timer_id, aggregate_type, aggregate_id, name, due_at, command_type, command_id, payload, headers)
    SELECT n.timer_id, $1, n.id, n.name, n.due_at, n.command_type, n.command_id, n.payload, n.headers::jsonb
    FROM unnest($21::text[], $22::text[], $23::uuid[], $24::timestamptz[], $25::text[],
                $26::text[], $27::bytea[], $28::text[])
        AS n (id, name, timer_id, due_at, command_type, command_id, payload, headers)
    JOIN won ON won.aggregate_id = n.id
)";

/// Takes the compare-and-set out, for the crash test to show that it would be missed.
fn statement() -> std::borrow::Cow<'static, str> {
    fail_point!("sabotage.journal.compare-and-set", |_| APPEND
        .replace("WHERE s.version = excluded.version - excluded.appended", "")
        .into());
    fail_point!("sabotage.journal.outcomes", |_| APPEND
        .replace("/*on-conflict*/", "ON CONFLICT DO NOTHING")
        .into());
    APPEND.into()
}

/// Appends what wins its compare-and-set, in one transaction with its outcomes.
///
/// The connection must be the writer's own and outside a transaction.
pub(crate) async fn append(
    connection: &mut PgConnection,
    aggregate_type: &str,
    appends: &[Append],
) -> Result<Appended, sqlx::Error> {
    let ids: Vec<&str> = appends
        .iter()
        .map(|one| one.aggregate_id.as_str())
        .collect();
    let expected: Vec<i64> = appends.iter().map(|one| one.expected).collect();
    let counts: Vec<i32> = appends.iter().map(|one| one.events.len() as i32).collect();
    let outcomes = || {
        appends
            .iter()
            .flat_map(|one| one.outcomes.iter().map(|o| (one.aggregate_id.as_str(), o)))
    };
    let events = || {
        appends.iter().flat_map(|one| {
            one.events
                .iter()
                .zip(one.expected + 1..)
                .map(|(event, sequence)| (one.aggregate_id.as_str(), sequence, event))
        })
    };
    let changes_timers = appends.iter().any(|one| !one.timers.is_empty());
    let statement = match changes_timers {
        true => statement().replace("/*timers*/", TIMERS),
        false => statement().into_owned(),
    };
    let query = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(aggregate_type)
        .bind(ids)
        .bind(expected)
        .bind(counts)
        .bind(outcomes().map(|(id, _)| id).collect::<Vec<_>>())
        .bind(
            outcomes()
                .map(|(_, o)| o.command_id.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            outcomes()
                .map(|(_, o)| o.command_type.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            outcomes()
                .map(|(_, o)| o.data_hash.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(outcomes().map(|(_, o)| o.version).collect::<Vec<_>>())
        .bind(outcomes().map(|(_, o)| o.events).collect::<Vec<_>>())
        .bind(events().map(|(id, _, _)| id).collect::<Vec<_>>())
        .bind(
            events()
                .map(|(_, sequence, _)| sequence)
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|(_, _, e)| e.id).collect::<Vec<_>>())
        .bind(events().map(|(_, _, e)| e.event_type).collect::<Vec<_>>())
        .bind(
            events()
                .map(|(_, _, e)| e.schema_id as i32)
                .collect::<Vec<_>>(),
        )
        .bind(
            events()
                .map(|(_, _, e)| e.payload.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            events()
                .map(|(_, _, e)| e.headers.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|(_, _, e)| e.occurred_at).collect::<Vec<_>>());
    let query = match changes_timers {
        true => bind_timers(query, appends),
        false => query,
    };
    let rows: Vec<AppendedRow> = query.fetch_all(connection).await?;
    let mut appended = Appended::new();
    for row in rows {
        appended
            .entry(row.aggregate_id)
            .or_default()
            .push(JournalPosition {
                generation: row.generation,
                xid: row.xid,
                position: row.position,
            });
    }
    // RETURNING promises no order; positions within an aggregate follow its sequence.
    appended
        .values_mut()
        .for_each(|positions| positions.sort_unstable());
    Ok(appended)
}

type AppendQuery<'q> = QueryAs<'q, Postgres, AppendedRow, PgArguments>;

fn bind_timers<'q>(query: AppendQuery<'q>, appends: &'q [Append]) -> AppendQuery<'q> {
    let changed = || {
        appends.iter().flat_map(|one| {
            let id = one.aggregate_id.as_str();
            one.timers
                .iter()
                .map(move |(name, timer)| (id, *name, timer))
        })
    };
    let set = || changed().filter_map(|(id, name, timer)| Some((id, name, timer.as_ref()?)));
    query
        .bind(changed().map(|(id, _, _)| id).collect::<Vec<_>>())
        .bind(changed().map(|(_, name, _)| name).collect::<Vec<_>>())
        .bind(set().map(|(id, _, _)| id).collect::<Vec<_>>())
        .bind(set().map(|(_, name, _)| name).collect::<Vec<_>>())
        .bind(set().map(|(_, _, t)| t.timer_id).collect::<Vec<_>>())
        .bind(set().map(|(_, _, t)| t.due_at).collect::<Vec<_>>())
        .bind(set().map(|(_, _, t)| t.command_type).collect::<Vec<_>>())
        .bind(
            set()
                .map(|(_, _, t)| t.command_id.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            set()
                .map(|(_, _, t)| t.payload.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            set()
                .map(|(_, _, t)| t.headers.as_str())
                .collect::<Vec<_>>(),
        )
}

/// What stands behind an answer that wrote no event.
pub(crate) struct Confirmation {
    pub(crate) aggregate_id: String,
    /// Version that the decision rests on; `None` where an append of the same batch already proved it.
    pub(crate) version: Option<i64>,
    /// A rejection to keep.
    pub(crate) outcome: Option<NewOutcome>,
}

/// Says of each confirmation whether its version still stands and its rejection, if any, was kept.
///
/// One that was not kept lost against an outcome under the same id, which is then the answer.
pub(crate) async fn confirm(
    connection: &mut PgConnection,
    aggregate_type: &str,
    confirmations: &[Confirmation],
) -> Result<Vec<bool>, sqlx::Error> {
    let ids: Vec<&str> = confirmations
        .iter()
        .map(|one| one.aggregate_id.as_str())
        .collect();
    let versions: Vec<Option<i64>> = confirmations.iter().map(|one| one.version).collect();
    let outcome = |index: usize| confirmations[index].outcome.as_ref();
    let all = || 0..confirmations.len();
    let confirmed: Vec<i64> = sqlx::query_scalar(
        "WITH asked AS (
             SELECT * FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bytea[],
                                  $7::bigint[], $8::text[])
             WITH ORDINALITY
             AS a (id, version, command_id, command_type, hash, after, rejection, ord)
         ), standing AS (
             SELECT a.* FROM asked a LEFT JOIN LATERAL (
                 SELECT version FROM millrace.streams
                 WHERE aggregate_type = $1 AND aggregate_id = a.id LIMIT 1
             ) AS s ON true
             WHERE a.version IS NULL OR a.version = coalesce(s.version, 0)
         ), kept AS (
             INSERT INTO millrace.commands (aggregate_type, aggregate_id, command_id, command_type,
                                            data_hash, version, events, rejection)
             SELECT $1, id, command_id, command_type, hash, after, 0, rejection
             FROM standing WHERE command_id IS NOT NULL
             ON CONFLICT DO NOTHING
             RETURNING aggregate_id, command_id
         )
         SELECT ord FROM standing WHERE command_id IS NULL
         UNION ALL
         SELECT standing.ord FROM standing
         JOIN kept ON kept.aggregate_id = standing.id AND kept.command_id = standing.command_id",
    )
    .bind(aggregate_type)
    .bind(ids)
    .bind(versions)
    .bind(
        all()
            .map(|i| outcome(i).map(|o| o.command_id.as_str()))
            .collect::<Vec<_>>(),
    )
    .bind(
        all()
            .map(|i| outcome(i).map(|o| o.command_type.as_str()))
            .collect::<Vec<_>>(),
    )
    .bind(
        all()
            .map(|i| outcome(i).map(|o| o.data_hash.as_slice()))
            .collect::<Vec<_>>(),
    )
    .bind(
        all()
            .map(|i| outcome(i).map(|o| o.version))
            .collect::<Vec<_>>(),
    )
    .bind(
        all()
            .map(|i| outcome(i).and_then(|o| o.rejection.as_deref()))
            .collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    let mut answer = vec![false; confirmations.len()];
    for ord in confirmed {
        answer[ord as usize - 1] = true;
    }
    Ok(answer)
}
