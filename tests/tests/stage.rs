//! A view on real servers: a topic, a database and a group of its own use, with a sink, builders and a way to publish.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::Utc;
use millrace::config::{
    KafkaConfig, Properties, Registration, RegistryConfig, Secret, ViewsConfig,
};
use millrace::event::Recorded;
use millrace::log::headers;
use millrace::position::{JournalPosition, Token};
use millrace::projection::sink::{Sink, SinkConfig, SinkOptions};
use millrace::projection::{
    Decoder, Poison, Projector, SqlError, SqlProjection, Start, sql_projection,
};
use millrace::rebuild::{Builder, RebuildConfig};
use millrace::registry::{Registry, SchemaSet};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::{PgConnection, PgPool};
use tests::hall::{HallEvent, HallSeatReserved};
use tests::servers::Servers;
use tests::wait::LONGEST;
use uuid::Uuid;

pub(crate) const PARTITIONS: i32 = 3;
/// A guest whose event the view cannot apply.
pub(crate) const POISON: &str = "poison";

/// Counts reservations of a hall, without any guard against repeats: each shows in the sum.
struct Seats {
    topic: String,
}

impl SqlProjection for Seats {
    const NAME: &'static str = "seats";
    const START: Start = Start::Earliest;
    const SQL: &'static str = "
        CREATE TABLE seats (hall text NOT NULL, source text NOT NULL, seats bigint NOT NULL,
                            PRIMARY KEY (hall, source));
        CREATE VIEW views.seats AS
        SELECT hall, sum(seats)::bigint AS seats FROM seats GROUP BY hall;";
    type Payload = HallEvent;

    fn topics(&self) -> Vec<String> {
        vec![self.topic.clone()]
    }

    async fn project(
        &self,
        events: &[&Recorded<HallEvent>],
        tx: &mut PgConnection,
    ) -> Result<(), SqlError> {
        for event in events {
            if matches!(&event.event, HallEvent::HallSeatReserved(of) if of.guest == POISON) {
                return Err(Poison::new("this guest is poison").into());
            }
            sqlx::query(
                "INSERT INTO seats VALUES ($1, $2, 1)
                 ON CONFLICT (hall, source) DO UPDATE SET seats = seats.seats + 1",
            )
            .bind(&event.aggregate_id)
            .bind(event.source())
            .execute(&mut *tx)
            .await?;
        }
        Ok(())
    }
}

/// Everything that a test of a view needs. Tests on it run one after another: they share the view's group.
pub(crate) struct Stage {
    pub(crate) topic: String,
    pub(crate) pool: PgPool,
    pub(crate) views: ViewsConfig,
    pub(crate) projector: Arc<dyn Projector>,
    kafka: KafkaConfig,
    decoder: Decoder,
    registry: Registry,
    producer: BaseProducer,
    published: AtomicI64,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Stage {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let alone = ALONE.lock().await;
        let servers = Servers::shared();
        let topic = format!("{name}-{}.events", Uuid::now_v7().simple());
        tests::stock::create_topic(servers, &topic, PARTITIONS as u32)?;
        let views = ViewsConfig {
            views_database_url: Secret::from(servers.fresh_database(name).await?.as_str()),
        };
        let kafka = KafkaConfig {
            kafka_bootstrap: servers.kafka().to_owned(),
            kafka_properties: Properties::default(),
            topic_partitions: PARTITIONS,
            topic_replication: 1,
        };
        let registry = Registry::open(
            &RegistryConfig {
                schema_registry_url: servers.registry().to_owned(),
                schema_registration: Registration::Register,
            },
            vec![SchemaSet::of::<HallEvent>()],
            None,
        )
        .await?;
        Ok(Self {
            projector: sql_projection(Seats {
                topic: topic.clone(),
            })
            .into(),
            pool: PgPool::connect(views.views_database_url.expose()).await?,
            decoder: Decoder::of(registry.clone()),
            producer: ClientConfig::new()
                .set("bootstrap.servers", servers.kafka())
                .create()?,
            published: AtomicI64::new(0),
            topic,
            views,
            kafka,
            registry,
            _alone: alone,
        })
    }

    pub(crate) async fn sink(&self) -> Result<Sink> {
        let config = SinkConfig {
            kafka: self.kafka.clone(),
            views: self.views.clone(),
            options: SinkOptions::default(),
        };
        Ok(Sink::start(config, self.projector.clone(), self.decoder.clone()).await?)
    }

    pub(crate) fn builder(&self) -> Builder {
        let config = RebuildConfig {
            lease_ttl: Duration::from_secs(3),
            claims_timeout: Duration::ZERO,
            batch_records: 500,
            ..RebuildConfig::new(self.kafka.clone(), self.views.clone())
        };
        Builder::new(config, self.projector.clone(), self.decoder.clone())
    }

    /// Publishes an event and returns the token that its command would have been answered with.
    pub(crate) fn publish(&self, hall: &str, guest: &str, partition: i32) -> Result<Token> {
        let number = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        let event = HallEvent::from(HallSeatReserved {
            guest: guest.to_owned(),
        });
        let (_, payload) = self.registry.codec().encode(&event)?;
        let position = JournalPosition {
            generation: 1,
            xid: 700 + number / 10,
            position: number,
        };
        let mut all = OwnedHeaders::new();
        for (name, value) in [
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TIME, headers::time(Utc::now())),
            (headers::POSITION, position.to_string()),
            (headers::SCHEMA_VERSION, "1".to_owned()),
            (headers::SEQUENCE, number.to_string()),
        ] {
            all = all.insert(Header {
                key: name,
                value: Some(&value),
            });
        }
        let record = BaseRecord::to(&self.topic)
            .partition(partition)
            .key(hall)
            .payload(&payload)
            .headers(all);
        self.producer.send(record).map_err(|(error, _)| error)?;
        Ok(Token {
            topic: self.topic.clone(),
            partition,
            position,
        })
    }

    /// Publishes `count` events over all partitions and waits until the broker has them.
    pub(crate) fn publish_many(&self, count: i64) -> Result<()> {
        for number in 0..count {
            let partition = (number % i64::from(PARTITIONS)) as i32;
            self.publish(&format!("h{}", number % 30), "ada", partition)?;
        }
        self.flush()
    }

    pub(crate) fn flush(&self) -> Result<()> {
        Ok(self.producer.flush(LONGEST)?)
    }

    pub(crate) fn published(&self) -> i64 {
        self.published.load(Ordering::Relaxed)
    }

    pub(crate) async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn seats(&self) -> Result<i64> {
        self.number("SELECT coalesce(sum(seats), 0)::bigint FROM views.seats")
            .await
    }

    /// Waits until the statement gives the number.
    pub(crate) async fn until(&self, sql: &'static str, wanted: i64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let number = self.number(sql).await?;
            if number == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < LONGEST, "{sql}: {number}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the view shows every published event once.
    pub(crate) async fn until_all(&self) -> Result<()> {
        self.until(
            "SELECT coalesce(sum(seats), 0)::bigint FROM views.seats",
            self.published(),
        )
        .await
    }
}
