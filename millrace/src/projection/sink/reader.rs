//! Throwaway readers: single facts about a partition, without touching the group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::SinkError;
use crate::config::KafkaConfig;
use crate::log::{client, headers};
use crate::position::JournalPosition;

const WAIT: Duration = Duration::from_secs(15);

/// First offset that the log holds and the one after its last, open transactions included.
pub(crate) fn ends(
    config: &KafkaConfig,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let reader: BaseConsumer = client::reader(config, "ends")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    reader.fetch_watermarks(topic, partition, WAIT)
}

/// Journal position of the last event in [from, target); none if it holds no event.
///
/// Reads backwards in growing steps, because the offsets before `target` may be transaction markers.
pub(crate) fn last_event_before(
    config: &KafkaConfig,
    (topic, partition): (&str, i32),
    from: i64,
    target: i64,
) -> Result<Option<JournalPosition>, SinkError> {
    let (low, _) = ends(config, topic, partition)?;
    let from = from.max(low);
    let reader: BaseConsumer = client::reader(config, "skip").create()?;
    for step in [1, 64, 4_096, i64::MAX] {
        let start = target.saturating_sub(step).max(from);
        if start >= target {
            return Ok(None);
        }
        let last = last_event_in(&reader, (topic, partition), start, target)?;
        if last.is_some() || start == from {
            return Ok(last);
        }
    }
    Ok(None)
}

fn last_event_in(
    reader: &BaseConsumer,
    (topic, partition): (&str, i32),
    start: i64,
    target: i64,
) -> Result<Option<JournalPosition>, SinkError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(start))?;
    reader.assign(&assignment)?;
    let mut last = None;
    let mut heard = Instant::now();
    while heard.elapsed() < WAIT {
        match reader.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) if message.offset() >= target => return Ok(last),
            Some(Ok(message)) => {
                if let Ok((_, metadata)) = headers::read(&message) {
                    last = Some(metadata.position);
                }
                if message.offset() == target - 1 {
                    return Ok(last);
                }
            }
        }
        heard = Instant::now();
    }
    Err(SinkError::Unread {
        topic: topic.to_owned(),
        partition,
        offset: start,
        waited_s: WAIT.as_secs(),
    })
}
