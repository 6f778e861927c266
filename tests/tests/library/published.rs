//! What other contexts read of the library: with its own schemas, and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::codec::Codec;
use millrace::config::{KafkaConfig, Properties, Registration, RegistryConfig};
use millrace::event::Event;
use millrace::log::{client, headers};
use millrace::processor::command_id;
use millrace::registry::{Registry, SchemaSet};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};
use schemas::library::LibraryPublished;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::Library;
use crate::operate::world::{LONG, PARTITIONS};

/// An integration event as a reader in another context has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) id: Uuid,
    key: String,
    /// Of the event that it came from.
    cause: Uuid,
    sequence: i64,
    event: LibraryPublished,
}

impl Told {
    fn of(codec: &Codec, message: &BorrowedMessage<'_>) -> Result<Self> {
        let (sequence, metadata) = headers::read(message)?;
        Ok(Self {
            id: metadata.event_id,
            key: String::from_utf8(message.key().context("no key")?.to_vec())?,
            cause: metadata.causation_id.context("no cause")?.parse()?,
            sequence,
            event: codec.decode(message.payload().context("no value")?)?,
        })
    }
}

/// A codec that knows what the registry has under the subjects of this one topic.
async fn codec(library: &Library) -> Result<Codec> {
    let config = RegistryConfig {
        schema_registry_url: library.world.servers.registry().to_owned(),
        schema_registration: Registration::Lookup,
    };
    let sets = vec![SchemaSet::of_published::<LibraryPublished>()];
    Ok(Registry::open(&config, sets, None).await?.codec().clone())
}

/// All that was published, by id, once it is this much.
pub(super) async fn published(library: &Library, count: usize) -> Result<Vec<Told>> {
    let codec = codec(library).await?;
    let begun = Instant::now();
    loop {
        let mut told = tokio::task::block_in_place(|| read(library, &codec))?;
        if told.len() >= count {
            ensure!(told.len() == count, "{told:#?}");
            told.sort_by_key(|one| one.id);
            comes_from_what_happened(library, &told).await?;
            return Ok(told);
        }
        ensure!(
            begun.elapsed() < LONG,
            "{} of {count} were published\n{}",
            told.len(),
            library.world.logs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn read(library: &Library, codec: &Codec) -> Result<Vec<Told>> {
    let kafka = KafkaConfig {
        kafka_bootstrap: library.world.servers.kafka().to_owned(),
        kafka_properties: Properties::default(),
        topic_partitions: PARTITIONS,
        topic_replication: 1,
    };
    let consumer: BaseConsumer = client::reader(&kafka, "test").create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&LibraryPublished::topic(), partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut told, mut ended) = (Vec::new(), 0);
    let begun = Instant::now();
    while ended < PARTITIONS {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(message) => told.push(Told::of(codec, &message?)?),
            None => ensure!(begun.elapsed() < LONG, "library.published was not read"),
        }
    }
    Ok(told)
}

/// Key, sequence and id are those of the event that it names as its cause.
async fn comes_from_what_happened(library: &Library, told: &[Told]) -> Result<()> {
    library.world.until_caught_up().await?;
    let mut views = PgConnection::connect(library.world.servers.views_database_url()).await?;
    for one in told {
        let (aggregate, id, sequence): (String, String, i64) = sqlx::query_as(
            "SELECT aggregate, aggregate_id, sequence FROM views.event_log WHERE event_id = $1",
        )
        .bind(one.cause)
        .fetch_one(&mut views)
        .await?;
        ensure!((&id, sequence) == (&one.key, one.sequence), "{one:?}");
        let (processor, record) = (format!("{aggregate}-published"), one.event.event_type());
        let target = (LibraryPublished::topic(), &one.key);
        let derived = command_id(one.cause, &processor, (&target.0, target.1), record, 0);
        ensure!(derived == one.id, "{one:?}");
    }
    Ok(())
}
