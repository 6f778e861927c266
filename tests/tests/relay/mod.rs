//! The relay on a real broker and a real Postgres: nothing lost, nothing twice, in order, one at a time.

mod gate;
mod large;
mod publish;
mod restored;
mod speed;
mod takeover;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use millrace::config::{JournalConfig, KafkaConfig, Secret};
use millrace::journal::Journal;
use millrace::relay::read::{Batch, Reader};
use millrace::relay::{Relay, RelayConfig, RelayError, RelayRole, RelayStatus};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection};
use tests::servers::Servers;
use tests::wait::LONGEST as DEADLINE;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PARTITIONS: i32 = 4;

/// The next batch with events. A transaction of another test that began this moment is not to be seen in
/// `pg_stat_activity` yet, and rightly holds the gate until it is: that batch is empty.
async fn next_batch(reader: &mut Reader) -> Result<Batch> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let batch = reader.next().await?;
        if !batch.events.is_empty() {
            return Ok(batch);
        }
        anyhow::ensure!(Instant::now() < deadline, "no events below the gate");
    }
}

/// The aggregates of the next events, which may come in several batches.
async fn next_ids(reader: &mut Reader, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = next_batch(reader).await?;
        ids.extend(batch.events.iter().map(|event| event.aggregate_id.clone()));
    }
    Ok(ids)
}

/// A journal, an aggregate type and topics of its own.
struct Rig {
    url: String,
    aggregate: String,
    kafka: KafkaConfig,
    journal: JournalConfig,
    config: RelayConfig,
}

/// An event as it stands in journal or topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    aggregate_id: String,
    sequence: i64,
    event_id: String,
    position: String,
}

impl Rig {
    async fn new(name: &str) -> Result<Self> {
        let unique = Uuid::now_v7().simple().to_string();
        let aggregate = format!("{name}_{}", &unique[24..]);
        let servers = Servers::shared();
        let url = servers.fresh_database(name).await?;
        let rig = Self {
            journal: JournalConfig {
                database_url: Secret::from(url.as_str()),
            },
            kafka: KafkaConfig {
                kafka_bootstrap: servers.kafka().to_owned(),
                kafka_properties: Default::default(),
                topic_partitions: PARTITIONS,
                topic_replication: 1,
            },
            config: RelayConfig {
                relay_poll_min_ms: 1,
                relay_poll_max_ms: 50,
                relay_batch_events_max: 5000,
                relay_batch_bytes_max: 16 << 20,
                relay_lease_name: "relay".to_owned(),
                relay_lease_ttl_ms: 5000,
                relay_lease_renew_ms: 1000,
                relay_position_topic: format!("_millrace.{aggregate}"),
                relay_transactional_id: format!("millrace.{aggregate}"),
            },
            aggregate,
            url,
        };
        Journal::open(&rig.journal, &[rig.aggregate.as_str()]).await?;
        rig.add_schema(&rig.aggregate).await?;
        Ok(rig)
    }

    async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    async fn add_schema(&self, aggregate: &str) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query("INSERT INTO millrace.schemas VALUES (7, $1, 3, '', '{}')")
            .bind(format!("{aggregate}.events-test.Happened"))
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    /// Appends in a transaction of its own.
    async fn append(&self, events: &[(&str, i64)]) -> Result<()> {
        append(&mut self.connect().await?, &self.aggregate, events).await
    }

    /// Gives every event of an aggregate a payload of about this size that does not compress.
    async fn inflate(&self, aggregate_id: &str, bytes: usize) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query(
            "UPDATE millrace.events SET payload = '\\x0000000007'::bytea || (
                SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea) FROM generate_series(1, $2 / 16)
             ) WHERE aggregate_id = $1",
        )
        .bind(aggregate_id)
        .bind(i32::try_from(bytes)?)
        .execute(&mut connection)
        .await?;
        Ok(())
    }

    fn topic(&self) -> String {
        format!("{}.events", self.aggregate)
    }

    fn start(&self) -> Running {
        let relay = Relay::new(
            self.config.clone(),
            self.kafka.clone(),
            self.journal.clone(),
        );
        let (wake, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
        Running {
            status: relay.status(),
            task: tokio::spawn(relay.run(Arc::clone(&wake), shutdown.clone())),
            wake,
            shutdown,
        }
    }

    /// Every event of the journal, in its order, by its own SQL.
    async fn journal_events(&self) -> Result<Vec<Seen>> {
        let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
            "SELECT e.aggregate_id, e.sequence, e.event_id::text, \
                    format('%s:%s:%s', e.generation, e.xid, e.position) \
             FROM millrace.events AS e ORDER BY e.generation, e.xid, e.position",
        )
        .fetch_all(&mut self.connect().await?)
        .await?;
        let seen = |(aggregate_id, sequence, event_id, position)| Seen {
            aggregate_id,
            sequence,
            event_id,
            position,
        };
        Ok(rows.into_iter().map(seen).collect())
    }

    /// Every committed record of a topic, partition after partition, by a client of its own.
    fn topic_events(&self, topic: &str) -> Result<Vec<Seen>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka.kafka_bootstrap)
            .set("group.id", "relay-tests")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (mut open, mut seen) = (PARTITIONS, Vec::new());
        while open > 0 {
            match consumer
                .poll(DEADLINE)
                .context("the topic's end was not reached")?
            {
                Ok(message) => seen.push(Seen {
                    aggregate_id: String::from_utf8(message.key().context("no key")?.to_vec())?,
                    sequence: header(&message, "ce_sequence")?.parse()?,
                    event_id: header(&message, "ce_id")?,
                    position: header(&message, "millrace_position")?,
                }),
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(seen)
    }

    /// Journal and topic hold the same events, none twice, each aggregate's in order without a gap.
    async fn assert_published(&self) -> Result<usize> {
        let mut journal = self.journal_events().await?;
        let mut topic = self.topic_events(&self.topic())?;
        let mut last: HashMap<&str, i64> = HashMap::new();
        for event in &topic {
            let last = last.entry(&event.aggregate_id).or_default();
            assert_eq!(event.sequence, *last + 1, "order of {event:?}");
            *last = event.sequence;
        }
        journal.sort();
        topic.sort();
        assert_eq!(journal.len(), topic.len(), "events in journal and topic");
        assert_eq!(journal, topic);
        Ok(topic.len())
    }
}

/// The next record or error; the client's own poll also returns early, with nothing.
fn next(consumer: &BaseConsumer) -> Result<BorrowedMessage<'_>, KafkaError> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(result) = consumer.poll(Duration::from_millis(100)) {
            return result;
        }
    }
    panic!("neither a record nor the topic's end within {DEADLINE:?}");
}

fn header<M: Message>(message: &M, name: &str) -> Result<String> {
    let headers = message.headers().context("no headers")?;
    let found = headers.iter().find(|header| header.key == name);
    let value = found
        .and_then(|header| header.value)
        .with_context(|| format!("no header {name}"))?;
    Ok(String::from_utf8(value.to_vec())?)
}

/// The append as the journal makes it: `streams` is locked before the transaction gets its id.
async fn append(
    connection: &mut PgConnection,
    aggregate: &str,
    events: &[(&str, i64)],
) -> Result<()> {
    let ids: Vec<&str> = events.iter().map(|(id, _)| *id).collect();
    let sequences: Vec<i64> = events.iter().map(|(_, sequence)| *sequence).collect();
    sqlx::query(
        "WITH newest AS (
            SELECT i.id, max(i.sequence) AS version FROM unnest($2::text[], $3::bigint[]) AS i (id, sequence) GROUP BY i.id
         ), won AS (
            INSERT INTO millrace.streams AS s (aggregate_type, aggregate_id, version, appended)
            SELECT $1, n.id, n.version, 1 FROM newest AS n ORDER BY n.id
            ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version
            RETURNING s.aggregate_id
         )
         INSERT INTO millrace.events (generation, aggregate_type, aggregate_id, sequence, event_id, event_type,
                                      schema_id, payload, headers, occurred_at)
         SELECT (SELECT generation FROM millrace.journal), $1, e.id, e.sequence, gen_random_uuid(), 'Happened', 7,
                '\\x0000000007'::bytea || convert_to(e.id, 'UTF8'), '{}', now()
         FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS e (id, sequence, ord)
         JOIN won ON won.aggregate_id = e.id ORDER BY e.ord",
    )
    .bind(aggregate)
    .bind(ids)
    .bind(sequences)
    .execute(connection)
    .await?;
    Ok(())
}

/// A relay that runs in a task.
struct Running {
    status: watch::Receiver<RelayStatus>,
    task: JoinHandle<Result<(), RelayError>>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Running {
    /// Waits until the status is as wanted.
    async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&RelayStatus) -> bool,
    ) -> Result<RelayStatus> {
        let mut status = self.status.clone();
        let waited = tokio::time::timeout(DEADLINE, status.wait_for(|status| wanted(status))).await;
        match waited {
            Ok(Ok(status)) => return Ok(status.clone()),
            Ok(Err(_)) => bail!("the relay ended before: {what}"),
            Err(_) => {}
        }
        bail!(
            "{what}: not within {DEADLINE:?}; the relay says {:?}",
            *self.status.borrow()
        )
    }

    /// Waits until everything that is in the journal now was published.
    async fn until_published(&mut self, rig: &Rig) -> Result<()> {
        let last = rig
            .journal_events()
            .await?
            .last()
            .map(|event| event.position.clone());
        let position = last.context("the journal is empty")?.parse()?;
        self.wake.notify_one();
        self.until("published to the journal's end", |status| {
            status.position >= Some(position)
        })
        .await?;
        Ok(())
    }

    /// Waits until it has stopped for good; the reason.
    async fn until_stopped(&mut self) -> Result<String> {
        let status = self
            .until("stopped", |status| status.role == RelayRole::Stopped)
            .await?;
        status.error.context("a stopped relay says why")
    }

    async fn stop(self) -> Result<Result<(), RelayError>> {
        self.shutdown.cancel();
        Ok(tokio::time::timeout(DEADLINE, self.task).await??)
    }
}
