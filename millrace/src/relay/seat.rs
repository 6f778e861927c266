//! Does the position belong to this journal? Asked at every start and every new session, before anything is read.

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::relay::RelayError;
use crate::relay::position::PositionRecord;

/// What the journal's server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalIdentity {
    /// The journal's identity.
    pub journal: Uuid,
    /// Its newest generation.
    pub generation: i32,
    /// `system_identifier` of the cluster: another one after a dump was restored into a new cluster.
    pub system: String,
    /// Timeline of the write-ahead log: another one after a promotion or a point-in-time restore.
    pub timeline: i64,
    /// Where that log was flushed to, in bytes.
    pub wal_bytes: i64,
    /// The next transaction id: no row of this generation may have it or a higher one.
    pub next_xid: i64,
    /// Highest transaction id among the rows of the newest generation.
    pub newest_xid: Option<i64>,
}

// None of these functions needs more than PUBLIC has (PostgreSQL 13 to 18). The timeline is taken from the name of
// the present log file, because pg_control_checkpoint() shows a promotion only after the checkpoint that follows it.
const IDENTITY: &str = "
SELECT j.uuid, j.generation, pg_is_in_recovery() AS replica,
       (SELECT c.system_identifier::text FROM pg_control_system() AS c) AS system,
       CASE WHEN NOT pg_is_in_recovery() THEN
           ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint END AS timeline,
       CASE WHEN NOT pg_is_in_recovery() THEN
           (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END AS wal_bytes,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
       (SELECT e.xid::text::bigint FROM millrace.events AS e WHERE e.generation = j.generation
        ORDER BY e.generation DESC, e.xid DESC, e.position DESC LIMIT 1) AS newest_xid
FROM millrace.journal AS j";

/// Reads what the server says of itself; refuses a replica.
pub async fn identify(connection: &mut PgConnection) -> Result<JournalIdentity, RelayError> {
    let row = sqlx::query(IDENTITY).fetch_one(connection).await?;
    if row.try_get("replica")? {
        return Err(RelayError::Replica);
    }
    Ok(JournalIdentity {
        journal: row.try_get("uuid")?,
        generation: row.try_get("generation")?,
        system: row.try_get("system")?,
        timeline: row.try_get("timeline")?,
        wal_bytes: row.try_get("wal_bytes")?,
        next_xid: row.try_get("next_xid")?,
        newest_xid: row.try_get("newest_xid")?,
    })
}

/// Refuses a journal whose ids went backwards, and a position that is not in it.
pub async fn verify(
    connection: &mut PgConnection,
    record: Option<&PositionRecord>,
) -> Result<JournalIdentity, RelayError> {
    let identity = identify(connection).await?;
    if let Some(reason) = contradiction(&identity, record) {
        return Err(RelayError::JournalRestored { reason });
    }
    if let Some(record) = record {
        let found = event_at(connection, record).await?;
        if found != Some(record.event_id) {
            return Err(RelayError::JournalRestored {
                reason: format!(
                    "the last published event, {} at {}, is not in the journal{}",
                    record.event_id,
                    record.cursor(),
                    found.map_or_else(String::new, |other| format!(", {other} stands there"))
                ),
            });
        }
    }
    Ok(identity)
}

/// The event that stands at a record's place.
pub(super) async fn event_at(
    connection: &mut PgConnection,
    record: &PositionRecord,
) -> Result<Option<Uuid>, RelayError> {
    let found = sqlx::query_scalar(
        "SELECT e.event_id FROM millrace.events AS e \
         WHERE (e.generation, e.xid, e.position) = ($1, $2::text::xid8, $3)",
    )
    .bind(record.generation)
    .bind(record.xid.to_string())
    .bind(record.position)
    .fetch_optional(connection)
    .await?;
    Ok(found)
}

/// What, of journal and position, cannot be true at once.
fn contradiction(identity: &JournalIdentity, record: Option<&PositionRecord>) -> Option<String> {
    let generation = identity.generation;
    if let Some(newest) = identity
        .newest_xid
        .filter(|newest| *newest >= identity.next_xid)
    {
        return Some(format!(
            "generation {generation} holds an event of transaction {newest}, but the cluster's next transaction is only {}",
            identity.next_xid
        ));
    }
    let record = record?;
    if record.journal != identity.journal {
        return Some(format!(
            "the position is that of journal {}, this is journal {}",
            record.journal, identity.journal
        ));
    }
    if record.generation > generation {
        return Some(format!(
            "the position is of generation {}, the journal's newest is {generation}",
            record.generation
        ));
    }
    // A raised generation says that an operator knows of the new cluster: ids and log began anew there.
    if record.generation < generation {
        return None;
    }
    if record.system != identity.system {
        return Some(format!(
            "the last event was published from cluster {}, this is cluster {}",
            record.system, identity.system
        ));
    }
    if record.xid >= identity.next_xid {
        return Some(format!(
            "the last published event is of transaction {}, but the cluster's next transaction is only {}",
            record.xid, identity.next_xid
        ));
    }
    if record.timeline > identity.timeline {
        return Some(format!(
            "the last event was published from timeline {}, the server is on timeline {}",
            record.timeline, identity.timeline
        ));
    }
    if record.wal_bytes > identity.wal_bytes {
        return Some(format!(
            "the last event was published when the server's log had {} bytes, now it has {}",
            record.wal_bytes, identity.wal_bytes
        ));
    }
    None
}

/// The aggregate types that the journal has a partition for.
pub async fn aggregate_types(connection: &mut PgConnection) -> Result<Vec<String>, RelayError> {
    let types = sqlx::query_scalar(
        "SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid), '\\(''(.*)''\\)'))[1] \
         FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'millrace.events'::regclass \
           AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT' ORDER BY 1",
    )
    .fetch_all(connection)
    .await?;
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> JournalIdentity {
        JournalIdentity {
            journal: Uuid::nil(),
            generation: 2,
            system: "7".to_owned(),
            timeline: 3,
            wal_bytes: 1000,
            next_xid: 500,
            newest_xid: Some(499),
        }
    }

    fn record() -> PositionRecord {
        PositionRecord {
            journal: Uuid::nil(),
            generation: 2,
            xid: 499,
            position: 9,
            event_id: Uuid::nil(),
            system: "7".to_owned(),
            timeline: 3,
            wal_bytes: 1000,
        }
    }

    #[test]
    fn a_position_of_the_same_journal_contradicts_nothing() {
        assert_eq!(contradiction(&identity(), Some(&record())), None);
        assert_eq!(contradiction(&identity(), None), None);
    }

    #[test]
    fn every_value_that_went_backwards_is_a_contradiction() {
        let refused = |change: fn(&mut PositionRecord)| {
            let mut record = record();
            change(&mut record);
            contradiction(&identity(), Some(&record)).is_some()
        };
        assert!(refused(|record| record.journal = Uuid::max()));
        assert!(refused(|record| record.generation = 3));
        assert!(refused(|record| record.system = "8".to_owned()));
        assert!(refused(|record| record.xid = 500));
        assert!(refused(|record| record.timeline = 4));
        assert!(refused(|record| record.wal_bytes = 1001));
    }

    #[test]
    fn rows_from_transactions_to_come_are_a_contradiction_even_without_a_position() {
        let mut identity = identity();
        identity.newest_xid = Some(500);
        assert!(contradiction(&identity, None).is_some());
    }

    #[test]
    fn after_the_generation_was_raised_cluster_and_ids_may_differ() {
        let mut record = record();
        record.generation = 1;
        record.system = "8".to_owned();
        record.xid = 1_000_000;
        record.wal_bytes = i64::MAX;
        assert_eq!(contradiction(&identity(), Some(&record)), None);
    }
}
