//! The parts of the one consumer loop: membership in a group, assignment, committed offsets and polling.
//!
//! Whoever consumes in a group is a [`Member`]: it says where an assigned partition starts. All of it runs on the
//! thread that polls. A partition that cannot be started yet rests: it is paused and its member starts it later by
//! [`go_to`].

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::contact::{Contact, InContact};
use super::offsets::Committed;
use super::record::Record;

/// Topic and partition.
pub type Key = (String, i32);

/// Longest wait for a single answer of the broker.
pub(crate) const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// What a consumer of a group does when its partitions change.
pub(crate) trait Member: Send + Sync + Sized + 'static {
    /// What the log calls it.
    fn name(&self) -> &str;

    /// Takes partitions; says where each starts, or nothing where it rests.
    fn assigned(&self, consumer: &GroupConsumer<Self>, keys: &[Key]) -> BTreeMap<Key, Option<i64>>;

    /// Loses partitions: what was polled of them must not be used any more.
    fn unassigned(&self, keys: &[Key]);

    /// Something went wrong that polling does not return.
    fn failed(&self, error: &KafkaError);

    /// Hears what the client counts, as often as `statistics.interval.ms` says.
    fn measured(&self, _statistics: &Statistics) {}
}

/// A consumer of a group.
pub(crate) type GroupConsumer<M> = BaseConsumer<Context<M>>;

/// The consumer's context: it leads back to the member.
pub(crate) struct Context<M> {
    member: Arc<M>,
    contact: Contact,
}

impl<M> Context<M> {
    pub(crate) fn of(member: &Arc<M>) -> Self {
        Self {
            member: Arc::clone(member),
            contact: Contact::default(),
        }
    }
}

impl<M: Member> InContact for Context<M> {
    fn contact(&self) -> &Contact {
        &self.contact
    }
}

impl<M: Member> ClientContext for Context<M> {
    fn stats(&self, statistics: Statistics) {
        self.contact.measured(&statistics);
        self.member.measured(&statistics);
    }
}

impl<M: Member> ConsumerContext for Context<M> {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                assign(&*self.member, consumer, list);
            }
            _ => unassign(&*self.member, consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(member = self.member.name(), %error, "kafka commit failed");
        }
    }
}

fn assign<M: Member>(member: &M, consumer: &GroupConsumer<M>, list: &mut TopicPartitionList) {
    let keys: Vec<Key> = list.to_topic_map().into_keys().collect();
    let starts = member.assigned(consumer, &keys);
    let mut resting = TopicPartitionList::new();
    for key in &keys {
        let (topic, partition) = key;
        let offset = match starts.get(key).copied().flatten() {
            Some(next) => Offset::Offset(next),
            None => {
                resting.add_partition(topic, *partition);
                // Nothing is fetched from there: a claim seeks. It must not be a logical offset, which the client has to ask for: the
                // pause makes that answer an outdated one, the client asks again after 500 ms, and where the seek
                // comes while a question is under way, the second answer overrides it. At the end, that is a hole that nobody sees.
                Offset::Offset(0)
            }
        };
        let _ = list.set_partition_offset(topic, *partition, offset);
    }
    // The client keeps our pause over the loss of a partition: one that was lost while it rested would come back at rest,
    // and nobody would ever wake it.
    let woken = consumer.resume(list);
    let assigned = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        _ => consumer.assign(list),
    };
    let paused = match resting.count() {
        0 => Ok(()),
        _ => consumer.pause(&resting),
    };
    if let Err(error) = woken.and(assigned).and(paused) {
        tracing::error!(member = member.name(), %error, "assignment failed");
        member.failed(&error);
    }
}

fn unassign<M: Member>(member: &M, consumer: &GroupConsumer<M>, list: &TopicPartitionList) {
    let keys: Vec<Key> = list.to_topic_map().into_keys().collect();
    member.unassigned(&keys);
    let unassigned = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        _ => consumer.unassign(),
    };
    if let Err(error) = unassigned {
        tracing::warn!(member = member.name(), %error, "unassignment failed");
    }
}

/// What one poll brought. It is taken apart at once, so the large variant is never moved about.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Polled {
    /// Nothing within the timeout.
    Nothing,
    /// A record.
    Record(Record),
    /// The end of a partition.
    End,
    /// The log does not hold what is to be fetched next.
    OutOfRange(KafkaError),
    /// Something that heals by itself.
    Passing(KafkaError),
    /// The consumer will not recover.
    Fatal(KafkaError),
}

/// Polls once; `topics` are those of the subscription, so that records share their names.
pub(crate) fn poll<C: InContact>(
    consumer: &BaseConsumer<C>,
    topics: &[Arc<str>],
    timeout: Duration,
) -> Polled {
    match consumer.poll(timeout) {
        None => match consumer.context().contact().check() {
            Ok(()) => Polled::Nothing,
            Err(lost) => Polled::Fatal(lost),
        },
        Some(Ok(message)) => {
            let topic = topic_of(topics, &message);
            Polled::Record(Record::of(&message, topic))
        }
        Some(Err(KafkaError::PartitionEOF(_))) => Polled::End,
        Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Polled::Fatal(error),
        Some(Err(error)) => match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Polled::OutOfRange(error)
            }
            _ => Polled::Passing(error),
        },
    }
}

fn topic_of(topics: &[Arc<str>], message: &BorrowedMessage<'_>) -> Arc<str> {
    topics
        .iter()
        .find(|topic| &***topic == message.topic())
        .cloned()
        .unwrap_or_else(|| message.topic().into())
}

/// Fetches from an offset on. A partition that the client does not fetch, as one that was out of range, refuses to
/// seek, and is assigned once more instead.
pub(crate) fn go_to<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    (topic, partition): &Key,
    offset: i64,
) -> KafkaResult<()> {
    let offset = Offset::Offset(offset);
    let sought = consumer.seek(topic, *partition, offset, KAFKA_TIMEOUT);
    let Err(error) = sought else { return Ok(()) };
    if !matches!(
        consumer.rebalance_protocol(),
        RebalanceProtocol::Cooperative
    ) {
        return Err(error);
    }
    tracing::debug!(topic, partition, %error, "assigned once more");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, *partition, offset)?;
    consumer.incremental_unassign(&list)?;
    consumer.incremental_assign(&list)
}

/// A list of partitions without offsets.
pub(crate) fn list_of<'k>(keys: impl IntoIterator<Item = &'k Key>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in keys {
        list.add_partition(topic, *partition);
    }
    list
}

/// What the group has committed on these partitions; offsets of a transaction that is still open are waited for.
pub(crate) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    keys: &[Key],
) -> KafkaResult<BTreeMap<Key, Committed>> {
    let list = consumer.committed_offsets(list_of(keys), KAFKA_TIMEOUT)?;
    let mut committed = BTreeMap::new();
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            // The client panics on metadata that is not UTF-8; whoever wrote such, it is not empty.
            let metadata = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned()))
                .unwrap_or_else(|_| "?".to_owned());
            committed.insert(
                (element.topic().to_owned(), element.partition()),
                Committed { offset, metadata },
            );
        }
    }
    Ok(committed)
}

/// Adds an offset with our metadata, which stands on the element: a commit without a list drops it.
pub(crate) fn add_commit(
    list: &mut TopicPartitionList,
    (topic, partition): (&str, i32),
    next: i64,
    metadata: String,
) -> KafkaResult<()> {
    let mut element = list.add_partition(topic, partition);
    element.set_offset(Offset::Offset(next))?;
    element.set_metadata(metadata);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    const TOPIC: &str = "counter.events";

    /// Claims nothing while it is assigned.
    #[derive(Default)]
    struct Later(AtomicBool);

    impl Member for Later {
        fn name(&self) -> &str {
            "later"
        }

        fn assigned(&self, _: &GroupConsumer<Self>, _: &[Key]) -> BTreeMap<Key, Option<i64>> {
            self.0.store(true, Ordering::Relaxed);
            BTreeMap::new()
        }

        fn unassigned(&self, _: &[Key]) {}

        fn failed(&self, error: &KafkaError) {
            panic!("{error}");
        }
    }

    /// The schedule: the broker is slow, and the claim is through before the client knows where the resting partition is.
    #[test]
    fn a_partition_that_rested_is_read_from_where_it_was_sought_without_a_hole() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .create()
            .unwrap();
        for number in 0..10 {
            let payload = format!("{number:0500}");
            let record = BaseRecord::to(TOPIC).key("1").payload(&payload);
            producer.send(record).unwrap();
            // A batch of its own, so that a fetch brings a few of them.
            producer.flush(Duration::from_secs(10)).unwrap();
        }
        cluster
            .broker_round_trip_time(1, Duration::from_millis(100))
            .unwrap();
        let member = Arc::new(Later::default());
        let consumer: GroupConsumer<Later> = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("group.id", "g")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("max.partition.fetch.bytes", "600")
            .create_with_context(Context::of(&member))
            .unwrap();
        consumer.subscribe(&[TOPIC]).unwrap();
        let topics = [Arc::from(TOPIC)];
        let deadline = Instant::now() + Duration::from_secs(20);
        while !member.0.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "nothing was assigned");
            poll(&consumer, &topics, Duration::from_millis(20));
        }
        let key = (TOPIC.to_owned(), 0);
        go_to(&consumer, &key, 4).unwrap();
        consumer.resume(&list_of([&key])).unwrap();
        let mut read = Vec::new();
        while read.len() < 6 && Instant::now() < deadline {
            match poll(&consumer, &topics, Duration::from_millis(20)) {
                Polled::Record(record) => read.push(record.offset),
                Polled::Fatal(error) | Polled::OutOfRange(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert_eq!(read, [4, 5, 6, 7, 8, 9]);
    }
}
