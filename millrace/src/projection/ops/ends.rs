//! How far the partitions go, and whether anything is left to read there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::KAFKA_TIMEOUT;
use crate::config::KafkaConfig;
use crate::log::client;

pub(super) type Ends = BTreeMap<(String, i32), End>;

/// The end of a partition.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Up to which transactions are finished.
    pub(crate) stable: i64,
    /// With those under way.
    pub(crate) last: i64,
    /// True if a record stands between the position and `stable`.
    pub(crate) left: bool,
}

/// The end of each partition, and whether a record stands between the position and it.
///
/// An end above the position does not say so: transactions leave markers, which are offsets without a
/// record. Only reading tells them apart.
pub(crate) fn ends_and_rest(
    kafka: &KafkaConfig,
    positions: &[(String, i32, i64)],
) -> Result<Ends, KafkaError> {
    let reader: BaseConsumer = client::reader(kafka, "status").create()?;
    let all: BaseConsumer = client::reader(kafka, "status")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let stable = latest(&reader, positions)?;
    let last = latest(&all, positions)?;
    let mut ends = Ends::new();
    let mut open: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (topic, partition, next) in positions {
        let key = (topic.clone(), *partition);
        let (Some(&stable), Some(&last)) = (stable.get(&key), last.get(&key)) else {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition));
        };
        let left = stable > *next;
        ends.insert(key, End { stable, last, left });
        if left {
            open.entry(topic).or_default().push((*partition, *next));
        }
    }
    // The end-of-partition event names no topic, so topics are read one after another.
    for (topic, partitions) in open {
        for partition in empty_from(&reader, topic, &partitions)? {
            if let Some(end) = ends.get_mut(&(topic.to_owned(), partition)) {
                end.left = false;
            }
        }
    }
    Ok(ends)
}

/// The end of each partition as this client sees it: one question to each broker, whereas the watermarks are asked for one
/// partition at a time.
fn latest(
    reader: &BaseConsumer,
    positions: &[(String, i32, i64)],
) -> Result<BTreeMap<(String, i32), i64>, KafkaError> {
    // The client refuses to ask about nothing.
    if positions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut asked = TopicPartitionList::new();
    for (topic, partition, _) in positions {
        asked.add_partition_offset(topic, *partition, Offset::End)?;
    }
    let answered = reader.offsets_for_times(asked, KAFKA_TIMEOUT)?;
    let mut ends = BTreeMap::new();
    for element in answered.elements() {
        element.error()?;
        if let Offset::Offset(end) = element.offset() {
            ends.insert((element.topic().to_owned(), element.partition()), end);
        }
    }
    Ok(ends)
}

/// Which of the partitions hold no record from the offset on.
fn empty_from(
    reader: &BaseConsumer,
    topic: &str,
    partitions: &[(i32, i64)],
) -> Result<Vec<i32>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, next) in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    reader.assign(&assignment)?;
    let mut waiting: BTreeSet<i32> = partitions.iter().map(|(partition, _)| *partition).collect();
    let mut empty = Vec::new();
    let started = Instant::now();
    while !waiting.is_empty() && started.elapsed() < KAFKA_TIMEOUT {
        let settled = match reader.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Ok(message)) => message.partition(),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if waiting.contains(&partition) {
                    empty.push(partition);
                }
                partition
            }
            // Such as an offset that the log no longer holds: not caught up, and `error` says why.
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "status reader");
                continue;
            }
        };
        if waiting.remove(&settled) {
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, settled);
            reader.pause(&done)?;
        }
    }
    reader.unassign()?;
    Ok(empty)
}
