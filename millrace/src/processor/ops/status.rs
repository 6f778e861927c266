//! Where every processor stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use serde::Serialize;

use super::{OpsError, read_blocks};
use crate::config::KafkaConfig;
use crate::handled::Handled;
use crate::log::consumer::{self, KAFKA_TIMEOUT};
use crate::log::offsets::Committed;
use crate::log::read::PartitionReader;
use crate::log::{Key, client};
use crate::processor::{Block, Handler, blocked_topic};
use crate::projection::ops::{ends_and_rest, members_by_group};

/// Processors of which is read at once: most of the time is waited for the broker.
const AT_ONCE: usize = 8;

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

/// How each of them stands, in their order. Blocks; call it on a thread that may.
pub fn status(
    kafka: &KafkaConfig,
    handlers: &[Arc<dyn Handler>],
) -> Result<Vec<ProcessorStatus>, OpsError> {
    let counts = partition_counts(kafka)?;
    let count = |topic: &str| {
        let count = counts.get(topic).copied();
        count.ok_or_else(|| OpsError::NoTopic(topic.to_owned()))
    };
    for handler in handlers {
        count(&handler.topic())?;
    }
    let committed = committed_of(kafka, handlers, &counts)?;
    let reader = PartitionReader::new(kafka, "status")?;
    // One that never committed begins where the log does.
    let mut begins: BTreeMap<Key, i64> = BTreeMap::new();
    let mut placed = Vec::with_capacity(handlers.len());
    for (handler, committed) in handlers.iter().zip(committed) {
        let mut positions = Vec::new();
        for key in keys(&handler.topic(), count(&handler.topic())?) {
            let next = match (committed.get(&key), begins.get(&key)) {
                (Some(committed), _) => committed.offset,
                (None, Some(begin)) => *begin,
                (None, None) => {
                    let begin = reader.ends(&key.0, key.1)?.0;
                    begins.insert(key.clone(), begin);
                    begin
                }
            };
            positions.push((key.0, key.1, next));
        }
        placed.push((handler, committed, positions));
    }
    let all: Vec<(String, i32, i64)> = placed
        .iter()
        .flat_map(|(_, _, positions)| positions.iter().cloned())
        .collect();
    let ends = ends_and_rest(kafka, &all)?;
    let members = members_by_group(kafka, None)?;
    let blocks = at_once(handlers, |handler| {
        let blocked = blocked_topic(&handler.group());
        let reader = PartitionReader::new(kafka, "blocked")?;
        read_blocks(&reader, &blocked, count(&blocked)?)
    })?;
    let mut statuses = Vec::with_capacity(placed.len());
    for ((handler, committed, positions), blocks) in placed.into_iter().zip(blocks) {
        let partitions: Vec<PartitionStatus> = positions
            .into_iter()
            .map(|(topic, partition, next)| {
                let key = (topic, partition);
                let committed = committed.get(&key);
                let place = (key, next);
                let end = ends.get(&place);
                let stable = end.map_or(next, |end| end.stable);
                PartitionStatus {
                    next: committed.map(|committed| committed.offset),
                    end: stable,
                    lag: (stable - next).max(0),
                    caught_up: end.is_none_or(|end| !end.left()),
                    handled: committed.map(Committed::handled).unwrap_or_default(),
                    topic: place.0.0,
                    partition,
                }
            })
            .collect();
        let group = handler.group();
        statuses.push(ProcessorStatus {
            processor: handler.name().to_owned(),
            members: members.get(&group).copied().unwrap_or(0),
            group,
            caught_up: partitions.iter().all(|partition| partition.caught_up),
            partitions,
            blocks: blocks.into_values().collect(),
        });
    }
    Ok(statuses)
}

/// What the group of each of them has committed, in their order. Blocks the thread.
pub(crate) fn committed(
    kafka: &KafkaConfig,
    handlers: &[Arc<dyn Handler>],
) -> Result<Vec<BTreeMap<Key, Committed>>, KafkaError> {
    committed_of(kafka, handlers, &partition_counts(kafka)?)
}

fn committed_of(
    kafka: &KafkaConfig,
    handlers: &[Arc<dyn Handler>],
    counts: &BTreeMap<String, i32>,
) -> Result<Vec<BTreeMap<Key, Committed>>, KafkaError> {
    at_once(handlers, |handler| {
        let topic = handler.topic();
        let keys = keys(&topic, counts.get(&topic).copied().unwrap_or(0));
        // Without a rebalance: only its committed offsets are read.
        let consumer: BaseConsumer = client::reader(kafka, "status")
            .set("group.id", handler.group())
            .create()?;
        consumer::committed(&consumer, &keys)
    })
}

/// Asks for all of them, some at a time; the answers are in their order.
fn at_once<T: Send, E: Send>(
    handlers: &[Arc<dyn Handler>],
    ask: impl Fn(&dyn Handler) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let mut all = Vec::with_capacity(handlers.len());
    for some in handlers.chunks(AT_ONCE) {
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = some
                .iter()
                .map(|handler| scope.spawn(|| ask(&**handler)))
                .collect();
            let answers = asked.into_iter().map(|asked| {
                asked
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            answers.collect::<Result<Vec<_>, _>>()
        })?;
        all.extend(answers);
    }
    Ok(all)
}

fn keys(topic: &str, count: i32) -> Vec<Key> {
    (0..count)
        .map(|partition| (topic.to_owned(), partition))
        .collect()
}

/// How many partitions each topic has.
fn partition_counts(kafka: &KafkaConfig) -> Result<BTreeMap<String, i32>, KafkaError> {
    let consumer: BaseConsumer = client::reader(kafka, "status").create()?;
    let metadata = consumer.fetch_metadata(None, KAFKA_TIMEOUT)?;
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| !topic.partitions().is_empty())
        .map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32))
        .collect())
}
