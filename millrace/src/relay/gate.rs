//! The gate: the transaction id below which every journal transaction has ended.
//!
//! Positions are handed out before commit, and transactions commit in any order, so "everything after N" loses
//! rows. The relay reads in the order (generation, xid, position) and only below the gate.
//!
//! Invariant: when a row is read, every transaction that could still add a row with a lower key has ended, and its
//! rows are visible. It rests on three rules of the journal's writers: they lock `streams` (`RowExclusiveLock`, by
//! the append itself) *before* they get a transaction id, because the append is their first write; they drop the
//! lock only after their rows are visible, as every commit does; and they are not prepared (two-phase).
//!
//! Why it is a statement of its own, before the one that reads rows. Schedule that breaks a single statement:
//! the statement takes its snapshot; writer 7 commits and drops its lock; the statement reads `pg_locks`, finds no
//! writer, and puts the gate above 7; its own snapshot does not show 7's rows; the cursor passes them for ever.
//! With two statements the rows come from a snapshot newer than the lock that was not seen.
//!
//! Why ids are not taken from `pg_locks`: a transaction's id shows there a moment after it was assigned. They are
//! taken from the snapshot, and each of them holds the gate unless it is seen to be somebody who writes no journal:
//! its session shows in `pg_stat_activity` (or it is prepared) and has no lock on the journal. Whatever
//! cannot be seen holds it. A lock row without a pid belongs to a prepared transaction, nobody knows which, so with
//! one there everyone holds it.
//!
//! `tests/tests/relay_gate.rs` runs the hammer on it, and the same without it, which loses events.

use sqlx::postgres::PgConnection;

use crate::relay::RelayError;

/// Which rows may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateRule {
    /// Those below every running journal transaction.
    JournalWriters,
    /// All that are visible: loses events. There so that the tests can show that they would see it.
    None,
}

/// What one look at the running transactions said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The journal's newest generation; older ones are complete and pass whole.
    pub generation: i32,
    /// Transactions of that generation below this id have ended.
    pub below: i64,
    /// Who holds it below the newest transaction, if anybody does.
    pub held_by: Option<GateHolder>,
    /// Timeline of the server's write-ahead log.
    pub timeline: i64,
    /// Where that log was flushed to, in bytes; everything that was read is older.
    pub wal_bytes: i64,
}

/// The transaction at the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateHolder {
    /// Its id.
    pub xid: i64,
    /// Process id of its session; none if it cannot be seen.
    pub pid: Option<i32>,
    /// The session's `application_name`.
    pub application_name: Option<String>,
    /// How long its transaction has been running.
    pub age_ms: Option<i64>,
}

const GATE: &str = "
WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
running AS MATERIALIZED (
    SELECT x::text::bigint AS xid FROM s, pg_snapshot_xip(s.snapshot) AS x
),
writers AS MATERIALIZED (
    SELECT DISTINCT l.pid FROM pg_locks AS l
    WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
      AND l.relation IN ('millrace.streams'::regclass, 'millrace.events'::regclass)
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
),
holding AS (
    SELECT r.xid, a.pid, a.application_name,
           (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint AS age_ms
    FROM running AS r
    LEFT JOIN pg_stat_activity AS a ON a.backend_xid::text::bigint = r.xid % 4294967296
    LEFT JOIN pg_prepared_xacts AS p ON p.transaction::text::bigint = r.xid % 4294967296
    WHERE (a.pid IS NULL AND p.transaction IS NULL)
       OR EXISTS (SELECT FROM writers AS w WHERE w.pid IS NULL OR w.pid = a.pid)
    ORDER BY r.xid LIMIT 1
)
SELECT j.generation,
       coalesce(h.xid, pg_snapshot_xmax(s.snapshot)::text::bigint) AS below,
       h.xid, h.pid, h.application_name, h.age_ms,
       CASE WHEN NOT pg_is_in_recovery() THEN
           ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint END,
       CASE WHEN NOT pg_is_in_recovery() THEN
           (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END
FROM s CROSS JOIN millrace.journal AS j LEFT JOIN holding AS h ON true";

type GateRow = (
    i32,
    i64,
    Option<i64>,
    Option<i32>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// Looks once. Must be followed by the reading statement on the same session, outside a transaction.
pub async fn look(connection: &mut PgConnection, rule: GateRule) -> Result<Gate, RelayError> {
    let row: GateRow = sqlx::query_as(GATE).fetch_one(connection).await?;
    let (generation, below, xid, pid, application_name, age_ms, timeline, wal_bytes) = row;
    let (Some(timeline), Some(wal_bytes)) = (timeline, wal_bytes) else {
        return Err(RelayError::Replica);
    };
    Ok(Gate {
        generation,
        below: match rule {
            GateRule::JournalWriters => below,
            GateRule::None => i64::MAX,
        },
        held_by: xid.map(|xid| GateHolder {
            xid,
            pid,
            application_name,
            age_ms,
        }),
        timeline,
        wal_bytes,
    })
}
