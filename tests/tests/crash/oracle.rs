//! Judges journal, topic and views with SQL, a Kafka client and an Avro decoder of its own; nothing of Millrace is called.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::fold;
use super::verdict::{Findings, acknowledged, sequences, topic_equals_journal};

pub(super) const TOPIC: &str = "order.events";
pub(super) const VIEWS: [&str; 3] = ["orders", "customer-totals", "event-log"];

/// An event as the journal has it, in the journal's order.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Event {
    pub(super) aggregate_id: String,
    pub(super) sequence: i64,
    pub(super) event_id: Uuid,
    pub(super) event_type: String,
    pub(super) schema_id: i32,
    pub(super) payload: Vec<u8>,
    pub(super) occurred_at: chrono::DateTime<chrono::Utc>,
}

/// A record of the topic.
pub(super) struct Record {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: String,
    pub(super) event_id: Uuid,
    pub(super) sequence: i64,
    pub(super) payload: Vec<u8>,
    pub(super) headers: OwnedHeaders,
}

pub(super) struct Oracle {
    pub(super) journal: PgPool,
    pub(super) views: PgPool,
    pub(super) kafka: String,
    pub(super) registry: String,
}

impl Oracle {
    pub(super) fn new(servers: &tests::servers::Servers) -> Result<Self> {
        // Lazy: Postgres is killed and restarted beside it.
        let pool = || PgPoolOptions::new().max_connections(2);
        Ok(Self {
            journal: pool().connect_lazy(servers.database_url())?,
            views: pool().connect_lazy(servers.views_database_url())?,
            kafka: servers.kafka().to_owned(),
            registry: servers.registry().to_owned(),
        })
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.kafka)
            .set("group.id", "oracle")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false");
        client
    }

    /// Reads a topic from its start to its end, read committed.
    fn read<T>(
        &self,
        topic: &str,
        mut take: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let consumer: BaseConsumer = self.client().create()?;
        let wait = Duration::from_secs(30);
        let metadata = consumer.fetch_metadata(Some(topic), wait)?;
        let partitions = metadata.topics()[0].partitions().len();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions as i32 {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let (mut open, mut taken) = (partitions, Vec::new());
        while open > 0 {
            match consumer
                .poll(wait)
                .context("the topic's end was not reached in 30 s")?
            {
                Ok(message) => taken.push(take(&message)?),
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(taken)
    }

    pub(super) fn topic(&self) -> Result<Vec<Record>> {
        self.read(TOPIC, |message| {
            let headers = message.headers().context("a record without headers")?;
            let header = |name: &str| -> Result<String> {
                let found = headers.iter().find(|header| header.key == name);
                let value = found.and_then(|header| header.value);
                let value = value.with_context(|| format!("a record without {name}"))?;
                Ok(String::from_utf8(value.to_vec())?)
            };
            Ok(Record {
                partition: message.partition(),
                offset: message.offset(),
                key: String::from_utf8(message.key().context("no key")?.to_vec())?,
                event_id: header("ce_id")?.parse()?,
                sequence: header("ce_sequence")?.parse()?,
                payload: message.payload().unwrap_or_default().to_vec(),
                headers: headers.detach(),
            })
        })
    }

    pub(super) async fn journal(&self) -> Result<Vec<Event>> {
        Ok(sqlx::query_as(
            "SELECT e.aggregate_id, e.sequence, e.event_id, e.event_type, e.schema_id, e.payload, e.occurred_at
             FROM millrace.events AS e ORDER BY e.generation, e.xid, e.position",
        )
        .fetch_all(&self.journal)
        .await?)
    }

    /// Waits until the relay has published the journal to its end and every view has applied the topic to its end.
    pub(super) async fn quiesce(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let last: Option<Uuid> = sqlx::query_scalar(
            "SELECT e.event_id FROM millrace.events AS e
             ORDER BY e.generation DESC, e.xid DESC, e.position DESC LIMIT 1",
        )
        .fetch_optional(&self.journal)
        .await?;
        let last = last.context("the journal is empty")?;
        loop {
            let published = tokio::task::block_in_place(|| self.relay_stands_at())?;
            if published == Some(last) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "the relay did not reach the journal's end, {last}, within {within:?}: it stands at {published:?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for record in tokio::task::block_in_place(|| self.topic())? {
            let end = ends.entry(record.partition).or_default();
            *end = (*end).max(record.offset + 1);
        }
        loop {
            let behind = self.views_behind(&ends).await?;
            if behind.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the views did not reach the topic's end within {within:?}: {}",
                behind.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The event that the newest position record names.
    fn relay_stands_at(&self) -> Result<Option<Uuid>> {
        let records = self.read("_millrace.relay", |message| {
            let record: serde_json::Value =
                serde_json::from_slice(message.payload().unwrap_or_default())?;
            let id = record["event_id"]
                .as_str()
                .context("a position without event")?;
            Ok(id.parse()?)
        })?;
        Ok(records.last().copied())
    }

    /// What the views' database is at, for whoever looks for the cause of a wait that was too long.
    pub(super) async fn state_of_views(&self) -> String {
        const STATE: &str = "
            SELECT format('build %s of %s: %s, %s behind', b.build, b.view, b.state, sum(greatest(c.next - s.next, 0)))
            FROM millrace_views.builds b JOIN millrace_views.build_checkpoints s USING (view, build)
            JOIN millrace_views.checkpoints c USING (view, topic, partition)
            WHERE b.state = 'building' GROUP BY b.build, b.view, b.state
            UNION ALL SELECT format('session %s (%s) %s, waits for %s %s held by %s, transaction %s: %s', pid, application_name,
                state, wait_event_type, wait_event, pg_blocking_pids(pid), now() - xact_start, left(query, 80))
            FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            UNION ALL SELECT format('lease %s: %s until %s', name, holder_info, expires_at) FROM millrace_views.leases
            UNION ALL SELECT format('resets of %s: %s in build %s', view, count(*), build)
            FROM millrace_views.resets WHERE done_at IS NULL GROUP BY view, build";
        let lines: Result<Vec<String>, _> = sqlx::query_scalar(STATE).fetch_all(&self.views).await;
        match lines {
            Ok(lines) => lines.join("\n"),
            Err(error) => error.to_string(),
        }
    }

    async fn views_behind(&self, ends: &BTreeMap<i32, i64>) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        let rows: Vec<(String, i32, i64, Option<String>)> = sqlx::query_as(
            "SELECT view, partition, next, error FROM millrace_views.checkpoints WHERE topic = $1",
        )
        .bind(TOPIC)
        .fetch_all(&self.views)
        .await?;
        let at: HashMap<(&str, i32), (i64, &Option<String>)> = rows
            .iter()
            .map(|(view, partition, next, error)| ((view.as_str(), *partition), (*next, error)))
            .collect();
        for view in VIEWS {
            for (partition, end) in ends {
                let (next, error) = at.get(&(view, *partition)).copied().unwrap_or((0, &None));
                if next < *end {
                    behind.push(format!("{view}/{partition} at {next} of {end} {error:?}"));
                }
            }
        }
        let open: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT view FROM millrace_views.resets WHERE done_at IS NULL",
        )
        .fetch_all(&self.views)
        .await?;
        behind.extend(open.iter().map(|view| format!("{view} is being rebuilt")));
        Ok(behind)
    }

    /// Checks 1 to 4. `planted` are ids that the test itself produced a second time.
    pub(super) async fn judge(&self, acks: &Path, planted: &[Uuid]) -> Result<Findings> {
        let journal = self.journal().await?;
        let topic = tokio::task::block_in_place(|| self.topic())?;
        let mut findings = Findings::default();
        topic_equals_journal(&journal, &topic, planted, &mut findings);
        sequences(&journal, &topic, planted, &mut findings);
        acknowledged(&journal, acks, &mut findings)?;
        findings.merge(self.judge_views(&journal).await?);
        Ok(findings)
    }

    /// Check 3 alone.
    pub(super) async fn judge_views(&self, journal: &[Event]) -> Result<Findings> {
        let mut findings = Findings::default();
        let mut decoder = fold::Decoder::new(&self.registry)?;
        let expected = fold::fold(journal, &mut decoder).await?;
        fold::compare(&expected, journal, &self.views, &mut findings).await?;
        Ok(findings)
    }
}
