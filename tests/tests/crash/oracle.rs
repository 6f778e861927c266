//! Judges journal, topic and views with SQL, a Kafka client and an Avro decoder of its own; nothing of Millrace is called.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message as _, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::facts::Facts;
use super::flow;
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

/// An event as the journal has it, in the journal's order.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Event {
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) sequence: i64,
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    pub(super) schema_id: i32,
    pub(super) payload: Vec<u8>,
    pub(super) occurred_at: chrono::DateTime<chrono::Utc>,
}

/// A record of an event topic.
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: String,
    pub(super) event_id: Uuid,
    pub(super) sequence: i64,
    pub(super) payload: Vec<u8>,
    pub(super) headers: OwnedHeaders,
}

pub(crate) struct Oracle {
    pub(super) journal: PgPool,
    pub(super) views: PgPool,
    pub(super) kafka: String,
    pub(super) registry: String,
}

impl Oracle {
    pub(crate) fn new(servers: &tests::servers::Servers) -> Result<Self> {
        // Lazy: Postgres is killed and restarted beside it.
        let pool = || PgPoolOptions::new().max_connections(2);
        Ok(Self {
            journal: pool().connect_lazy(servers.database_url())?,
            views: pool().connect_lazy(servers.views_database_url())?,
            kafka: servers.kafka().to_owned(),
            registry: servers.registry().to_owned(),
        })
    }

    pub(super) fn client(&self) -> ClientConfig {
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
    pub(super) fn read<T>(
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
        let mut lasts: HashMap<i32, i64> = HashMap::new();
        while open > 0 {
            match consumer
                .poll(wait)
                .context("the topic's end was not reached in 30 s")?
            {
                Ok(message) => {
                    // A client that delivers a record again would pass for a relay that published it twice.
                    let last = lasts.insert(message.partition(), message.offset());
                    let (partition, offset) = (message.partition(), message.offset());
                    ensure!(
                        last < Some(offset),
                        "{topic}/{partition}: offset {offset} was delivered behind {last:?}"
                    );
                    taken.push(take(&message)?);
                }
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

    /// The records of an event topic.
    pub(crate) fn events(&self, topic: &str) -> Result<Vec<Record>> {
        self.read(topic, |message| {
            let headers = message.headers().context("a record without headers")?;
            Ok(Record {
                topic: topic.to_owned(),
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

    pub(crate) async fn journal(&self) -> Result<Vec<Event>> {
        Ok(sqlx::query_as(
            "SELECT e.aggregate_type, e.aggregate_id, e.sequence, e.event_id, e.event_type, e.schema_id, e.payload, e.occurred_at
             FROM millrace.events AS e ORDER BY e.generation, e.xid, e.position",
        )
        .fetch_all(&self.journal)
        .await?)
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

    /// Check 3 beside checks 1, 2 and 4 that others do: orders, stock, totals and the list of events, of a journal that holds
    /// more than these.
    pub(crate) async fn views_equal_folds(
        &self,
        journal: &[Event],
        decoder: &mut fold::Decoder,
        findings: &mut Findings,
    ) -> Result<()> {
        let goods: Vec<Event> = journal
            .iter()
            .filter(|event| ["order", "stock"].contains(&event.aggregate_type.as_str()))
            .cloned()
            .collect();
        let data = decoder.all(&goods).await?;
        let expected = fold::fold(&goods, &data)?;
        fold::compare(&expected, journal, &self.views, findings).await
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
