//! The servers that everything is measured on, and the clients of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use millrace::command::{Commands, WriteConfig};
use millrace::config::{JournalConfig, KafkaConfig, Registration, RegistryConfig, Secret};
use millrace::journal::Journal;
use millrace::log::topics::{self, Kind, Topic};
use millrace::registry::Registry;
use rdkafka::message::OwnedHeaders;
use sqlx::{Connection, PgConnection};
use tests::servers::Servers;
use tokio::sync::{Notify, OnceCell};
use uuid::Uuid;

use crate::cpu::CpuMeter;
use crate::filled::Filled;
use crate::raw::{self, Prepared};

const WARM_TRANSACTIONS: usize = 4_000;
const WARM_RECORDS: usize = 10;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// How long callers send commands.
    pub(crate) load_time: Duration,
    /// How long paced commands are sent.
    pub(crate) paced_time: Duration,
    /// Events of a filled journal or topic.
    pub(crate) events: usize,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            load_time: Duration::from_secs(3),
            paced_time: Duration::from_secs(8),
            events: 400_000,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            load_time: Duration::from_secs(1),
            paced_time: Duration::from_secs(2),
            events: 100_000,
        }
    }
}

/// Running servers.
pub(crate) struct World {
    pub(crate) servers: Servers,
    pub(crate) scale: Scale,
    pub(crate) kafka: KafkaConfig,
    postgres_pid: u32,
    kafka_pid: u32,
    filled: OnceCell<Filled>,
    warm: OnceCell<()>,
}

impl World {
    /// Starts them, which takes 5 to 10 seconds.
    pub(crate) async fn start(scale: Scale) -> Result<Self> {
        let servers = tokio::task::spawn_blocking(Servers::start_full).await??;
        let pid = |server: &str| -> Result<u32> {
            let path = servers.dir().join(format!("run/{server}.pid"));
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Ok(text.split_whitespace().next().context("no pid")?.parse()?)
        };
        Ok(Self {
            scale,
            kafka: KafkaConfig {
                kafka_bootstrap: servers.kafka().to_owned(),
                ..settings()
            },
            postgres_pid: pid("postgres")?,
            kafka_pid: pid("kafka")?,
            filled: OnceCell::new(),
            warm: OnceCell::new(),
            servers,
        })
    }

    /// Starts to count CPU time, also of these processes.
    pub(crate) fn meter(&self, roles: &[u32]) -> CpuMeter {
        CpuMeter::start(self.postgres_pid, self.kafka_pid, roles)
    }

    pub(crate) fn registry_config(&self) -> RegistryConfig {
        RegistryConfig {
            schema_registry_url: self.servers.registry().to_owned(),
            schema_registration: Registration::Register,
        }
    }

    /// The schemas of the reference system, registered, and kept in a journal where there is one.
    pub(crate) async fn registry(&self, journal: Option<&Journal>) -> Result<Registry> {
        let kept = journal.map(|journal| journal.pool().clone());
        Ok(Registry::open(&self.registry_config(), schemas::all(), kept).await?)
    }

    /// The write side of the reference system on a journal of its own, without a relay.
    pub(crate) async fn write_side(&self, database: &str) -> Result<Commands> {
        let config = JournalConfig {
            database_url: Secret::from(database),
        };
        let names: Vec<&str> = producer::AGGREGATES.iter().map(|of| of.name).collect();
        let journal = Journal::open(&config, &names).await?;
        let registry = self.registry(Some(&journal)).await?;
        Ok(Commands::start(
            producer::AGGREGATES,
            journal,
            registry,
            settings::<WriteConfig>(),
            self.kafka.topic_partitions,
            std::sync::Arc::new(Notify::new()),
        ))
    }

    /// Creates a topic that no other measure uses.
    pub(crate) async fn new_topic(&self, name: &str) -> Result<String> {
        let name = format!("{name}-{}.events", Uuid::now_v7().simple());
        let topic = Topic {
            name: name.clone(),
            kind: Kind::Events,
        };
        topics::ensure(&self.kafka, &[topic]).await?;
        Ok(name)
    }

    /// Sends a few thousand small transactions, once: a broker that has just begun compiles its own code meanwhile, which on two
    /// cores takes as long as what is measured.
    pub(crate) async fn warm_broker(&self) -> Result<()> {
        let warm = async || {
            let topic = self.new_topic("warm").await?;
            let kafka = self.kafka.clone();
            let records = (0..WARM_TRANSACTIONS * WARM_RECORDS).map(|number| Prepared {
                key: number.to_string(),
                payload: vec![7; 200],
                headers: OwnedHeaders::new(),
            });
            let records = records.collect();
            let produced = move || raw::produce(&kafka, &topic, records, WARM_RECORDS);
            tokio::task::spawn_blocking(produced).await??;
            Ok(())
        };
        self.warm.get_or_try_init(warm).await.copied()
    }

    /// A topic of orders' events, filled once.
    pub(crate) async fn filled(&self) -> Result<&Filled> {
        self.filled.get_or_try_init(|| Filled::new(self)).await
    }
}

/// A role's settings as they come, or as the environment has them: what the roles that are started read too.
pub(crate) fn settings<T: clap::Args>() -> T {
    #[derive(Parser)]
    struct Settings<T: clap::Args> {
        #[command(flatten)]
        of: T,
    }
    Settings::parse_from(["bench"]).of
}

/// One number from a database.
pub(crate) async fn count(url: &str, sql: &'static str) -> Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(number)
}
