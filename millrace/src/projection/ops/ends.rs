//! How far the partitions go, and whether anything is left to read there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::KAFKA_TIMEOUT;
use crate::config::KafkaConfig;
use crate::log::{Key, client};

/// By partition and position.
pub(crate) type Ends = BTreeMap<(Key, i64), End>;

/// The end of a partition, as one who stands in it sees it.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Up to which transactions are finished.
    pub(crate) stable: i64,
    /// With those under way.
    pub(crate) last: i64,
    /// The first record between the position and `stable`, where there is one; the position itself where it was not read
    /// in time, or the log no longer holds it.
    pub(crate) first: Option<i64>,
}

impl End {
    /// True if a record is left.
    pub(crate) fn left(&self) -> bool {
        self.first.is_some()
    }
}

/// The end of each partition, and the first record between each position and it.
///
/// An end above a position does not say that there is one: transactions leave markers, which are offsets without a
/// record. Only reading tells them apart. Many handlers stand in one partition; those that have caught up stand at the same
/// place, so few places are read.
pub(crate) fn ends_and_rest(
    kafka: &KafkaConfig,
    positions: &[(String, i32, i64)],
) -> Result<Ends, KafkaError> {
    let mut waiting: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
    for (topic, partition, next) in positions {
        let key = (topic.clone(), *partition);
        waiting.entry(key).or_default().insert(*next);
    }
    let mut ends = Ends::new();
    // The client refuses to ask about nothing.
    if waiting.is_empty() {
        return Ok(ends);
    }
    let reader: BaseConsumer = prompt(kafka).create()?;
    let all: BaseConsumer = prompt(kafka)
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let keys: Vec<Key> = waiting.keys().cloned().collect();
    let stable = edge(&reader, &keys, Offset::End)?;
    let last = edge(&all, &keys, Offset::End)?;
    let begins = edge(&reader, &keys, Offset::Beginning)?;
    for (key, nexts) in &mut waiting {
        let (Some(&stable), Some(&last)) = (stable.get(key), last.get(key)) else {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition));
        };
        for next in nexts.iter() {
            let first = (stable > *next).then_some(*next);
            let end = End {
                stable,
                last,
                first,
            };
            ends.insert((key.clone(), *next), end);
        }
        // What the log no longer holds is not read; the client would wait for it in vain.
        let begin = begins.get(key).copied().unwrap_or(0);
        nexts.retain(|next| (begin..stable).contains(next));
    }
    loop {
        let mut round: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
        for ((topic, partition), nexts) in &mut waiting {
            if let Some(next) = nexts.pop_first() {
                let of_topic = round.entry(topic.clone()).or_default();
                of_topic.push((*partition, next));
            }
        }
        if round.is_empty() {
            return Ok(ends);
        }
        // The end-of-partition event names no topic, so topics are read one after another.
        for (topic, partitions) in round {
            let firsts = firsts(&reader, &topic, &partitions)?;
            for (partition, next) in partitions {
                let place = ((topic.clone(), partition), next);
                if let (Some(end), Some(first)) = (ends.get_mut(&place), firsts.get(&partition)) {
                    end.first = *first;
                }
            }
        }
    }
}

/// A reader that is told at once that a partition has ended; others let the broker wait for more.
fn prompt(kafka: &KafkaConfig) -> ClientConfig {
    let mut reader = client::reader(kafka, "status");
    reader.set("fetch.wait.max.ms", "10");
    reader
}

/// The begin or the end of each partition as this client sees it: one question to each broker, whereas the watermarks are
/// asked for one partition at a time.
fn edge(
    reader: &BaseConsumer,
    keys: &[Key],
    edge: Offset,
) -> Result<BTreeMap<Key, i64>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in keys {
        asked.add_partition_offset(topic, *partition, edge)?;
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

/// The first record of each partition from the offset on, or that there is none; a partition that was not read in time is
/// missing.
fn firsts(
    reader: &BaseConsumer,
    topic: &str,
    partitions: &[(i32, i64)],
) -> Result<BTreeMap<i32, Option<i64>>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, next) in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    reader.assign(&assignment)?;
    let mut firsts = BTreeMap::new();
    let started = Instant::now();
    while firsts.len() < partitions.len() && started.elapsed() < KAFKA_TIMEOUT {
        let (partition, first) = match reader.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Ok(message)) => (message.partition(), Some(message.offset())),
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, None),
            // Such as an offset that the log no longer holds: not caught up, and `error` says why.
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "status reader");
                continue;
            }
        };
        if let Entry::Vacant(unread) = firsts.entry(partition) {
            unread.insert(first);
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, partition);
            reader.pause(&done)?;
        }
    }
    // The client remembers what was paused beyond the assignment.
    reader.resume(&assignment)?;
    reader.unassign()?;
    Ok(firsts)
}
