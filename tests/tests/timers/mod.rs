//! Timers on a real Postgres: set with the event, fired once, by any producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::{TimeDelta, Utc};
use millrace::command::{
    AggregateType, CommandData, CommandId, Commands, Envelope, Moment, WriteConfig,
};
use millrace::config::{JournalConfig, Registration, RegistryConfig, Secret};
use millrace::journal::Journal;
use millrace::registry::{Registry, SchemaSet};
use millrace::timer::{Clock, Timers, command_id, system_clock};
use serde_json::json;
use sqlx::PgPool;
use tests::servers::Servers;
use tests::table::{HOLD_FOR, Table, TableCommand, TableEvent};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use tests::wait::LONGEST as DEADLINE;

/// A producer's write side and timers; several on one database are several producers.
struct Producer {
    commands: Commands,
    timers: Arc<Timers>,
    pool: PgPool,
    clock: Clock,
}

/// A clock that a test moves.
#[derive(Default)]
struct Hands(AtomicI64);

impl Hands {
    fn clock(self: &Arc<Self>) -> Clock {
        let hands = Arc::clone(self);
        Arc::new(move || Utc::now() + TimeDelta::milliseconds(hands.0.load(Ordering::SeqCst)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }
}

struct Firing {
    shutdown: CancellationToken,
    done: JoinHandle<()>,
}

impl Firing {
    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.done.await?)
    }
}

impl Producer {
    async fn new(database: &str, clock: Clock) -> Result<Self> {
        let config = JournalConfig {
            database_url: Secret::from(database),
        };
        let journal = Journal::open(&config, &["table"]).await?;
        let registry = Registry::open(
            &RegistryConfig {
                schema_registry_url: Servers::shared().registry().to_owned(),
                schema_registration: Registration::Register,
            },
            vec![
                SchemaSet::of::<TableEvent>(),
                SchemaSet::of_commands::<TableCommand>(),
            ],
            Some(journal.pool().clone()),
        )
        .await?;
        let commands = Commands::start(
            &[AggregateType::of::<Table>()],
            journal.clone(),
            registry.clone(),
            WriteConfig::default(),
            4,
            Arc::new(Notify::new()),
        );
        let timers = Timers::new(&journal, registry, &commands, &["table"], clock.clone());
        Ok(Self {
            commands,
            timers: Arc::new(timers),
            pool: journal.pool().clone(),
            clock,
        })
    }

    fn fire(&self) -> Firing {
        let shutdown = CancellationToken::new();
        let (timers, stop) = (Arc::clone(&self.timers), shutdown.clone());
        Firing {
            shutdown,
            done: tokio::spawn(async move { timers.run(stop).await }),
        }
    }

    async fn send(&self, table: &str, command_type: &str) -> Result<()> {
        let envelope = Envelope {
            aggregate_id: table.to_owned(),
            command_type: command_type.to_owned(),
            data: CommandData::Json(json!({}).to_string()),
            id: CommandId::Given(Uuid::now_v7().to_string()),
            expected_version: None,
            correlation_id: Some("evening".to_owned()),
            tenant_id: None,
            traceparent: None,
            now: (self.clock)(),
        };
        self.commands.node("table")?.handle(envelope).await?;
        Ok(())
    }

    async fn history(&self, table: &str) -> Result<Vec<String>> {
        let node = self.commands.node("table")?;
        let page = node.history(table.to_owned(), 0, 100).await?;
        Ok(page.events.into_iter().map(|one| one.event_type).collect())
    }

    /// States of a table's timers, oldest first.
    async fn states(&self, table: &str) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            "SELECT state FROM millrace.timers WHERE aggregate_id = $1 ORDER BY set_at, timer_id",
        )
        .bind(table)
        .fetch_all(&self.pool)
        .await?)
    }

    async fn until_states(&self, table: &str, wanted: &[&str]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let states = self.states(table).await?;
            if states == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < DEADLINE, "{states:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn database(name: &str) -> Result<String> {
    Servers::shared().fresh_database(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_as_a_command_when_it_is_due_and_not_before() -> Result<()> {
    let hands = Arc::new(Hands::default());
    let producer = Producer::new(&database("timer_fires").await?, hands.clock()).await?;
    producer.send("t", "HoldTable").await?;
    let firing = producer.fire();
    let status = producer.timers.status().await?;
    assert_eq!((status.pending, status.oldest_due_age_ms), (1, None));
    hands.advance(HOLD_FOR - Duration::from_secs(60));
    // Another table's timer is due and fires; this one, which is not, had the same chance.
    producer.send("u", "HoldTable").await?;
    sqlx::query(
        "UPDATE millrace.timers SET due_at = due_at - interval '1 hour' WHERE aggregate_id = 'u'",
    )
    .execute(&producer.pool)
    .await?;
    producer.until_states("u", &["fired"]).await?;
    assert_eq!(producer.states("t").await?, ["pending"]);
    hands.advance(Duration::from_secs(60));
    producer.until_states("t", &["fired"]).await?;
    assert_eq!(producer.history("t").await?, ["TableHeld", "TableReleased"]);
    // The command's id follows from the timer's, its correlation from the event that set it.
    let (timer, cause, correlation): (Uuid, String, String) = sqlx::query_as(
        "SELECT t.timer_id, e.headers->>'causationid', e.headers->>'correlationid'
         FROM millrace.timers t JOIN millrace.events e USING (aggregate_id)
         WHERE e.aggregate_id = 't' AND e.sequence = 2",
    )
    .fetch_one(&producer.pool)
    .await?;
    assert_eq!(cause, command_id(timer).to_string());
    assert_eq!(correlation, "evening");
    assert_eq!(producer.timers.status().await?.pending, 0);
    firing.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_within_a_tenth_of_a_second_of_being_due() -> Result<()> {
    let producer = Producer::new(&database("timer_late").await?, system_clock()).await?;
    let firing = producer.fire();
    let mut late = Vec::new();
    for number in 0..10 {
        let table = format!("t{number}");
        producer.send(&table, "HoldTable").await?;
        sqlx::query(
            "UPDATE millrace.timers SET due_at = clock_timestamp() + interval '120 milliseconds' WHERE aggregate_id = $1",
        )
        .bind(&table)
        .execute(&producer.pool)
        .await?;
        producer.until_states(&table, &["fired"]).await?;
        let ms: f64 = sqlx::query_scalar(
            "SELECT (extract(epoch FROM e.occurred_at - t.due_at) * 1000)::float8
             FROM millrace.timers t JOIN millrace.events e USING (aggregate_id)
             WHERE t.aggregate_id = $1 AND e.sequence = 2",
        )
        .bind(&table)
        .fetch_one(&producer.pool)
        .await?;
        assert!(ms >= 0.0, "fired {ms} ms before it was due");
        late.push(ms);
    }
    late.sort_by(f64::total_cmp);
    println!("fired after being due, ms: {late:.1?}");
    // The machine is shared with other tests, so the better ones are held to it and not each one; of timers that are looked
    // at once a second, one in ten would be.
    assert!(late[2] < 100.0, "{late:?}");
    firing.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_timer_never_fires_and_one_set_again_fires_once_at_its_new_time() -> Result<()>
{
    let hands = Arc::new(Hands::default());
    let producer = Producer::new(&database("timer_cancel").await?, hands.clock()).await?;
    producer.send("taken", "HoldTable").await?;
    producer.send("taken", "TakeTable").await?;
    assert_eq!(producer.states("taken").await?, ["cancelled"]);
    producer.send("again", "HoldTable").await?;
    hands.advance(HOLD_FOR / 2);
    producer.send("again", "HoldTable").await?;
    assert_eq!(producer.states("again").await?, ["cancelled", "pending"]);
    let firing = producer.fire();
    hands.advance(HOLD_FOR);
    producer
        .until_states("again", &["cancelled", "fired"])
        .await?;
    assert_eq!(
        producer.history("again").await?,
        ["TableHeld", "TableHeld", "TableReleased"]
    );
    assert_eq!(
        producer.history("taken").await?,
        ["TableHeld", "TableTaken"]
    );
    firing.stop().await
}

// The schedule: a producer claims the timer; before its command is decided the table is taken, which cancels the timer. The
// command is rejected, because the state says so, and the timer ends as rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_cancelled_while_it_fires_is_settled_by_the_decision() -> Result<()> {
    let producer = Producer::new(&database("timer_race").await?, system_clock()).await?;
    producer.send("t", "HoldTable").await?;
    producer.send("t", "TakeTable").await?;
    // As the claim saw it: pending and due.
    sqlx::query(
        "UPDATE millrace.timers SET state = 'pending', due_at = now() - interval '1 second'",
    )
    .execute(&producer.pool)
    .await?;
    let firing = producer.fire();
    producer.until_states("t", &["rejected"]).await?;
    assert_eq!(producer.history("t").await?, ["TableHeld", "TableTaken"]);
    let reason: String = sqlx::query_scalar("SELECT reason FROM millrace.timers")
        .fetch_one(&producer.pool)
        .await?;
    assert!(reason.contains("taken"), "{reason}");
    firing.stop().await
}

// The schedule: a producer fires the command and dies before the mark; its claim runs out, another fires again under the same
// id and is answered with the first outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_was_fired_but_not_marked_takes_effect_once() -> Result<()> {
    let database = database("timer_twice").await?;
    let hands = Arc::new(Hands::default());
    let first = Producer::new(&database, hands.clock()).await?;
    first.send("t", "HoldTable").await?;
    let firing = first.fire();
    hands.advance(HOLD_FOR);
    first.until_states("t", &["fired"]).await?;
    firing.stop().await?;
    // As the crash left it; the table is held anew, so that only the kept outcome stands between it and a second release.
    first.send("t", "HoldTable").await?;
    sqlx::query(
        "UPDATE millrace.timers SET state = 'pending', claimed_until = now() - interval '1 second' WHERE state = 'fired'",
    )
    .execute(&first.pool)
    .await?;
    let before = first.history("t").await?;
    let second = Producer::new(&database, hands.clock()).await?;
    let firing = second.fire();
    second.until_states("t", &["fired", "pending"]).await?;
    assert_eq!(second.history("t").await?, before);
    let node = second.commands.node("table")?;
    assert_eq!(node.state("t".to_owned(), Moment::Now).await?.version, 3);
    firing.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_producers_fire_five_hundred_timers_once_each() -> Result<()> {
    let database = database("timer_many").await?;
    let hands = Arc::new(Hands::default());
    let mut producers = Vec::new();
    for _ in 0..3 {
        producers.push(Producer::new(&database, hands.clock()).await?);
    }
    let tables: Vec<String> = (0..500).map(|number| format!("t{number}")).collect();
    let sent = tables
        .iter()
        .map(|table| producers[0].send(table, "HoldTable"));
    for sent in futures::future::join_all(sent).await {
        sent?;
    }
    let firing: Vec<Firing> = producers.iter().map(Producer::fire).collect();
    hands.advance(HOLD_FOR);
    let begun = Instant::now();
    while producers[0].timers.status().await?.pending > 0 {
        ensure!(begun.elapsed() < DEADLINE, "not all timers fired");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for one in firing {
        one.stop().await?;
    }
    let (fired, released, most): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM millrace.timers WHERE state = 'fired'),
                (SELECT count(*) FROM millrace.events WHERE event_type = 'TableReleased'),
                (SELECT max(sequence) FROM millrace.events)",
    )
    .fetch_one(&producers[0].pool)
    .await?;
    assert_eq!((fired, released, most), (500, 500, 2));
    Ok(())
}
