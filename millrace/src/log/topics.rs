//! Topics: created with the partitions of the configuration, refused when they have others.

use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaConfig;
use crate::log::client;

/// What a topic is for; decides its partitions and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keyed records, kept for ever.
    Events,
    /// One partition, only the newest record of each key.
    Position,
    /// Keyed records, kept for thirty days: what is read once, with time to mend a reader or to reset it.
    Queue,
    /// Dead letters: kept for ever, and a little larger than what they are made of.
    DeadLetters,
    /// Only the newest record of each key, in as many partitions as the events have.
    Compacted,
}

/// A topic that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
}

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Kafka did not answer or refused.
    #[error("kafka at {bootstrap}: {source}")]
    Kafka {
        /// Where it was asked.
        bootstrap: String,
        /// What it said.
        source: KafkaError,
    },
    /// A topic was not created.
    #[error("topic {name} could not be created: {code}")]
    Refused {
        /// Which one.
        name: String,
        /// The broker's reason.
        code: RDKafkaErrorCode,
    },
    /// A topic is there and has no partitions yet: the broker is busy.
    #[error(
        "topic {name} was created and does not show within {waited_s} s: look at the broker's log"
    )]
    Unseen {
        /// Which one.
        name: String,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// The partition of a key hangs on the number of partitions, so another number is refused.
    #[error(
        "topic {name} has {actual} partitions, the configuration says {expected}: set TOPIC_PARTITIONS={actual}, or move to a new topic; keys change partition when the number does"
    )]
    Partitions {
        /// Which one.
        name: String,
        /// Partitions of the topic.
        actual: usize,
        /// Partitions of the configuration.
        expected: i32,
    },
}

/// Longest wait for a topic that was just created.
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// Creates what is missing and checks the partitions of what is there.
pub async fn ensure(config: &KafkaConfig, topics: &[Topic]) -> Result<(), TopicError> {
    let kafka = |source| TopicError::Kafka {
        bootstrap: config.kafka_bootstrap.clone(),
        source,
    };
    let admin = client::admin(config).map_err(kafka)?;
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| new_topic(config, topic))
        .collect();
    // Without the first, a client that reaches no broker waits a minute.
    let options = AdminOptions::new()
        .request_timeout(Some(Duration::from_secs(10)))
        .operation_timeout(Some(Duration::from_secs(10)));
    for result in admin.create_topics(&new, &options).await.map_err(kafka)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(TopicError::Refused { name, code }),
        }
    }
    let mut unseen: Vec<&Topic> = topics.iter().collect();
    let deadline = tokio::time::Instant::now() + SHOWS_WITHIN;
    loop {
        let counts = partition_counts(&admin, topics).map_err(kafka)?;
        let mut left = Vec::new();
        for topic in unseen {
            let expected = partitions(config, topic.kind);
            match counts.get(&topic.name) {
                Some(&actual) if actual == expected as usize => {}
                Some(&actual) => {
                    return Err(TopicError::Partitions {
                        name: topic.name.clone(),
                        actual,
                        expected,
                    });
                }
                None => left.push(topic),
            }
        }
        let Some(first) = left.first() else {
            return Ok(());
        };
        if tokio::time::Instant::now() > deadline {
            return Err(TopicError::Unseen {
                name: first.name.clone(),
                waited_s: SHOWS_WITHIN.as_secs(),
            });
        }
        unseen = left;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many partitions each of the topics has; one whose partitions are not all led yet is not among them: the broker is
/// still making them, and whatever else is asked of it waits behind that. All topics in one question: a hundred asked one by
/// one take seconds of every start.
fn partition_counts(
    admin: &rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>,
    topics: &[Topic],
) -> Result<std::collections::BTreeMap<String, usize>, KafkaError> {
    // A question is about one topic or about all of them.
    let only = match topics {
        [one] => Some(one.name.as_str()),
        _ => None,
    };
    let metadata = tokio::task::block_in_place(|| {
        admin.inner().fetch_metadata(only, Duration::from_secs(10))
    })?;
    let made = metadata.topics().iter().filter(|topic| {
        let partitions = topic.partitions();
        !partitions.is_empty() && partitions.iter().all(|one| one.leader() >= 0)
    });
    let counted = made.map(|topic| (topic.name().to_owned(), topic.partitions().len()));
    Ok(counted.collect())
}

fn partitions(config: &KafkaConfig, kind: Kind) -> i32 {
    match kind {
        Kind::Events | Kind::Queue | Kind::DeadLetters | Kind::Compacted => config.topic_partitions,
        Kind::Position => 1,
    }
}

fn new_topic<'t>(config: &KafkaConfig, topic: &'t Topic) -> NewTopic<'t> {
    let new = NewTopic::new(
        &topic.name,
        partitions(config, topic.kind),
        TopicReplication::Fixed(config.topic_replication),
    );
    match topic.kind {
        Kind::Events => new.set("retention.ms", "-1").set("retention.bytes", "-1"),
        Kind::Queue => new
            .set("retention.ms", "2592000000")
            .set("retention.bytes", "-1"),
        Kind::DeadLetters => new
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1")
            .set("max.message.bytes", "2097152"),
        // Small segments, cleaned early: the reader at take-over then has little to read.
        Kind::Position | Kind::Compacted => new
            .set("cleanup.policy", "compact")
            .set("segment.bytes", "1048576")
            .set("min.cleanable.dirty.ratio", "0.1"),
    }
}
