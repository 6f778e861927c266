//! Judges journal, topic and views with SQL, a Kafka client and an Avro decoder of its own; nothing of Millrace is called.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message as _, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::flow::{self, Facts};
use super::fold;
use super::outside::Outside;
use super::verdict::{Findings, acknowledged, sequences, topic_equals_journal};

pub(super) const TOPIC: &str = "order.events";
pub(super) const STOCK_TOPIC: &str = "stock.events";
/// Each view with the topics that it reads.
pub(super) const VIEWS: [(&str, &[&str]); 4] = [
    ("orders", &[TOPIC]),
    ("stock", &[STOCK_TOPIC]),
    ("customer-totals", &[TOPIC]),
    ("event-log", &[TOPIC, STOCK_TOPIC]),
];
/// Each group of the flow with the topic that it reads.
pub(super) const GROUPS: [(&str, &str); 4] = [
    ("millrace.processor.order-stock", TOPIC),
    ("millrace.processor.stock-order", STOCK_TOPIC),
    ("millrace.commands.order", "order.commands"),
    ("millrace.commands.stock", "stock.commands"),
];

/// Where topics end: after their last record, whatever markers of transactions follow it.
type Ends = BTreeMap<(String, i32), i64>;

/// An event as the journal has it, in the journal's order.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Event {
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) sequence: i64,
    pub(super) event_id: Uuid,
    pub(super) event_type: String,
    pub(super) schema_id: i32,
    pub(super) payload: Vec<u8>,
    pub(super) occurred_at: chrono::DateTime<chrono::Utc>,
}

/// A record of an event topic.
pub(super) struct Record {
    pub(super) topic: &'static str,
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
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<T>,
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

    /// Every event in Kafka, topic after topic. No order has the id of a product, so that an id alone tells an aggregate.
    pub(super) fn topics(&self) -> Result<Vec<Record>> {
        let mut records = self.events(TOPIC)?;
        records.extend(self.events(STOCK_TOPIC)?);
        Ok(records)
    }

    fn events(&self, topic: &'static str) -> Result<Vec<Record>> {
        self.read(topic, |message| {
            let headers = message.headers().context("a record without headers")?;
            Ok(Record {
                topic,
                partition: message.partition(),
                offset: message.offset(),
                key: String::from_utf8(message.key().context("no key")?.to_vec())?,
                event_id: header(message, "ce_id")?.parse()?,
                sequence: header(message, "ce_sequence")?.parse()?,
                payload: message.payload().unwrap_or_default().to_vec(),
                headers: headers.detach(),
            })
        })
    }

    pub(super) async fn journal(&self) -> Result<Vec<Event>> {
        Ok(sqlx::query_as(
            "SELECT e.aggregate_type, e.aggregate_id, e.sequence, e.event_id, e.event_type, e.schema_id, e.payload, e.occurred_at
             FROM millrace.events AS e ORDER BY e.generation, e.xid, e.position",
        )
        .fetch_all(&self.journal)
        .await?)
    }

    /// Waits until nothing moves any more: the relay has published the journal to its end, every view has applied the topics,
    /// processors and inboxes have read theirs, no call is open, no timer is pending, and the journal is still the same.
    pub(super) async fn quiesce(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let last = self.newest_event().await?;
            let mut behind = tokio::task::block_in_place(|| self.relay_behind(last))?;
            if behind.is_empty() {
                let ends = tokio::task::block_in_place(|| self.ends())?;
                behind = self.views_behind(&ends).await?;
                behind.extend(tokio::task::block_in_place(|| self.groups_behind(&ends))?);
                behind.extend(self.effects_behind(&ends).await?);
                behind.extend(self.timers_pending().await?);
            }
            if behind.is_empty() && self.newest_event().await? == last {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not drained within {within:?}: {}",
                behind.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn newest_event(&self) -> Result<Uuid> {
        let last: Option<Uuid> = sqlx::query_scalar(
            "SELECT e.event_id FROM millrace.events AS e
             ORDER BY e.generation DESC, e.xid DESC, e.position DESC LIMIT 1",
        )
        .fetch_optional(&self.journal)
        .await?;
        last.context("the journal is empty")
    }

    fn relay_behind(&self, last: Uuid) -> Result<Vec<String>> {
        let published = self.relay_stands_at()?;
        if published == Some(last) {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "the relay stands at {published:?}, the journal ends at {last}"
        )])
    }

    fn ends(&self) -> Result<Ends> {
        let mut ends = Ends::new();
        let topics: BTreeSet<&str> = GROUPS.iter().map(|(_, topic)| *topic).collect();
        for topic in topics {
            for (partition, offset) in
                self.read(topic, |message| Ok((message.partition(), message.offset())))?
            {
                let end = ends.entry((topic.to_owned(), partition)).or_default();
                *end = (*end).max(offset + 1);
            }
        }
        Ok(ends)
    }

    /// The groups whose committed offsets do not stand at the topics' ends.
    fn groups_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for (group, topic) in GROUPS {
            let mut client = self.client();
            let consumer: BaseConsumer = client.set("group.id", group).create()?;
            let mut list = TopicPartitionList::new();
            let of_topic = ends.iter().filter(|((of, _), _)| of == topic);
            for ((_, partition), _) in of_topic.clone() {
                list.add_partition(topic, *partition);
            }
            let committed = consumer.committed_offsets(list, Duration::from_secs(30))?;
            for ((_, partition), end) in of_topic {
                let found = committed.find_partition(topic, *partition);
                let next = found.map(|element| element.offset());
                if !matches!(next, Some(Offset::Offset(next)) if next >= *end) {
                    behind.push(format!("{group}/{partition} at {next:?} of {end}"));
                }
            }
        }
        Ok(behind)
    }

    async fn effects_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s calls of %s are %s', count(*), effect, state) FROM millrace_effects.calls
             WHERE state IN ('pending', 'calling', 'done', 'failed') GROUP BY effect, state",
        )
        .fetch_all(&self.views)
        .await?;
        let rows: Vec<(String, i32, i64, Option<String>)> = sqlx::query_as(
            "SELECT topic, partition, next, error FROM millrace_effects.checkpoints WHERE effect = $1",
        )
        .bind(flow::EFFECT)
        .fetch_all(&self.views)
        .await?;
        for ((topic, partition), end) in ends.iter().filter(|((topic, _), _)| topic == TOPIC) {
            let row = rows
                .iter()
                .find(|row| row.0 == *topic && row.1 == *partition);
            if row.is_none_or(|row| row.2 < *end) {
                behind.push(format!("effect on {topic}/{partition} at {row:?} of {end}"));
            }
        }
        Ok(behind)
    }

    /// Waits until the effect has claimed every partition.
    pub(super) async fn until_effect_stands(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let partitions = tokio::task::block_in_place(|| {
            let consumer: BaseConsumer = self.client().create()?;
            let metadata = consumer.fetch_metadata(Some(TOPIC), Duration::from_secs(30))?;
            anyhow::Ok(metadata.topics()[0].partitions().len() as i64)
        })?;
        loop {
            let held = "SELECT count(*) FROM millrace_effects.checkpoints";
            let held: Result<i64, _> = sqlx::query_scalar(held).fetch_one(&self.views).await;
            if held.as_ref().is_ok_and(|held| *held == partitions) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the effect holds {held:?} of {partitions} partitions after 60 s"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn timers_pending(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            "SELECT format('%s timers are pending', count(*)) FROM millrace.timers
             WHERE state = 'pending' HAVING count(*) > 0",
        )
        .fetch_all(&self.journal)
        .await?)
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

    async fn views_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        let rows: Vec<(String, String, i32, i64, Option<String>)> = sqlx::query_as(
            "SELECT view, topic, partition, next, error FROM millrace_views.checkpoints",
        )
        .fetch_all(&self.views)
        .await?;
        let at: HashMap<(&str, &str, i32), (i64, &Option<String>)> = rows
            .iter()
            .map(|(view, topic, partition, next, error)| {
                ((view.as_str(), topic.as_str(), *partition), (*next, error))
            })
            .collect();
        for (view, topics) in VIEWS {
            for ((topic, partition), end) in ends {
                if !topics.contains(&topic.as_str()) {
                    continue;
                }
                let (next, error) = at
                    .get(&(view, topic.as_str(), *partition))
                    .copied()
                    .unwrap_or((0, &None));
                if next < *end {
                    behind.push(format!(
                        "{view} on {topic}/{partition} at {next} of {end} {error:?}"
                    ));
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

    /// Checks 1 to 4 and 6 to 10. `planted` are ids that the test itself produced a second time; `replays` says how often the
    /// processors were set to the log's start.
    pub(super) async fn judge(
        &self,
        acks: &Path,
        outside: &Outside,
        planted: &[Uuid],
        replays: usize,
    ) -> Result<Findings> {
        let journal = self.journal().await?;
        let topic = tokio::task::block_in_place(|| self.topics())?;
        let mut findings = Findings::default();
        topic_equals_journal(&journal, &topic, planted, &mut findings);
        sequences(&journal, &topic, planted, &mut findings);
        let mut decoder = fold::Decoder::new(&self.registry)?;
        let data = decoder.all(&journal).await?;
        let facts = Facts::read(self, &journal, &data, outside).await?;
        let accepted = acknowledged(&journal, acks, &facts.outcomes, &mut findings)?;
        let expected = fold::fold(&journal, &data)?;
        fold::compare(&expected, &journal, &self.views, &mut findings).await?;
        flow::judge(&facts, &expected, &accepted, replays, &mut findings);
        println!("          {}", facts.told());
        Ok(findings)
    }

    /// The records of a topic that is not one of events.
    pub(super) fn messages(&self, topic: &str) -> Result<Vec<Message>> {
        self.read(topic, |message| {
            Ok(Message {
                partition: message.partition(),
                offset: message.offset(),
                key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
                id: header(message, "ce_id").unwrap_or_default(),
                source: header(message, "ce_source").unwrap_or_default(),
                cause: header(message, "ce_causationid").unwrap_or_default(),
                letter_offset: header(message, "millrace_dlq_offset").unwrap_or_default(),
            })
        })
    }
}

/// A command, a reply or a dead letter, as far as its headers say.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) cause: String,
    /// Of a dead letter: where its record stood.
    pub(super) letter_offset: String,
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Result<String> {
    let headers = message.headers().context("a record without headers")?;
    let found = headers.iter().find(|header| header.key == name);
    let value = found.and_then(|header| header.value);
    let value = value.with_context(|| format!("a record without {name}"))?;
    Ok(String::from_utf8(value.to_vec())?)
}
