//! A topic, a database, a receiver and an effect of a test's own, on the shared servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use millrace::codec::Codec;
use millrace::config::{KafkaConfig, Properties, Secret, ViewsConfig};
use millrace::effect::webhook::Webhook;
use millrace::effect::{
    Answer, AskByKey, Backoff, BoxFuture, Call, CallError, Effect, EffectOptions, Effects,
    EffectsConfig, OutcomeCommand, Registered, Registration, Rule, RuleName, Start, effect,
};
use millrace::event::{Event, Recorded};
use millrace::log::client;
use millrace::projection::{Decoder, LearnError, SchemaSource};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message};
use sqlx::PgPool;
use tests::event;
use tests::hall::{HallEvent, HallSeatReleased, HallSeatReserved};
use tests::servers::Servers;
use tests::wait::{LONGEST, eventually};
use uuid::Uuid;

use super::receiver::Receiver;

/// First schema id of the events; nobody else's ids are known.
const FIRST_SCHEMA_ID: u32 = 71;
pub(super) const PARTITIONS: i32 = 3;

pub(super) struct World<'s> {
    pub(super) servers: &'s Servers,
    pub(super) topic: String,
    pub(super) kafka: KafkaConfig,
    pub(super) database: String,
    pub(super) pool: PgPool,
    pub(super) receiver: Receiver,
    codec: Codec,
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    sequences: HashMap<String, i64>,
    position: i64,
}

/// Knows no schema beyond the codec's own.
struct NoMore;

impl SchemaSource for NoMore {
    fn learn(&self, schema_id: u32) -> BoxFuture<'_, Result<(), LearnError>> {
        Box::pin(async move {
            let unknown = format!("schema id {schema_id} does not exist");
            Err(LearnError::Unknown(unknown))
        })
    }
}

pub(super) fn kafka_config(bootstrap: &str) -> KafkaConfig {
    KafkaConfig {
        kafka_bootstrap: bootstrap.to_owned(),
        kafka_properties: Properties::default(),
        topic_partitions: PARTITIONS,
        topic_replication: 1,
    }
}

impl<'s> World<'s> {
    pub(super) async fn new(servers: &'s Servers) -> Result<World<'s>> {
        let tail = Uuid::now_v7().simple().to_string();
        let topic = format!("hall-{}.events", &tail[tail.len() - 12..]);
        let kafka = kafka_config(servers.kafka());
        let world = World {
            servers,
            database: servers.fresh_database("effects").await?,
            pool: PgPool::connect(servers.views_database_url()).await?,
            receiver: Receiver::start().await?,
            codec: codec()?,
            producer: ClientConfig::new()
                .set("bootstrap.servers", servers.kafka())
                .set("partitioner", "murmur2_random")
                .set("linger.ms", "1")
                .create()?,
            sequences: HashMap::new(),
            position: 0,
            kafka,
            topic,
        };
        let pool = PgPool::connect(&world.database).await?;
        let world = World { pool, ..world };
        for topic in [
            world.topic.clone(),
            world.commands_topic(),
            millrace::effect::dead_letters_topic(&world.name()),
        ] {
            client::admin(&world.kafka)?
                .create_topics(
                    &[NewTopic::new(
                        &topic,
                        PARTITIONS,
                        TopicReplication::Fixed(1),
                    )],
                    &AdminOptions::new(),
                )
                .await?;
        }
        Ok(world)
    }

    /// The effect's name: the topic is this test's own, and so is the effect.
    pub(super) fn name(&self) -> String {
        format!("post-{}", self.aggregate().trim_start_matches("hall-"))
    }

    pub(super) fn group(&self) -> String {
        millrace::effect::group(&self.name())
    }

    fn aggregate(&self) -> String {
        self.topic.trim_end_matches(".events").to_owned()
    }

    pub(super) fn commands_topic(&self) -> String {
        format!("{}.commands", self.aggregate())
    }

    /// Posts to the receiver; every call comes back as a command.
    pub(super) fn post(&self, rule: RuleName) -> Post {
        Post {
            name: self.name(),
            topic: self.topic.clone(),
            url: self.receiver.server.url(),
            rule,
        }
    }

    pub(super) async fn run(&self, rule: RuleName, registration: Registration) -> Result<Effects> {
        start(
            &self.kafka,
            &self.database,
            effect(self.post(rule), registration),
        )
        .await
    }

    pub(super) fn reserve(&mut self, hall: &str, guest: &str) -> Result<Uuid> {
        let guest = guest.to_owned();
        self.produce(hall, &HallSeatReserved { guest }.into())
    }

    pub(super) fn release(&mut self, hall: &str, guest: &str) -> Result<Uuid> {
        let guest = guest.to_owned();
        self.produce(hall, &HallSeatReleased { guest }.into())
    }

    fn produce(&mut self, hall: &str, event: &HallEvent) -> Result<Uuid> {
        let (_, payload) = self.codec.encode(event)?;
        self.produce_raw(hall, &payload)
    }

    /// The next event of the hall, whatever its value is; returns its id.
    pub(super) fn produce_raw(&mut self, hall: &str, payload: &[u8]) -> Result<Uuid> {
        let sequence = self.sequences.entry(hall.to_owned()).or_default();
        *sequence += 1;
        let sequence = *sequence;
        self.position += 1;
        let id = Uuid::now_v7();
        self.producer
            .send(
                BaseRecord::to(&self.topic)
                    .key(hall)
                    .payload(payload)
                    .headers(event::headers(id, hall, sequence, self.position)),
            )
            .map_err(|(error, _)| error)?;
        self.producer.flush(LONGEST)?;
        Ok(id)
    }

    pub(super) async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or(-1)
    }

    /// How many rows are in a state.
    pub(super) async fn rows(&self, state: &str) -> i64 {
        self.count(&format!(
            "SELECT count(*) FROM millrace_effects.calls WHERE state = '{state}'"
        ))
        .await
    }

    /// Waits until as many rows are in a state.
    pub(super) async fn until(&self, state: &str, expected: i64) -> Result<()> {
        let what = format!("{expected} rows {state}");
        let waited = eventually(&what, || async { self.rows(state).await == expected });
        if let Err(error) = waited.await {
            let rows: Vec<(String, String, i32, i32, Option<String>)> = sqlx::query_as(
                "SELECT aggregate_id, state, calls, attempts, reason FROM millrace_effects.calls ORDER BY claimed_at",
            )
            .fetch_all(&self.pool)
            .await?;
            return Err(error.context(format!("{rows:?}")));
        }
        Ok(())
    }

    /// Every record of a topic: key, value and headers.
    pub(super) fn records(&self, topic: &str) -> Result<Vec<Kept>> {
        let consumer: BaseConsumer = client::reader(&self.kafka, "test").create()?;
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let (mut records, mut ends) = (Vec::new(), 0);
        let deadline = Instant::now() + LONGEST;
        while ends < PARTITIONS {
            if Instant::now() > deadline {
                bail!("{topic} was not read in time");
            }
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(Kept::of(&message)),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ends += 1,
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Ok(records)
    }
}

/// A record as a test looks at it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) headers: HashMap<String, String>,
}

impl Kept {
    fn of(message: &rdkafka::message::BorrowedMessage<'_>) -> Self {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message.headers().into_iter().flat_map(|all| all.iter());
        Self {
            key: text(message.key()),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers
                .map(|header| (header.key.to_owned(), text(header.value)))
                .collect(),
        }
    }
}

/// Quick to give up and to come back, so that no test waits.
pub(super) fn quick() -> Registration {
    let mut registration = Registration::new(Start::Earliest);
    let backoff = Backoff {
        first: Duration::from_millis(20),
        max: Duration::from_millis(100),
    };
    registration.policy.attempts_max = 3;
    registration.policy.transient = backoff;
    registration.policy.outage = backoff;
    registration.call_timeout = Duration::from_secs(8);
    registration.grace = Duration::from_millis(500);
    registration
}

pub(super) async fn start(
    kafka: &KafkaConfig,
    database: &str,
    registered: Registered,
) -> Result<Effects> {
    let config = EffectsConfig {
        kafka: kafka.clone(),
        views: ViewsConfig {
            views_database_url: Secret::from(database),
        },
        options: EffectOptions::default(),
    };
    let decoder = Decoder::new(codec()?, Arc::new(NoMore));
    Ok(Effects::start(config, registered, decoder).await?)
}

fn codec() -> Result<Codec> {
    let schemas: Vec<_> = HallEvent::SCHEMAS.iter().collect();
    event::codec(HallEvent::AGGREGATE, &schemas, FIRST_SCHEMA_ID)
}

/// Posts every reservation of a seat; what came of it goes back to the hall.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) url: String,
    pub(super) rule: RuleName,
}

impl Post {
    fn outcome(&self, hall: &str, guest: &str) -> OutcomeCommand {
        OutcomeCommand {
            aggregate: self.topic.trim_end_matches(".events").to_owned().into(),
            aggregate_id: hall.to_owned(),
            command_type: "ConfirmSeat".into(),
            schema_version: 1,
            payload: guest.as_bytes().to_vec(),
        }
    }
}

impl Effect for Post {
    type Event = HallEvent;

    fn name(&self) -> &str {
        &self.name
    }

    fn topics(&self) -> Vec<String> {
        vec![self.topic.clone()]
    }

    fn applies(&self, event: &Recorded<HallEvent>) -> bool {
        matches!(event.event, HallEvent::HallSeatReserved(_))
    }

    fn rule(&self) -> Rule<'_, HallEvent> {
        match self.rule {
            RuleName::AskByKey => Rule::AskByKey(self),
            RuleName::SafeToRepeat => Rule::SafeToRepeat,
            RuleName::NeverRepeat => Rule::NeverRepeat,
        }
    }

    fn call<'a>(
        &'a self,
        call: &'a Call<'a, HallEvent>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            let HallEvent::HallSeatReserved(seat) = &call.event.event else {
                return Ok(None);
            };
            let hall = &call.event.aggregate_id;
            let url = format!("{}/halls/{hall}/{}", self.url, seat.guest);
            let webhook =
                Webhook::new(&url, &[]).map_err(|error| CallError::Permanent(error.to_string()))?;
            webhook.post(call, &seat.guest).await?;
            Ok(Some(self.outcome(hall, &seat.guest)))
        })
    }
}

impl AskByKey<HallEvent> for Post {
    fn ask<'a>(
        &'a self,
        call: &'a Call<'a, HallEvent>,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move {
            let HallEvent::HallSeatReserved(seat) = &call.event.event else {
                return Ok(Answer::NotDone);
            };
            let asked = reqwest::get(format!("{}/calls/{}", self.url, call.key)).await;
            match asked.map(|answer| answer.status().as_u16()) {
                Ok(200) => Ok(Answer::Done(Some(
                    self.outcome(&call.event.aggregate_id, &seat.guest),
                ))),
                Ok(404) => Ok(Answer::NotDone),
                other => Err(CallError::Outage(format!("{other:?}"))),
            }
        })
    }
}
