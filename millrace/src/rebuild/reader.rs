//! Reading the log for a build: from given offsets, in no group, never past the live checkpoints.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::KafkaConfig;
use crate::log::client;
use crate::log::contact::{self, Contact};
use crate::projection::Record;
use crate::rebuild::RebuildError;

/// Topic and partition.
pub(super) type Key = (String, i32);
/// Offsets by partition.
pub(super) type Offsets = BTreeMap<Key, i64>;
const WAIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// Refuses a log whose start was deleted: a tally or plain SQL built from the rest would lack those events without a
/// trace, and the live rows, which have them, would be swapped out for it.
pub(super) fn whole(config: &KafkaConfig, view: &str, from: &Offsets) -> Result<(), RebuildError> {
    let reader: BaseConsumer = client::reader(config, "rebuild-starts").create()?;
    for ((topic, partition), next) in from {
        let (first, _) = reader.fetch_watermarks(topic, *partition, WAIT)?;
        if first > *next {
            return Err(RebuildError::Truncated {
                view: view.to_owned(),
                topic: topic.clone(),
                partition: *partition,
                first,
                next: *next,
            });
        }
    }
    Ok(())
}

/// Readers of a build, one a topic.
pub(super) struct Reader {
    topics: Vec<(Arc<str>, BaseConsumer<Contact>)>,
    /// Read, but at or behind the live checkpoint; its partition is paused until it is taken.
    ahead: BTreeMap<Key, VecDeque<Record>>,
    paused: BTreeSet<Key>,
}

impl Reader {
    /// Starts reading at these offsets.
    pub(super) fn open(config: &KafkaConfig, from: &Offsets) -> Result<Self, RebuildError> {
        let mut lists: BTreeMap<&str, TopicPartitionList> = BTreeMap::new();
        for ((topic, partition), offset) in from {
            lists.entry(topic).or_default().add_partition_offset(
                topic,
                *partition,
                Offset::Offset(*offset),
            )?;
        }
        let mut topics = Vec::new();
        for (topic, list) in lists {
            let consumer = contact::reader(config, "rebuild")?;
            consumer.assign(&list)?;
            topics.push((Arc::from(topic), consumer));
        }
        Ok(Self {
            topics,
            ahead: BTreeMap::new(),
            paused: BTreeSet::new(),
        })
    }

    /// Up to `limit` records below `until`, each partition's in order; none if nothing came for a moment.
    pub(super) fn collect(
        &mut self,
        until: &Offsets,
        limit: usize,
    ) -> Result<Vec<Record>, RebuildError> {
        let mut batch = Vec::new();
        self.take_ahead(until, limit, &mut batch)?;
        let mut empty_in_a_row = 0;
        while batch.len() < limit && empty_in_a_row < self.topics.len() {
            for (topic, consumer) in &self.topics {
                let wait = if batch.is_empty() {
                    POLL
                } else {
                    Duration::ZERO
                };
                let message = match consumer.poll(wait) {
                    None => {
                        consumer.context().check()?;
                        empty_in_a_row += 1;
                        continue;
                    }
                    // The end of one of many partitions: under load one of them always is at its end, and batches that
                    // ended there would be too small to ever catch up.
                    Some(Err(KafkaError::PartitionEOF(_))) => continue,
                    Some(message) => message?,
                };
                empty_in_a_row = 0;
                let record = Record::of(&message, topic.clone());
                let key = (topic.to_string(), record.partition);
                let allowed = until.get(&key).is_some_and(|until| record.offset < *until);
                let waiting = self.ahead.get(&key).is_some_and(|queue| !queue.is_empty());
                if allowed && !waiting {
                    batch.push(record);
                    continue;
                }
                if self.paused.insert(key.clone()) {
                    let mut list = TopicPartitionList::new();
                    list.add_partition(&key.0, key.1);
                    consumer.pause(&list)?;
                }
                self.ahead.entry(key).or_default().push_back(record);
            }
        }
        Ok(batch)
    }

    fn take_ahead(
        &mut self,
        until: &Offsets,
        limit: usize,
        batch: &mut Vec<Record>,
    ) -> Result<(), RebuildError> {
        for (key, queue) in &mut self.ahead {
            let until = until.get(key).copied().unwrap_or_default();
            while batch.len() < limit
                && let Some(record) = queue.pop_front_if(|record| record.offset < until)
            {
                batch.push(record);
            }
            if queue.is_empty() && self.paused.remove(key) {
                let mut list = TopicPartitionList::new();
                list.add_partition(&key.0, key.1);
                for (topic, consumer) in &self.topics {
                    if **topic == *key.0 {
                        consumer.resume(&list)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// True if a record at or behind `until` was read, so that none below it can come any more.
    pub(super) fn is_past(&self, key: &Key, until: i64) -> bool {
        self.ahead
            .get(key)
            .and_then(VecDeque::front)
            .is_some_and(|record| record.offset >= until)
    }
}

/// True if [from, until) holds no record, only transaction markers and aborted records.
///
/// `until` was the checkpoint of a sink that had read up to there, so all below it is readable by now; a
/// reader that is opened after that must meet a record or the end. An end that was met before proves nothing.
pub(super) fn is_empty(
    config: &KafkaConfig,
    key: &Key,
    from: i64,
    until: i64,
) -> Result<bool, RebuildError> {
    let reader: BaseConsumer = client::reader(config, "rebuild-probe").create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&key.0, key.1, Offset::Offset(from))?;
    reader.assign(&list)?;
    let begun = Instant::now();
    while begun.elapsed() < WAIT {
        match reader.poll(POLL) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => return Ok(message.offset() >= until),
        }
    }
    Err(RebuildError::Unread {
        topic: key.0.clone(),
        partition: key.1,
        offset: from,
        waited_s: WAIT.as_secs(),
    })
}
