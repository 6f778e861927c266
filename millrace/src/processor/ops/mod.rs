//! What operators ask about processors, and what they ask of them.

mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use super::block::About;
use super::block::{Replay, replay_request};
use super::{
    Block, Handler, Letter, Request, blocked_topic, dlq_topic, fold_letters, redrive_request,
};
use crate::config::KafkaConfig;
use crate::log::client;
use crate::log::consumer::KAFKA_TIMEOUT;
use crate::log::read::{PartitionReader, ReadError};

pub(crate) use status::committed;
pub use status::{PartitionStatus, ProcessorStatus, status};

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
pub fn blocks(kafka: &KafkaConfig, handler: &dyn Handler) -> Result<Blocks, OpsError> {
    let topic = blocked_topic(&handler.group());
    let consumer: BaseConsumer = client::reader(kafka, "blocked").create()?;
    let reader = PartitionReader::new(kafka, "blocked")?;
    read_blocks(&reader, &topic, partitions(&consumer, &topic)?)
}

/// Blocked keys, by partition and raw key.
pub type Blocks = BTreeMap<(i32, Vec<u8>), Block>;

fn read_blocks(reader: &PartitionReader, topic: &str, partitions: i32) -> Result<Blocks, OpsError> {
    let mut blocks = Blocks::new();
    for partition in 0..partitions {
        reader.read((topic, partition), 0, |record| {
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
