//! Reading a partition from an offset to its end, outside any group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::client;
use super::record::Record;
use crate::config::KafkaConfig;

/// Longest wait for the next record, or for a transaction that is open at the end.
const WAIT: Duration = Duration::from_secs(15);

/// Why a partition was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka did not answer or refused.
    #[error("reading {topic}/{partition}: {source}")]
    Kafka {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// What it said.
        source: KafkaError,
    },
    /// A transaction is open: what lies behind it can be neither read nor ruled out.
    #[error(
        "{topic}/{partition}: a transaction is open from offset {stable} on, the log ends at {end}; it ends within 10 s"
    )]
    Open {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Last stable offset.
        stable: i64,
        /// High watermark.
        end: i64,
    },
    /// The broker stopped answering, or said that the partition ends before its high watermark.
    #[error(
        "{topic}/{partition} was read to offset {reached} only, but its high watermark was {end}"
    )]
    Short {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Next offset that was not read.
        reached: i64,
        /// High watermark.
        end: i64,
    },
}

/// A read-committed reader of whole partitions.
pub(crate) struct PartitionReader {
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
}

impl PartitionReader {
    /// A reader; `role` is what the broker's log shows.
    pub(crate) fn new(config: &KafkaConfig, role: &str) -> Result<Self, KafkaError> {
        // It is told at once that a partition has ended; others let the broker wait for more.
        let reader = || {
            let mut reader = client::reader(config, role);
            reader.set("fetch.wait.max.ms", "10");
            reader
        };
        Ok(Self {
            committed: reader().create()?,
            uncommitted: reader()
                .set("isolation.level", "read_uncommitted")
                .create()?,
        })
    }

    /// First offset that the log holds and the one after its last, open transactions included.
    pub(crate) fn ends(&self, topic: &str, partition: i32) -> Result<(i64, i64), ReadError> {
        self.uncommitted
            .fetch_watermarks(topic, partition, super::consumer::KAFKA_TIMEOUT)
            .map_err(|source| ReadError::Kafka {
                topic: topic.to_owned(),
                partition,
                source,
            })
    }

    /// Hands over every committed record from `from` on; returns the offset after the last.
    ///
    /// Nothing committed before the call is missed: an open transaction at the end is an error, not the end.
    pub(crate) fn read(
        &self,
        (topic, partition): (&str, i32),
        from: i64,
        mut each: impl FnMut(Record),
    ) -> Result<i64, ReadError> {
        let kafka = |source| ReadError::Kafka {
            topic: topic.to_owned(),
            partition,
            source,
        };
        let (low, end) = self.ends(topic, partition)?;
        let from = from.max(low);
        if from >= end {
            return Ok(end);
        }
        let (_, stable) = self
            .committed
            .fetch_watermarks(topic, partition, super::consumer::KAFKA_TIMEOUT)
            .map_err(kafka)?;
        if stable < end {
            return Err(ReadError::Open {
                topic: topic.to_owned(),
                partition,
                stable,
                end,
            });
        }
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.committed.assign(&assignment))
            .map_err(kafka)?;
        let read = self.read_to((topic, partition), from, end, &mut each);
        let unassigned = self.committed.unassign().map_err(kafka);
        read.and(unassigned).map(|()| end)
    }

    fn read_to(
        &self,
        (topic, partition): (&str, i32),
        from: i64,
        end: i64,
        each: &mut impl FnMut(Record),
    ) -> Result<(), ReadError> {
        let name: std::sync::Arc<str> = topic.into();
        let mut reached = from;
        let mut heard = Instant::now();
        while reached < end && heard.elapsed() < WAIT {
            match self.committed.poll(Duration::from_millis(100)) {
                None => continue,
                Some(Ok(message)) if message.offset() >= end => return Ok(()),
                Some(Ok(message)) => {
                    reached = message.offset() + 1;
                    each(Record::of(&message, name.clone()));
                }
                // Markers stand behind the last record; the client's position is beyond them.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    let positions = self.committed.position();
                    let position = positions.ok().and_then(|list| {
                        match list.find_partition(topic, partition)?.offset() {
                            Offset::Offset(next) => Some(next),
                            _ => None,
                        }
                    });
                    reached = reached.max(position.unwrap_or(reached));
                    break;
                }
                Some(Err(source)) => {
                    return Err(ReadError::Kafka {
                        topic: topic.to_owned(),
                        partition,
                        source,
                    });
                }
            }
            heard = Instant::now();
        }
        if reached < end {
            return Err(ReadError::Short {
                topic: topic.to_owned(),
                partition,
                reached,
                end,
            });
        }
        Ok(())
    }
}
