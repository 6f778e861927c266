//! What operators ask about processors, and what they ask of them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Serialize;
use uuid::Uuid;

use super::block::About;
use super::block::{Replay, replay_request};
use super::{
    Block, Handler, Letter, Request, blocked_topic, dlq_topic, fold_letters, redrive_request,
};
use crate::config::KafkaConfig;
use crate::handled::Handled;
use crate::log::Key;
use crate::log::client;
use crate::log::consumer::{self, KAFKA_TIMEOUT};
use crate::log::offsets::Committed;
use crate::log::read::{PartitionReader, ReadError};
use crate::projection::ops::ends_and_rest;

/// Why an operator's question or request failed.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A topic of the processor was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Only the letter at the head of a key can be given up.
    #[error(
        "the first dead letter of {key} that waits stands at offset {first}, not {offset}: look at it with `millrace dlq show` first"
    )]
    NotFirst {
        /// The key.
        key: String,
        /// What was named.
        offset: i64,
        /// What waits.
        first: i64,
    },
    /// There is nothing to redrive.
    #[error(
        "{processor} has no dead letter with the key {key}: `millrace dlq list {processor}` shows those that it has"
    )]
    NotBlocked {
        /// Which processor.
        processor: String,
        /// The key.
        key: String,
    },
    /// The processor never ran.
    #[error("topic {0} does not exist: the processor has not run yet")]
    NoTopic(String),
}

/// How a processor stands in Kafka.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessorStatus {
    /// Its name.
    pub processor: String,
    /// Its consumer group.
    pub group: String,
    /// Members of the group, joining ones included.
    pub members: usize,
    /// True where every event is handled.
    pub caught_up: bool,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
    /// Keys with dead letters.
    pub blocks: Vec<Block>,
}

/// How a processor stands on one partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset to handle; none before the first commit.
    pub next: Option<i64>,
    /// Where the partition ends.
    pub end: i64,
    /// End minus next; transaction markers count.
    pub lag: i64,
    /// True where no event stands between.
    pub caught_up: bool,
    /// What it has handled here.
    #[serde(flatten)]
    pub handled: Handled,
}

/// How a processor stands. Blocks; call it on a thread that may.
pub fn status(kafka: &KafkaConfig, handler: &dyn Handler) -> Result<ProcessorStatus, OpsError> {
    let (group, topic) = (handler.group(), handler.topic());
    // Without a rebalance: only its committed offsets are read.
    let consumer: BaseConsumer = client::reader(kafka, "status")
        .set("group.id", &group)
        .create()?;
    let count = partitions(&consumer, &topic)?;
    let keys: Vec<Key> = (0..count)
        .map(|partition| (topic.clone(), partition))
        .collect();
    let committed = consumer::committed(&consumer, &keys)?;
    let reader = PartitionReader::new(kafka, "status")?;
    let mut positions = Vec::with_capacity(keys.len());
    for (topic, partition) in &keys {
        let next = match committed.get(&(topic.clone(), *partition)) {
            Some(committed) => committed.offset,
            None => reader.ends(topic, *partition)?.0,
        };
        positions.push((topic.clone(), *partition, next));
    }
    let ends = ends_and_rest(kafka, &positions)?;
    let partitions: Vec<PartitionStatus> = positions
        .into_iter()
        .map(|(topic, partition, next)| {
            let key = (topic.clone(), partition);
            let (end, left) = ends
                .get(&key)
                .map_or((next, false), |end| (end.stable, end.left));
            PartitionStatus {
                next: committed.get(&key).map(|committed| committed.offset),
                end,
                lag: (end - next).max(0),
                caught_up: !left,
                handled: committed
                    .get(&key)
                    .map(Committed::handled)
                    .unwrap_or_default(),
                topic,
                partition,
            }
        })
        .collect();
    let groups = consumer.fetch_group_list(Some(&group), KAFKA_TIMEOUT)?;
    Ok(ProcessorStatus {
        processor: handler.name().to_owned(),
        members: groups
            .groups()
            .iter()
            .filter(|listed| listed.name() == group)
            .map(|listed| listed.members().len())
            .sum(),
        group,
        caught_up: partitions.iter().all(|partition| partition.caught_up),
        partitions,
        blocks: blocks(kafka, handler)?.into_values().collect(),
    })
}

/// How many partitions a topic has.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<i32, OpsError> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
    let count = metadata
        .topics()
        .first()
        .map_or(0, |found| found.partitions().len());
    match count {
        0 => Err(OpsError::NoTopic(topic.to_owned())),
        count => Ok(count as i32),
    }
}

/// The blocked keys of a processor, by partition and raw key. Blocks the thread.
pub fn blocks(
    kafka: &KafkaConfig,
    handler: &dyn Handler,
) -> Result<BTreeMap<(i32, Vec<u8>), Block>, OpsError> {
    let topic = blocked_topic(&handler.group());
    let consumer: BaseConsumer = client::reader(kafka, "blocked").create()?;
    let reader = PartitionReader::new(kafka, "blocked")?;
    let mut blocks = BTreeMap::new();
    for partition in 0..partitions(&consumer, &topic)? {
        reader.read((&topic, partition), 0, |record| {
            let Some((About::Block, _, key)) = About::parse(&record.key.unwrap_or_default()) else {
                return;
            };
            match record.payload.map(|value| serde_json::from_slice(&value)) {
                Some(Ok(block)) => {
                    blocks.insert((partition, key), block);
                }
                Some(Err(error)) => tracing::warn!(partition, %error, "a block cannot be read"),
                None => {
                    blocks.remove(&(partition, key));
                }
            }
        })?;
    }
    Ok(blocks)
}

/// Every dead letter of a processor that its topic still holds, in the order of partition and offset. Blocks the thread.
pub fn letters(kafka: &KafkaConfig, handler: &dyn Handler) -> Result<Vec<Letter>, OpsError> {
    let topic = dlq_topic(&handler.group());
    let consumer: BaseConsumer = client::reader(kafka, "dlq").create()?;
    let reader = PartitionReader::new(kafka, "dlq")?;
    let mut letters = Vec::new();
    for partition in 0..partitions(&consumer, &topic)? {
        let mut records = Vec::new();
        reader.read((&topic, partition), 0, |record| records.push(record))?;
        letters.extend(fold_letters(records));
    }
    Ok(letters)
}

/// A request that was made; see [`is_done`].
#[derive(Debug, Clone)]
pub struct Asked {
    partition: i32,
    key: Vec<u8>,
    topic: String,
    id: Uuid,
}

/// Asks the owner of a key's partition to redrive the key. Blocks the thread until the request is durable.
///
/// With `skip`, the source offset of the key's first waiting letter, that one is given up: it is marked and never handled, and
/// what waits behind it is redriven.
pub fn redrive(
    kafka: &KafkaConfig,
    handler: &dyn Handler,
    key: &str,
    skip: Option<i64>,
) -> Result<Asked, OpsError> {
    let blocks = blocks(kafka, handler)?;
    let found = blocks
        .into_iter()
        .find(|((_, raw), _)| raw == key.as_bytes());
    let Some(((partition, raw), block)) = found else {
        return Err(OpsError::NotBlocked {
            processor: handler.name().to_owned(),
            key: key.to_owned(),
        });
    };
    if let Some(offset) = skip.filter(|offset| *offset != block.first) {
        return Err(OpsError::NotFirst {
            key: key.to_owned(),
            offset,
            first: block.first,
        });
    }
    let request = Request {
        id: Uuid::now_v7(),
        skip,
    };
    let at = (block.topic.as_str(), partition, raw.as_slice());
    let record = redrive_request(&handler.group(), at, &request);
    let producer: BaseProducer = client::producer(kafka, "redrive").create()?;
    let produced = BaseRecord::to(&record.topic)
        .partition(partition)
        .key(record.key.as_deref().unwrap_or_default())
        .payload(record.payload.as_deref().unwrap_or_default());
    producer.send(produced).map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(30))?;
    Ok(Asked {
        partition,
        key: raw,
        topic: block.topic,
        id: request.id,
    })
}

/// Asks the owners of these partitions of the processor's topic to handle everything again from an offset on; the id tells
/// the replay. A repeat does no harm: the owner follows a replay once. Blocks the thread until the requests are durable.
pub fn ask_replay(
    kafka: &KafkaConfig,
    handler: &dyn Handler,
    id: Uuid,
    from: &[(i32, i64)],
) -> Result<(), OpsError> {
    let producer: BaseProducer = client::producer(kafka, "replay").create()?;
    let topic = handler.topic();
    for (partition, from) in from {
        let replay = Replay { id, from: *from };
        let record = replay_request(&handler.group(), (&topic, *partition), &replay);
        let produced = BaseRecord::to(&record.topic)
            .partition(*partition)
            .key(record.key.as_deref().unwrap_or_default())
            .payload(record.payload.as_deref().unwrap_or_default());
        producer.send(produced).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(10))?;
    Ok(())
}

/// What became of a request: nothing yet, or the block that is left, if one is. Blocks the thread.
pub fn is_done(
    kafka: &KafkaConfig,
    handler: &dyn Handler,
    asked: &Asked,
) -> Result<Option<Option<Block>>, OpsError> {
    let topic = blocked_topic(&handler.group());
    let reader = PartitionReader::new(kafka, "redrive")?;
    let (mut open, mut block) = (false, None);
    reader.read((&topic, asked.partition), 0, |record| {
        match About::parse(&record.key.unwrap_or_default()) {
            Some((About::Redrive, topic, key)) if topic == asked.topic && key == asked.key => {
                let request = record
                    .payload
                    .and_then(|value| serde_json::from_slice::<Request>(&value).ok());
                // A newer request in its place is as good: both ask for the same.
                open = request.is_some_and(|request| request.id >= asked.id);
            }
            Some((About::Block, topic, key)) if topic == asked.topic && key == asked.key => {
                block = record
                    .payload
                    .and_then(|value| serde_json::from_slice(&value).ok());
            }
            _ => {}
        }
    })?;
    Ok((!open).then_some(block))
}
