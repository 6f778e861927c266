//! Up to where the journal was published: one record in a compacted topic, written with the events it speaks of.
//!
//! Invariant: the record commits in the same Kafka transaction as the events up to it, so that whoever reads it
//! read-committed after `init_transactions` knows exactly what was published. The schedule that would break a
//! record written afterwards: commit, crash, restart, and the last batch is published twice.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::KafkaConfig;
use crate::log::client;
use crate::position::JournalPosition;
use crate::relay::RelayError;

/// Key of every position record: the topic is compacted to the newest.
pub const KEY: &str = "position";

/// Records read at the first step back from the end; each further step is sixteen times as long.
const FIRST_STEP: i64 = 64;
/// Longest wait for anything from the position topic.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the journal when events were published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRecord {
    /// The journal's identity.
    pub journal: Uuid,
    /// Generation of the last published event.
    pub generation: i32,
    /// Transaction of the last published event.
    pub xid: i64,
    /// Number of the last published event.
    pub position: i64,
    /// Id of the last published event.
    pub event_id: Uuid,
    /// `system_identifier` of the cluster; text, because JSON readers lose digits of large numbers.
    pub system: String,
    /// Timeline of its write-ahead log.
    pub timeline: i64,
    /// Where that log was flushed to, in bytes.
    pub wal_bytes: i64,
}

impl PositionRecord {
    /// The last published event's key in the journal's order.
    pub fn cursor(&self) -> JournalPosition {
        JournalPosition {
            generation: self.generation,
            xid: self.xid,
            position: self.position,
        }
    }
}

/// The newest committed position, or nothing if the topic never held one.
///
/// Blocks; call it after `init_transactions`, which ends what the predecessor left open. A timeout is an error.
pub fn read_latest(
    config: &KafkaConfig,
    topic: &str,
) -> Result<Option<PositionRecord>, RelayError> {
    let unread = |reason: String| RelayError::PositionUnread {
        topic: topic.to_owned(),
        reason,
    };
    let kafka = |error: KafkaError| unread(error.to_string());
    let consumer: BaseConsumer = client::reader(config, "relay-position")
        .create()
        .map_err(kafka)?;
    let uncommitted: BaseConsumer = client::reader(config, "relay-position")
        .set("isolation.level", "read_uncommitted")
        .create()
        .map_err(kafka)?;
    let (low, end) = uncommitted
        .fetch_watermarks(topic, 0, READ_TIMEOUT)
        .map_err(kafka)?;
    let (_, stable) = consumer
        .fetch_watermarks(topic, 0, READ_TIMEOUT)
        .map_err(kafka)?;
    // Something of another producer is still open there: what lies behind it cannot be read, nor ruled out.
    if stable < end {
        return Err(unread(format!(
            "a transaction is open from offset {stable} on, the log ends at {end}"
        )));
    }
    let mut step = FIRST_STEP;
    loop {
        let start = end.saturating_sub(step).max(low);
        if let Some(record) = last_from(&consumer, topic, start, end)? {
            return Ok(Some(record));
        }
        if start == low {
            return Ok(None);
        }
        step = step.saturating_mul(16);
    }
}

/// The last record at or after `start`, read to `end`, the high watermark.
fn last_from(
    consumer: &BaseConsumer,
    topic: &str,
    start: i64,
    end: i64,
) -> Result<Option<PositionRecord>, RelayError> {
    let unread = |reason: String| RelayError::PositionUnread {
        topic: topic.to_owned(),
        reason,
    };
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Offset(start))
        .and_then(|()| consumer.assign(&assignment))
        .map_err(|error| unread(error.to_string()))?;
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut last = None;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let read = serde_json::from_slice(message.payload().unwrap_or_default());
                last = Some(read.map_err(|error| RelayError::PositionUnreadable {
                    topic: topic.to_owned(),
                    offset: message.offset(),
                    reason: error.to_string(),
                }));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                proven_end(consumer, topic, 0, start, end)?;
                return last.transpose();
            }
            Some(Err(error)) => return Err(unread(error.to_string())),
            None if Instant::now() > deadline => {
                return Err(unread(format!("no end after {} s", READ_TIMEOUT.as_secs())));
            }
            None => {}
        }
    }
}

/// Refuses an end that came too early.
///
/// The client reports an end where the broker that answered has no more. Schedule that breaks a reader which
/// believes it: a replica that lags becomes leader between the look at the watermarks and the fetch; its end lies
/// before the newest position; an older one is taken, and what was published since is published twice. The last
/// record before the watermark is a commit or abort marker, which moves the client's position like any other.
fn proven_end(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    start: i64,
    end: i64,
) -> Result<(), RelayError> {
    let unread = |reason: String| RelayError::PositionUnread {
        topic: topic.to_owned(),
        reason,
    };
    let positions = consumer
        .position()
        .map_err(|error| unread(error.to_string()))?;
    let position = positions
        .find_partition(topic, partition)
        .map_or(Offset::Invalid, |found| found.offset());
    match short_of(position, start, end) {
        Some(reached) => Err(unread(format!(
            "partition {partition} was said to end at offset {reached}, but its high watermark was {end}"
        ))),
        None => Ok(()),
    }
}

/// Where a read that began at `start` stood, if that is before `end`.
fn short_of(position: Offset, start: i64, end: i64) -> Option<i64> {
    let reached = match position {
        Offset::Offset(next) => next,
        // Nothing was read.
        _ => start,
    };
    (reached < end).then_some(reached)
}

/// The first of these topics that holds a committed event, or held one before it was removed.
///
/// What an aborted transaction left there does not count: a first transaction that was never committed leaves
/// records without a position, and must not look like a lost position. Blocks; call it after `init_transactions`.
pub fn first_not_empty(
    config: &KafkaConfig,
    topics: &[String],
) -> Result<Option<String>, RelayError> {
    let kafka = |source| RelayError::Kafka {
        doing: "looking whether the event topics are empty",
        source,
    };
    let consumer: BaseConsumer = client::reader(config, "relay-topics")
        .create()
        .map_err(kafka)?;
    for topic in topics {
        let metadata = consumer
            .fetch_metadata(Some(topic), READ_TIMEOUT)
            .map_err(kafka)?;
        let partitions = metadata
            .topics()
            .first()
            .map_or(0, |found| found.partitions().len());
        for partition in 0..partitions as i32 {
            let (low, end) = consumer
                .fetch_watermarks(topic, partition, READ_TIMEOUT)
                .map_err(kafka)?;
            if low > 0 || (end > 0 && holds_committed(&consumer, topic, partition, end)?) {
                return Ok(Some(topic.clone()));
            }
        }
    }
    Ok(None)
}

/// Reads a partition from its start to the first committed record or to `end`.
fn holds_committed(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    end: i64,
) -> Result<bool, RelayError> {
    let kafka = |source| RelayError::Kafka {
        doing: "looking for a committed event",
        source,
    };
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, partition, Offset::Beginning)
        .and_then(|()| consumer.assign(&assignment))
        .map_err(kafka)?;
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(_)) => return Ok(true),
            Some(Err(KafkaError::PartitionEOF(_))) => {
                proven_end(consumer, topic, partition, 0, end)?;
                return Ok(false);
            }
            Some(Err(error)) => return Err(kafka(error)),
            None if Instant::now() > deadline => {
                return Err(RelayError::PositionUnread {
                    topic: topic.to_owned(),
                    reason: format!(
                        "no end of partition {partition} after {} s",
                        READ_TIMEOUT.as_secs()
                    ),
                });
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_before_the_high_watermark_is_seen() {
        assert_eq!(short_of(Offset::Offset(41), 0, 42), Some(41));
        assert_eq!(short_of(Offset::Invalid, 7, 42), Some(7));
        assert_eq!(short_of(Offset::Offset(42), 0, 42), None);
        assert_eq!(short_of(Offset::Offset(43), 0, 42), None);
        assert_eq!(short_of(Offset::Invalid, 42, 42), None);
    }
}
