//! Topics and processors of a test's own, on the shared servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use millrace::codec::Codec;
use millrace::command::CommandSet;
use millrace::config::{KafkaConfig, Properties};
use millrace::event::Event;
use millrace::log::client;
use millrace::log::read::ReadError;
use millrace::log::topics::{self, Kind, Topic};
use millrace::processor::ops::{self, OpsError};
use millrace::processor::{
    self, Block, Handler, Letter, ProcessorConfig, ProcessorOptions, RunningProcessor, Topology,
};
use millrace::projection::{BoxFuture, Decoder, LearnError, Record, SchemaSource};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};
use tests::event;
use tests::hall::{HallCommand, HallEvent, VenuePublished};
use tests::servers::Servers;
use tests::wait::LONGEST;
use uuid::Uuid;

use super::conformance::{Emitted, Log};
use super::published::Heard;
use super::seats::Own;

pub(super) struct World {
    pub(super) servers: &'static Servers,
    pub(super) kafka: KafkaConfig,
    pub(super) own: Arc<Own>,
    pub(super) codec: Codec,
    pub(super) options: ProcessorOptions,
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    sequences: HashMap<String, i64>,
    position: i64,
}

struct NoSchemas;

impl SchemaSource for NoSchemas {
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>> {
        Box::pin(async move {
            Err(LearnError::Unknown(format!(
                "schema id {schema_id} does not exist"
            )))
        })
    }
}

/// Reads and writes the halls' events and commands, and what is published, under ids of its own.
pub(super) fn codec() -> Result<Codec> {
    let of_hall = HallEvent::SCHEMAS.iter().chain(HallCommand::SCHEMAS);
    let of_hall = of_hall.map(|schema| (HallEvent::AGGREGATE, schema));
    let published = VenuePublished::SCHEMAS.iter();
    let published = published.map(|schema| (VenuePublished::AGGREGATE, schema));
    event::codec_of(&of_hall.chain(published).collect::<Vec<_>>(), 71)
}

impl World {
    pub(super) async fn new(topology: &Topology, partitions: i32) -> Result<Self> {
        let servers = Servers::shared();
        let id = Uuid::now_v7().simple().to_string();
        let own = Arc::new(Own::of(topology, &id[id.len() - 12..]));
        let kafka = KafkaConfig {
            kafka_bootstrap: servers.kafka().to_owned(),
            kafka_properties: Properties::default(),
            topic_partitions: partitions,
            topic_replication: 1,
        };
        let topic = |name: &str, kind| Topic {
            name: name.to_owned(),
            kind,
        };
        let mut all = vec![
            topic(&own.topic, Kind::Events),
            topic(&own.commands, Kind::Queue),
            topic(&own.published, Kind::Events),
        ];
        all.extend(processor::topics(&*own));
        topics::ensure(&kafka, &all).await?;
        Ok(Self {
            servers,
            own,
            codec: codec()?,
            options: ProcessorOptions {
                processor_attempts_max: 4,
                processor_backoff_ms: 20,
                ..ProcessorOptions::default()
            },
            producer: ClientConfig::new()
                .set("bootstrap.servers", servers.kafka())
                .set("partitioner", "murmur2_random")
                .set("linger.ms", "1")
                .create()?,
            sequences: HashMap::new(),
            position: 0,
            kafka,
        })
    }

    /// A transaction that has committed offsets of the group and neither commits nor aborts for so long.
    pub(super) fn hold_offsets(&self, timeout_ms: &str) -> Result<BaseProducer> {
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers.kafka())
            .set("group.id", self.own.group())
            .create()?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.servers.kafka())
            .set("transactional.id", format!("{}.hangs", self.own.group()))
            .set("transaction.timeout.ms", timeout_ms)
            .create()?;
        producer.init_transactions(LONGEST)?;
        producer.begin_transaction()?;
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.own.topic, 0, Offset::Offset(0))?;
        let group = member.group_metadata();
        let group = group.ok_or_else(|| anyhow::anyhow!("no group"))?;
        producer.send_offsets_to_transaction(&offsets, &group, LONGEST)?;
        Ok(producer)
    }

    pub(super) fn start(&self) -> RunningProcessor {
        self.start_with(&[])
    }

    pub(super) fn start_with(&self, properties: &[(&str, &str)]) -> RunningProcessor {
        let mut kafka = self.kafka.clone();
        kafka.kafka_properties = Properties(
            properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        );
        let config = ProcessorConfig {
            kafka,
            options: self.options.clone(),
        };
        let decoder = Decoder::new(self.codec.clone(), Arc::new(NoSchemas));
        RunningProcessor::start(config, self.own.clone(), decoder)
    }

    /// The next event of a hall; returns its id.
    pub(super) fn produce(&mut self, hall: &str, event: &HallEvent) -> Result<Uuid> {
        let (_, payload) = self.codec.encode(event)?;
        let sequence = self.sequences.entry(hall.to_owned()).or_default();
        *sequence += 1;
        let sequence = *sequence;
        self.position += 1;
        let id = Uuid::now_v7();
        let headers = event::headers(id, hall, sequence, self.position);
        self.send(hall, &payload, Some(headers))?;
        Ok(id)
    }

    /// A record as a stranger's tool writes it: no headers, no framing.
    pub(super) fn produce_foreign(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        self.send(key, payload, None)
    }

    fn send(&self, key: &str, payload: &[u8], headers: Option<OwnedHeaders>) -> Result<()> {
        let mut record = BaseRecord::to(&self.own.topic).key(key).payload(payload);
        record.headers = headers;
        self.producer.send(record).map_err(|(error, _)| error)?;
        Ok(self.producer.flush(LONGEST)?)
    }

    /// Every committed record of a topic, partition by partition.
    pub(super) fn read(&self, topic: &str) -> Result<Vec<Record>> {
        let consumer: BaseConsumer = client::reader(&self.kafka, "test").create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..self.kafka.topic_partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let name: Arc<str> = topic.into();
        let mut ended = 0;
        let mut records = Vec::new();
        let deadline = Instant::now() + LONGEST;
        while ended < self.kafka.topic_partitions {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(message) => {
                    let message = message?;
                    let mut headers = millrace::projection::HeaderBlock::default();
                    if let Some(found) = message.headers() {
                        use rdkafka::message::Headers;
                        for header in found.iter() {
                            headers.push(header.key, header.value);
                        }
                    }
                    records.push(Record::new(
                        (name.clone(), message.partition(), message.offset()),
                        message.key().map(<[u8]>::to_vec),
                        message.payload().map(<[u8]>::to_vec),
                        headers,
                    ));
                }
                None if Instant::now() > deadline => bail!("{topic} was not read in 30 s"),
                None => {}
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    /// Every command that was emitted.
    pub(super) fn commands(&self) -> Result<Vec<Emitted>> {
        self.read(&self.own.commands)?
            .iter()
            .map(|record| Emitted::of(&self.codec, record))
            .collect()
    }

    /// Waits until this many commands were emitted.
    pub(super) async fn until_commands(&self, count: usize) -> Result<Vec<Emitted>> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let commands = self.commands()?;
            if commands.len() >= count {
                return Ok(commands);
            }
            if Instant::now() > deadline {
                bail!("{} commands of {count} in time", commands.len());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The offset that the group has committed on a partition, and its metadata.
    pub(super) fn committed(&self, partition: i32) -> Result<Option<(i64, String)>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers.kafka())
            .set("group.id", self.own.group())
            .create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.own.topic, partition);
        let list = consumer.committed_offsets(list, LONGEST)?;
        let element = &list.elements()[0];
        Ok(match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        })
    }
}

/// The suite's view of Kafka: a world of one partition with a member that runs.
pub(super) struct Running {
    world: World,
    member: Option<RunningProcessor>,
}

impl Log for Running {
    async fn open(topology: Topology) -> Result<Self> {
        let world = World::new(&topology, 1).await?;
        let member = Some(world.start());
        Ok(Self { world, member })
    }

    fn pipe(&mut self, hall: &str, event: HallEvent) -> Result<Uuid> {
        self.world.produce(hall, &event)
    }

    fn pipe_foreign(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        self.world.produce_foreign(key, payload)
    }

    async fn settled(&mut self, offset: i64) -> Result<()> {
        let deadline = Instant::now() + LONGEST;
        loop {
            // A broker that was just started has no coordinator for a moment.
            let committed = self.world.committed(0).unwrap_or_default();
            let ours = |(next, metadata): &(i64, String)| *next == offset && !metadata.is_empty();
            if committed.as_ref().is_some_and(ours) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let health = self.member.as_ref().map(RunningProcessor::health);
                bail!("not at {offset} in time: {committed:?}, {health:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn commands(&mut self) -> Result<Vec<Emitted>> {
        self.world.commands()
    }

    fn published(&mut self) -> Result<Vec<Heard>> {
        let records = self.world.read(&self.world.own.published)?;
        let codec = &self.world.codec;
        records.iter().map(|one| Heard::of(codec, one)).collect()
    }

    fn letters(&mut self) -> Result<Vec<Letter>> {
        patiently(|| ops::letters(&self.world.kafka, &*self.world.own))
    }

    fn blocks(&mut self) -> Result<Vec<Block>> {
        let blocks = patiently(|| ops::blocks(&self.world.kafka, &*self.world.own))?;
        Ok(blocks.into_values().collect())
    }

    async fn redrive(&mut self, key: &str, skip: Option<i64>) -> Result<()> {
        let (kafka, own) = (&self.world.kafka, &*self.world.own);
        let asked = patiently(|| ops::redrive(kafka, own, key, skip))?;
        let deadline = Instant::now() + LONGEST;
        while patiently(|| ops::is_done(kafka, own, &asked))?.is_none() {
            if Instant::now() > deadline {
                bail!("{key} was not redriven in time");
            }
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        if let Some(member) = self.member.take() {
            member.stop().await?;
        }
        self.member = Some(self.world.start());
        Ok(())
    }

    async fn reset(&mut self, offset: i64) -> Result<()> {
        if let Some(member) = self.member.take() {
            member.stop().await?;
        }
        let (group, topic) = (self.world.own.group(), &self.world.own.topic);
        let to = ["--to-offset", &offset.to_string()];
        tests::stock::reset_offsets(self.world.servers, &group, topic, &to)?;
        self.member = Some(self.world.start());
        Ok(())
    }
}

/// A marker of a transaction may be written a moment after its commit was answered.
fn patiently<T>(mut look: impl FnMut() -> Result<T, OpsError>) -> Result<T> {
    let deadline = Instant::now() + LONGEST;
    loop {
        match tokio::task::block_in_place(&mut look) {
            Err(OpsError::Read(ReadError::Open { .. })) if Instant::now() < deadline => {}
            result => return Ok(result?),
        }
    }
}
