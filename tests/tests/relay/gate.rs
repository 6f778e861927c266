//! The gate under slow writers: where event stores lose events.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use millrace::relay::RelayError;
use millrace::relay::gate::GateRule;
use millrace::relay::read::{self, BatchLimits, ROWS, Reader};
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::task::JoinSet;

use super::{DEADLINE, Rig, append, next_batch, next_ids};

const LIMITS: BatchLimits = BatchLimits {
    events_max: 500,
    bytes_max: 1 << 20,
};
const WRITERS: usize = 12;

/// A sequence of numbers that a failing run can be repeated with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Writes transactions of one to three events: one in five is rolled back, one in ten waits up to 300 ms between
/// insert and commit, one in three a few milliseconds.
pub(super) async fn write_slowly(
    url: String,
    aggregate: String,
    writer: usize,
    transactions: usize,
    once: bool,
) -> Result<()> {
    let mut connection = PgConnection::connect(&url).await?;
    let mut dice = Dice(writer as u64 + 1);
    let mut versions = [0_i64; 5];
    for number in 0..transactions {
        let which = dice.roll(5) as usize;
        let id = match once {
            true => format!("w{writer}-{number}"),
            false => format!("w{writer}-{which}"),
        };
        let count = if once { 1 } else { 1 + dice.roll(3) as i64 };
        let first = if once { 1 } else { versions[which] + 1 };
        let events: Vec<(&str, i64)> = (first..first + count).map(|n| (id.as_str(), n)).collect();
        let mut transaction = connection.begin().await?;
        append(&mut transaction, &aggregate, &events).await?;
        let wait_ms = match dice.roll(10) {
            0 => dice.roll(300),
            1..4 => dice.roll(8),
            _ => 0,
        };
        if wait_ms > 0 {
            sqlx::query("SELECT pg_sleep($1)")
                .bind(wait_ms as f64 / 1000.0)
                .execute(&mut *transaction)
                .await?;
        }
        if dice.roll(5) == 0 {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
            versions[which] = first + count - 1;
        }
    }
    Ok(())
}

pub(super) fn writers(rig: &Rig, transactions: usize, once: bool) -> JoinSet<Result<()>> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_slowly(
            rig.url.clone(),
            rig.aggregate.clone(),
            writer,
            transactions,
            once,
        ));
    }
    writers
}

/// Reads beside the writers until they are done and nothing is left; the ids in the order in which they were read.
async fn read_beside_writers(rig: &Rig, rule: GateRule) -> Result<Vec<String>> {
    let done = Arc::new(AtomicBool::new(false));
    let connection = read::connect(&rig.url).await?;
    let mut reader = Reader::new(connection, Default::default(), LIMITS, rule);
    let finished = Arc::clone(&done);
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let last_look = finished.load(Ordering::Acquire);
            let batch = reader.next().await?;
            if batch.events.is_empty() && last_look {
                return Ok::<_, RelayError>(seen);
            }
            seen.extend(batch.events.iter().map(|event| event.event_id.to_string()));
        }
    });
    let mut writers = writers(rig, 150, true);
    while let Some(result) = writers.join_next().await {
        result??;
    }
    done.store(true, Ordering::Release);
    Ok(tokio::time::timeout(DEADLINE, reading).await???)
}

async fn lost(rig: &Rig, seen: &[String]) -> Result<(usize, usize)> {
    let unique: HashSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "an event was read twice");
    let journal = rig.journal_events().await?;
    let lost = journal
        .iter()
        .filter(|event| !unique.contains(&event.event_id))
        .count();
    Ok((lost, journal.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_twelve_slow_writers_with_rollbacks_the_gate_loses_nothing() -> Result<()> {
    let rig = Rig::new("gated").await?;
    rig.execute("CREATE TABLE unrelated (n int)").await?;
    // Open from before the first event until after the last was read: the reader must not wait for it.
    let mut other = rig.connect().await?;
    let mut unrelated = other.begin().await?;
    unrelated
        .execute("INSERT INTO unrelated VALUES (1)")
        .await?;
    let seen = read_beside_writers(&rig, GateRule::JournalWriters).await?;
    let (lost, all) = lost(&rig, &seen).await?;
    assert!(all > 1000, "only {all} events were written");
    assert_eq!(lost, 0, "of {all} events");
    unrelated.rollback().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_load_without_a_gate_loses_events() -> Result<()> {
    let rig = Rig::new("ungated").await?;
    let seen = read_beside_writers(&rig, GateRule::None).await?;
    let (lost, all) = lost(&rig, &seen).await?;
    eprintln!("without a gate {lost} of {all} events were lost");
    assert!(
        lost > 0,
        "the hammer above cannot fail: {all} events, none lost without a gate"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_wrote_no_journal_does_not_hold_the_gate() -> Result<()> {
    let rig = Rig::new("prepared").await?;
    let mut connection = rig.connect().await?;
    let allowed: String = sqlx::query_scalar("SHOW max_prepared_transactions")
        .fetch_one(&mut connection)
        .await?;
    if allowed == "0" {
        // The server refuses such transactions, so none can ever hold the gate there.
        let refused = rig
            .execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'p'")
            .await;
        assert!(refused.is_err());
        return Ok(());
    }
    let name = rig.aggregate.clone();
    rig.execute("CREATE TABLE unrelated (n int)").await?;
    rig.execute(&format!(
        "BEGIN; INSERT INTO unrelated VALUES (1); PREPARE TRANSACTION '{name}'"
    ))
    .await?;
    rig.append(&[("a", 1)]).await?;
    let mut reader = Reader::new(
        read::connect(&rig.url).await?,
        Default::default(),
        LIMITS,
        GateRule::JournalWriters,
    );
    let unrelated = next_batch(&mut reader).await?;
    rig.execute(&format!("ROLLBACK PREPARED '{name}'")).await?;
    assert_eq!(unrelated.events.len(), 1);

    // One that wrote journal has locks that belong to no session: everything above it waits.
    let mut transaction = connection.begin().await?;
    append(&mut transaction, &rig.aggregate, &[("b", 1)]).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PREPARE TRANSACTION '{name}'")))
        .execute(&mut *transaction)
        .await?;
    drop(transaction);
    rig.append(&[("c", 1)]).await?;
    let held = reader.next().await?;
    rig.execute(&format!("COMMIT PREPARED '{name}'")).await?;
    assert!(
        held.events.is_empty(),
        "an event passed a prepared journal transaction"
    );
    assert_eq!(next_ids(&mut reader, 2).await?, ["b", "c"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_journal_transaction_holds_the_gate_and_is_named() -> Result<()> {
    let rig = Rig::new("held").await?;
    let mut slow = rig.connect().await?;
    slow.execute("SET application_name = 'slow writer'").await?;
    let mut transaction = slow.begin().await?;
    append(&mut transaction, &rig.aggregate, &[("slow", 1)]).await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *transaction)
        .await?;
    rig.append(&[("quick", 1)]).await?;

    let mut reader = Reader::new(
        read::connect(&rig.url).await?,
        Default::default(),
        LIMITS,
        GateRule::JournalWriters,
    );
    let held = reader.next().await?;
    assert!(held.events.is_empty());
    let holder = held.gate.held_by.expect("the gate is held");
    assert_eq!(holder.pid, Some(pid));
    assert_eq!(holder.application_name.as_deref(), Some("slow writer"));
    transaction.commit().await?;

    assert_eq!(next_ids(&mut reader, 2).await?, ["slow", "quick"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_several_partitions_are_merged_from_their_indexes_and_never_sorted() -> Result<()> {
    let rig = Rig::new("plan").await?;
    for other in ["aside", "beside"] {
        rig.execute(&format!(
            "CREATE TABLE millrace.events_{other} PARTITION OF millrace.events FOR VALUES IN ('{other}')"
        ))
        .await?;
    }
    rig.append(&[("a", 1)]).await?;
    for partition in [rig.aggregate.as_str(), "aside", "beside"] {
        // Enough rows that a planner left to itself would sort, from transactions of many ages.
        rig.execute(&format!(
            "INSERT INTO millrace.events_{partition} (generation, xid, aggregate_type, aggregate_id, sequence, event_id,
                 event_type, schema_id, payload, headers, occurred_at)
             SELECT 1, (n % 600)::text::xid8, '{partition}', 'x' || n, 1, gen_random_uuid(), 'Happened', 7, '\\x00', '{{}}', now()
             FROM generate_series(1, 20000) AS n"
        ))
        .await?;
    }
    rig.execute("ANALYZE millrace.events").await?;
    let mut connection = read::connect(&rig.url).await?;
    // More than five executions: Postgres may then change to a plan that fits all parameters.
    for round in 0..8 {
        let literal = ROWS
            .replace("$1", "1")
            .replace("$2", "10")
            .replace("$3", "0")
            .replace("$4", "1")
            .replace("$5", "700")
            .replace("$6", "5000")
            .replace("$7", "16777216");
        let sql = format!("EXPLAIN (COSTS OFF) {literal}");
        let plan: Vec<String> = connection
            .fetch_all(sqlx::AssertSqlSafe(sql))
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let plan = plan.join("\n");
        assert!(plan.contains("Merge Append"), "round {round}:\n{plan}");
        assert_eq!(
            plan.matches("Index Scan using").count(),
            3,
            "round {round}:\n{plan}"
        );
        // "Sort Key" belongs to the merge; a node that sorts is "-> Sort" or "Incremental Sort".
        assert!(
            !plan.contains("-> Sort")
                && !plan.contains("->  Sort")
                && !plan.contains("Incremental"),
            "{plan}"
        );
        assert!(
            plan.contains("ROW("),
            "the cursor is no index condition:\n{plan}"
        );
    }
    Ok(())
}
