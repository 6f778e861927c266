//! A write side whose commands come from Kafka, with a hand to send them and an eye on the replies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::codec::{DatumReader, unframe};
use millrace::command::inbox::{self, CommandReply, InboxConfig, InboxOptions};
use millrace::command::{AggregateType, Command, Commands, WriteConfig};
use millrace::config::{JournalConfig, KafkaConfig, Registration, RegistryConfig, Secret};
use millrace::http::health::{Component, Health};
use millrace::journal::Journal;
use millrace::log::{headers, topics};
use millrace::registry::{Registry, SchemaSet};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tests::hall::{Hall, HallCommand, HallEvent};
use tests::servers::Servers;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use tests::wait::LONGEST as DEADLINE;

/// Where the halls' commands come from; tests on it run one after another, because they share the group.
pub(super) const COMMANDS: &str = "hall.commands";
pub(super) const REPLIES: &str = "hall.replies";
pub(super) const GROUP: &str = "millrace.commands.hall";
pub(super) const LETTERS: &str = "millrace.commands.hall.dlq";

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A journal of its own on servers that may be shared.
pub(super) struct Rig<'s> {
    pub(super) servers: &'s Servers,
    pub(super) kafka: KafkaConfig,
    journal: JournalConfig,
    pub(super) registry: Registry,
    pub(super) producer: BaseProducer,
    pub(super) health: Health,
    pool: sqlx::PgPool,
    _alone: Option<tokio::sync::MutexGuard<'static, ()>>,
}

/// A member of the group; dropping it stops it without waiting.
pub(super) struct Member {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), inbox::InboxError>>,
}

impl Member {
    /// Drains and leaves the group.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        Ok((&mut self.ended).await??)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A record as it stands on a topic.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) partition: i32,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, String)>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Rig<'_> {
    pub(super) async fn shared(name: &str) -> Result<Rig<'static>> {
        let alone = ALONE.lock().await;
        let mut rig = Rig::on(Servers::shared(), name).await?;
        rig._alone = Some(alone);
        Ok(rig)
    }

    pub(super) async fn on<'s>(servers: &'s Servers, name: &str) -> Result<Rig<'s>> {
        let url = servers.fresh_database(name).await?;
        let journal = JournalConfig {
            database_url: Secret::from(url.as_str()),
        };
        let opened = Journal::open(&journal, &["hall"]).await?;
        let registry = Registry::open(
            &RegistryConfig {
                schema_registry_url: servers.registry().to_owned(),
                schema_registration: Registration::Register,
            },
            vec![
                SchemaSet::of::<HallEvent>(),
                SchemaSet::of_commands::<HallCommand>(),
                SchemaSet::of_replies::<HallCommand>(),
            ],
            Some(opened.pool().clone()),
        )
        .await?;
        let kafka = KafkaConfig {
            kafka_bootstrap: servers.kafka().to_owned(),
            kafka_properties: Default::default(),
            topic_partitions: 4,
            topic_replication: 1,
        };
        topics::ensure(&kafka, &inbox::topics("hall")).await?;
        Ok(Rig {
            servers,
            journal,
            registry,
            producer: ClientConfig::new()
                .set("bootstrap.servers", servers.kafka())
                .set("partitioner", "murmur2_random")
                .create()?,
            kafka,
            health: Health::default(),
            pool: opened.pool().clone(),
            _alone: None,
        })
    }

    /// One more producer whose inbox is in the group.
    pub(super) async fn member(&self, options: InboxOptions) -> Result<Member> {
        let journal = Journal::open(&self.journal, &["hall"]).await?;
        let commands = Commands::start(
            &[AggregateType::of::<Hall>()],
            journal.clone(),
            self.registry.clone(),
            WriteConfig::default(),
            4,
            Arc::new(Notify::new()),
        );
        let config = InboxConfig {
            kafka: self.kafka.clone(),
            options,
            commands,
            registry: self.registry.clone(),
            journal: journal.uuid(),
        };
        let shutdown = CancellationToken::new();
        let component: Component = self.health.component("inbox");
        let ended = tokio::spawn(inbox::run(config, "hall", component, shutdown.clone()));
        Ok(Member { shutdown, ended })
    }

    /// A command as a processor sends it.
    pub(super) fn send<C: Command>(&self, hall: &str, id: &str, command: &C) -> Result<()> {
        let (_, payload) = self.registry.codec().encode_command(command)?;
        self.send_raw(
            hall,
            &payload,
            &[(headers::ID, id), (headers::SUBJECT, hall)],
        )
    }

    pub(super) fn send_raw(&self, key: &str, payload: &[u8], with: &[(&str, &str)]) -> Result<()> {
        let mut all = OwnedHeaders::new();
        for (key, value) in with {
            all = all.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let record = BaseRecord::to(COMMANDS)
            .key(key)
            .payload(payload)
            .headers(all);
        self.producer.send(record).map_err(|(error, _)| error)?;
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<()> {
        Ok(self.producer.flush(Duration::from_secs(20))?)
    }

    /// Replies to these commands, each with all records that answer it, once every command has at least `each`.
    pub(super) fn replies(
        &self,
        ids: &[String],
        each: usize,
    ) -> Result<BTreeMap<String, Vec<(Seen, CommandReply)>>> {
        let mut found: BTreeMap<String, Vec<(Seen, CommandReply)>> = BTreeMap::new();
        let schema = SchemaSet::of_replies::<HallCommand>().schemas[0].json;
        let reader = DatumReader::parse(schema)?;
        let begun = Instant::now();
        self.read(REPLIES, |seen| {
            let id = seen.header(headers::CAUSATION_ID).to_owned();
            if ids.contains(&id) {
                let (_, body) = unframe(seen.payload.as_deref().context("a reply is empty")?)?;
                let reply = reader.read(body)?;
                found.entry(id).or_default().push((seen, reply));
            }
            let enough = |id: &String| found.get(id).is_some_and(|all| all.len() >= each);
            Ok(ids.iter().all(enough))
        })
        .with_context(|| format!("after {:?}", begun.elapsed()))?;
        Ok(found)
    }

    /// Reads a topic from its start until told to stop.
    pub(super) fn read(&self, topic: &str, stop: impl FnMut(Seen) -> Result<bool>) -> Result<()> {
        read_topic(&self.kafka.kafka_bootstrap, topic, stop)
    }

    /// Offsets that the group has committed, with their metadata, by partition.
    pub(super) fn committed(&self) -> Result<BTreeMap<i32, (i64, String)>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka.kafka_bootstrap)
            .set("group.id", GROUP)
            .create()?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..4 {
            asked.add_partition(COMMANDS, partition);
        }
        let committed = consumer.committed_offsets(asked, Duration::from_secs(20))?;
        Ok(committed
            .elements()
            .iter()
            .filter_map(|element| match element.offset() {
                Offset::Offset(next) => {
                    Some((element.partition(), (next, element.metadata().to_owned())))
                }
                _ => None,
            })
            .collect())
    }

    /// Waits until the group has committed the end of every partition.
    pub(super) async fn until_committed(&self) -> Result<()> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka.kafka_bootstrap)
            .create()?;
        let begun = Instant::now();
        loop {
            let committed = self.committed()?;
            let mut behind = 0;
            for partition in 0..4 {
                let (_, end) =
                    reader.fetch_watermarks(COMMANDS, partition, Duration::from_secs(20))?;
                behind += end - committed.get(&partition).map_or(0, |(next, _)| *next);
            }
            if behind == 0 {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < DEADLINE,
                "{behind} records behind: {committed:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Guests of a hall, in the order of its events.
    pub(super) async fn guests(&self, hall: &str) -> Result<Vec<String>> {
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT payload FROM millrace.events WHERE aggregate_id = $1 ORDER BY sequence",
        )
        .bind(hall)
        .fetch_all(&self.pool)
        .await?;
        payloads
            .iter()
            .map(|payload| {
                Ok(match self.registry.codec().decode(payload)? {
                    HallEvent::HallSeatReserved(reserved) => reserved.guest,
                    HallEvent::HallSeatReleased(released) => format!("-{}", released.guest),
                })
            })
            .collect()
    }
}

/// Reads a topic from its start until told to stop.
pub(super) fn read_topic(
    bootstrap: &str,
    topic: &str,
    mut stop: impl FnMut(Seen) -> Result<bool>,
) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("test-{}", Uuid::now_v7()))
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20))?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                let text = |value: Option<&[u8]>| {
                    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
                };
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    headers
                        .iter()
                        .map(|header| (header.key.to_owned(), text(header.value)))
                        .collect()
                });
                let seen = Seen {
                    partition: message.partition(),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers,
                };
                if stop(seen)? {
                    return Ok(());
                }
            }
        }
    }
    bail!("{topic} did not show what was waited for within {DEADLINE:?}")
}

/// An id or key that no other test uses.
pub(super) fn unique(name: &str) -> String {
    format!("{name}-{}", Uuid::now_v7().simple())
}
