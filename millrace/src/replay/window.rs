//! From a window of time to offsets: of each handler and partition, what is delivered again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::{PartitionReplay, ReplayError, Wanted};
use crate::config::KafkaConfig;
use crate::event::ce_type;
use crate::log::client;
use crate::log::consumer::{KAFKA_TIMEOUT, Key};
use crate::log::record::HeaderBlock;
use crate::stats::{HandlerKind, Placed};

/// Longest that the window is looked through for the first event of a type.
const SCAN_MAX: Duration = Duration::from_secs(10);

/// A handler with what it is given again.
pub(super) struct Planned {
    pub(super) kind: HandlerKind,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) partitions: Vec<PartitionReplay>,
}

/// What each handler is given again: from the window's begin up to where it stands. Blocks the thread.
pub(super) fn plan(
    kafka: &KafkaConfig,
    placed: Vec<Placed>,
    wanted: &Wanted,
) -> Result<Vec<Planned>, ReplayError> {
    let mut ends: BTreeMap<Key, i64> = BTreeMap::new();
    for (kind, _, at) in &placed {
        if *kind != HandlerKind::View {
            let end = ends.entry((at.topic.clone(), at.partition)).or_default();
            *end = at.next.max(*end);
        }
    }
    let consumer: BaseConsumer = client::reader(kafka, "replay").create()?;
    let mut begins = begins(&consumer, &ends, wanted.since)?;
    if let Some(event_type) = &wanted.event_type {
        begins = firsts(&consumer, begins, &ends, event_type)?;
    }
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    for (kind, group, at) in placed {
        let from = match kind {
            HandlerKind::View => Some(0),
            HandlerKind::Processor | HandlerKind::Effect => {
                begins.get(&(at.topic.clone(), at.partition)).copied()
            }
        };
        let Some(from) = from.filter(|from| *from < at.next) else {
            continue;
        };
        let one = planned.entry(group.clone()).or_insert_with(|| Planned {
            kind,
            name: at.name,
            group,
            partitions: Vec::new(),
        });
        one.partitions.push(PartitionReplay {
            topic: at.topic,
            partition: at.partition,
            from,
            to: at.next,
            begun: false,
            left: at.next - from,
        });
    }
    if planned.is_empty() {
        return Err(ReplayError::Refused(format!(
            "nobody who was asked for has handled {} that was published since {}",
            wanted.event_type.as_deref().unwrap_or("an event"),
            wanted.since
        )));
    }
    Ok(planned.into_values().collect())
}

/// The first offset of each partition that was published then or later, where there is one.
fn begins(
    consumer: &BaseConsumer,
    ends: &BTreeMap<Key, i64>,
    since: DateTime<Utc>,
) -> Result<BTreeMap<Key, i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in ends.keys() {
        let time = Offset::Offset(since.timestamp_millis().max(0));
        list.add_partition_offset(topic, *partition, time)?;
    }
    if ends.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = consumer.offsets_for_times(list, KAFKA_TIMEOUT)?;
    let mut begins = BTreeMap::new();
    for element in found.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            begins.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    Ok(begins)
}

/// The first event of the type in each partition's window, where there is one.
fn firsts(
    consumer: &BaseConsumer,
    begins: BTreeMap<Key, i64>,
    ends: &BTreeMap<Key, i64>,
    event_type: &str,
) -> Result<BTreeMap<Key, i64>, ReplayError> {
    let until = Instant::now() + SCAN_MAX;
    let mut firsts = BTreeMap::new();
    for (key, from) in begins {
        let to = ends.get(&key).copied().unwrap_or_default();
        let aggregate = key.0.rsplit_once('.').map_or(&*key.0, |(name, _)| name);
        let wanted = ce_type(aggregate, event_type);
        if let Some(first) = first(consumer, &key, (from, to), (&wanted, until))? {
            firsts.insert(key, first);
        }
    }
    consumer.unassign()?;
    Ok(firsts)
}

fn first(
    consumer: &BaseConsumer,
    (topic, partition): &Key,
    (from, to): (i64, i64),
    (wanted, until): (&str, Instant),
) -> Result<Option<i64>, ReplayError> {
    if from >= to {
        return Ok(None);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, *partition, Offset::Offset(from))?;
    consumer.assign(&assignment)?;
    while Instant::now() < until {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) if message.offset() >= to => return Ok(None),
            Some(Ok(message)) => {
                let headers = HeaderBlock::of(&message);
                let is = |(name, value): (&str, Option<&[u8]>)| {
                    name == "ce_type" && value == Some(wanted.as_bytes())
                };
                if headers.iter().any(is) {
                    return Ok(Some(message.offset()));
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Err(ReplayError::Refused(format!(
        "type: the window holds more than can be looked through for {wanted} in {} s: ask for fewer hours, or for all types",
        SCAN_MAX.as_secs()
    )))
}
