//! A topic, a database and a view of a test's own, on the shared servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace::codec::Codec;
use millrace::config::{KafkaConfig, Properties, Secret, ViewsConfig};
use millrace::event::Event;
use millrace::log::client;
use millrace::projection::sink::{Sink, SinkConfig, SinkOptions};
use millrace::projection::{
    Applied, ApplyError, BoxFuture, Build, Decoder, LearnError, Projector, Record, SchemaSource,
    Start,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use sqlx::PgPool;
use tests::event;
use tests::hall::{HallEvent, HallSeatReleased, HallSeatReserved};
use tests::servers::Servers;
use tests::wait::{LONGEST, eventually};
use uuid::Uuid;

/// First schema id of the events; nobody else's ids are known.
const FIRST_SCHEMA_ID: u32 = 71;

pub(super) struct World<'s> {
    pub(super) servers: &'s Servers,
    pub(super) topic: String,
    pub(super) kafka: KafkaConfig,
    pub(super) views: ViewsConfig,
    pub(super) pool: PgPool,
    pub(super) codec: Codec,
    pub(super) schemas: Arc<Schemas>,
    pub(super) options: SinkOptions,
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    sequences: HashMap<String, i64>,
    position: i64,
    partitions: i32,
}

/// Knows no schema beyond the codec's own; can be away.
#[derive(Default)]
pub(super) struct Schemas {
    pub(super) away: AtomicBool,
}

impl SchemaSource for Schemas {
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>> {
        let away = self.away.load(Ordering::SeqCst);
        Box::pin(async move {
            Err(if away {
                LearnError::Unavailable("the registry is away".to_owned())
            } else {
                LearnError::Unknown(format!("schema id {schema_id} does not exist"))
            })
        })
    }
}

impl<'s> World<'s> {
    pub(super) async fn new(servers: &'s Servers, partitions: i32) -> Result<World<'s>> {
        let topic = format!("hall-{}.events", Uuid::now_v7().simple());
        let kafka = KafkaConfig {
            kafka_bootstrap: servers.kafka().to_owned(),
            kafka_properties: Properties::default(),
            topic_partitions: partitions,
            topic_replication: 1,
        };
        client::admin(&kafka)?
            .create_topics(
                &[NewTopic::new(
                    &topic,
                    partitions,
                    TopicReplication::Fixed(1),
                )],
                &AdminOptions::new(),
            )
            .await?;
        let url = servers.fresh_database("sink").await?;
        let codec = codec()?;
        Ok(World {
            servers,
            topic,
            views: ViewsConfig {
                views_database_url: Secret::from(url.as_str()),
            },
            pool: PgPool::connect(&url).await?,
            codec,
            schemas: Arc::default(),
            options: SinkOptions::default(),
            producer: ClientConfig::new()
                .set("bootstrap.servers", servers.kafka())
                .set("partitioner", "murmur2_random")
                .set("linger.ms", "1")
                .create()?,
            sequences: HashMap::new(),
            position: 0,
            kafka,
            partitions,
        })
    }

    pub(super) fn decoder(&self) -> Decoder {
        Decoder::new(self.codec.clone(), self.schemas.clone())
    }

    /// The view under a name of this test's own, reading its topic.
    pub(super) fn view(&self, inner: Box<dyn Projector>) -> Arc<dyn Projector> {
        let tail = self.topic.trim_end_matches(".events").replace("hall-", "");
        // The random end of the topic's name; a view's name is at most 40 characters.
        let name = format!("{}-x{}", inner.name(), &tail[tail.len() - 12..]);
        let sql = inner.sql().replace(
            &format!("CREATE VIEW views.{}", inner.view_name()),
            &format!("CREATE VIEW views.{}", name.replace('-', "_")),
        );
        Arc::new(Own {
            inner,
            name,
            topic: self.topic.clone(),
            sql,
        })
    }

    pub(super) async fn sink(&self, view: &Arc<dyn Projector>) -> Result<Sink> {
        let config = SinkConfig {
            kafka: self.kafka.clone(),
            views: self.views.clone(),
            options: self.options.clone(),
        };
        Ok(Sink::start(config, view.clone(), self.decoder()).await?)
    }

    pub(super) fn partition_of(&self, id: &str) -> i32 {
        millrace::position::partition_of(id, self.partitions)
    }

    pub(super) fn reserve(&mut self, hall: &str, guest: &str) -> Result<()> {
        self.produce(
            hall,
            &HallSeatReserved {
                guest: guest.to_owned(),
            }
            .into(),
        )
    }

    pub(super) fn release(&mut self, hall: &str, guest: &str) -> Result<()> {
        self.produce(
            hall,
            &HallSeatReleased {
                guest: guest.to_owned(),
            }
            .into(),
        )
    }

    /// The next event of the hall.
    pub(super) fn produce(&mut self, hall: &str, event: &HallEvent) -> Result<()> {
        let sequence = self.sequences.get(hall).copied().unwrap_or_default() + 1;
        self.sequences.insert(hall.to_owned(), sequence);
        let (_, payload) = self.codec.encode(event)?;
        self.produce_raw(hall, sequence, &payload)
    }

    /// Counts an event of the hall as published though it never was.
    pub(super) fn lose(&mut self, hall: &str) {
        *self.sequences.entry(hall.to_owned()).or_default() += 1;
    }

    pub(super) fn produce_raw(&mut self, hall: &str, sequence: i64, payload: &[u8]) -> Result<()> {
        self.position += 1;
        let headers = event::headers(Uuid::now_v7(), hall, sequence, self.position);
        self.send(hall, payload, Some(headers))
    }

    /// A record as a stranger's tool writes it: no headers, no framing.
    pub(super) fn produce_foreign(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        self.send(key, payload, None)
    }

    fn send(&self, key: &str, payload: &[u8], headers: Option<OwnedHeaders>) -> Result<()> {
        let mut record = BaseRecord::to(&self.topic).key(key).payload(payload);
        record.headers = headers;
        let deadline = Instant::now() + LONGEST;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) if Instant::now() < deadline => {
                    record = back;
                    let _ = error;
                    self.producer.flush(Duration::from_secs(1))?;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Returns when everything produced stands on the topic.
    pub(super) fn flush(&self) -> Result<()> {
        Ok(self.producer.flush(LONGEST)?)
    }

    pub(super) async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or(-1)
    }

    /// Waits until a query's number is this one.
    pub(super) async fn until(&self, sql: &str, expected: i64) -> Result<()> {
        eventually(sql, || async { self.count(sql).await == expected })
            .await
            .map_err(|error| error.context(format!("expected {expected}")))
    }

    /// The offset that the group has committed on a partition, and its metadata.
    pub(super) fn committed(&self, group: &str, partition: i32) -> Result<Option<(i64, String)>> {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers.kafka())
            .set("group.id", group)
            .create()?;
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        let list = consumer.committed_offsets(list, LONGEST)?;
        let element = &list.elements()[0];
        Ok(match element.offset() {
            rdkafka::Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        })
    }
}

pub(super) fn codec() -> Result<Codec> {
    let schemas: Vec<_> = HallEvent::SCHEMAS.iter().collect();
    event::codec(HallEvent::AGGREGATE, &schemas, FIRST_SCHEMA_ID)
}

/// A view under another name, on another topic: tests run at the same time on one broker.
struct Own {
    inner: Box<dyn Projector>,
    name: String,
    topic: String,
    sql: String,
}

impl Projector for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn topics(&self) -> Vec<String> {
        vec![self.topic.clone()]
    }

    fn start(&self) -> Start {
        self.inner.start()
    }

    fn sql(&self) -> &str {
        &self.sql
    }

    fn library_sql(&self) -> &'static str {
        self.inner.library_sql()
    }

    fn columns(&self) -> Vec<(String, String, String)> {
        self.inner.columns()
    }

    fn absorbs_repeats(&self) -> bool {
        self.inner.absorbs_repeats()
    }

    fn apply<'a>(
        &'a self,
        tx: &'a mut sqlx::PgConnection,
        build: &'a Build,
        decoder: &'a Decoder,
        records: &'a [Record],
    ) -> BoxFuture<'a, Result<Applied, ApplyError>> {
        self.inner.apply(tx, build, decoder, records)
    }

    fn pass_over<'a>(
        &'a self,
        tx: &'a mut sqlx::PgConnection,
        build: &'a Build,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        self.inner.pass_over(tx, build, record)
    }
}
