//! Running effects: what their loops share, start and end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use sqlx::PgConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::erased::Registered;
use super::health::Health;
pub use super::health::HealthReport;
use super::intake::{self, Held};
use super::{emit, store, work};
use crate::config::{KafkaConfig, ViewsConfig};
use crate::log::consumer::{GroupConsumer, Key, Member};
use crate::projection::Decoder;
use crate::projection::checkpoint::Checkpoint;
use crate::projection::sink::database;
use crate::telemetry::consumers::{Group, Position};
use crate::telemetry::events;

/// Connections of an effect for its calls; intake has one of its own.
const CONNECTIONS: u32 = 4;

/// How much an effect takes in at a time.
#[derive(Debug, Clone, clap::Args)]
pub struct EffectOptions {
    /// Most records of a batch of an effect.
    #[arg(long, env = "EFFECT_BATCH_RECORDS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub effect_batch_records: u32,
    /// Most bytes of a batch of an effect; a single record may be larger.
    #[arg(long, env = "EFFECT_BATCH_BYTES", default_value_t = 4_000_000)]
    pub effect_batch_bytes: u64,
    /// Longest that a batch is collected while input keeps coming, from its first record; a drained
    /// input closes it at once.
    #[arg(long, env = "EFFECT_BATCH_DEADLINE_MS", default_value_t = 20)]
    pub effect_batch_deadline_ms: u64,
}

impl Default for EffectOptions {
    fn default() -> Self {
        Self {
            effect_batch_records: 1_000,
            effect_batch_bytes: 4_000_000,
            effect_batch_deadline_ms: 20,
        }
    }
}

impl EffectOptions {
    pub(super) fn batch_bytes(&self) -> usize {
        usize::try_from(self.effect_batch_bytes).unwrap_or(usize::MAX)
    }
}

/// What effects need besides themselves.
#[derive(Debug, Clone)]
pub struct EffectsConfig {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// The Postgres that the rows stand in: the views'.
    pub views: ViewsConfig,
    /// Limits.
    pub options: EffectOptions,
}

/// Why an effect did not start, ended, or waits.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// Its name or its limits.
    #[error("{0}")]
    Registration(String),
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("migrations of millrace_effects: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A schema is not known yet, and nobody could be asked.
    #[error("schemas: {0}")]
    Schemas(String),
    /// A fact about a partition could not be read.
    #[error("{0}")]
    Read(String),
    /// A loop died.
    #[error("effect {0} ended with a panic")]
    Panicked(String),
}

/// What the loops of one effect share.
pub(super) struct Core {
    pub(super) config: EffectsConfig,
    pub(super) registered: Registered,
    pub(super) decoder: Decoder,
    /// This run of the effect, as rows and checkpoints name it.
    pub(super) owner: String,
    pub(super) runtime: Handle,
    pub(super) pool: PgPool,
    pub(super) health: Health,
    pub(super) shutdown: CancellationToken,
    /// There may be something to call.
    pub(super) wake: Notify,
    /// There may be something to produce.
    pub(super) ended: Notify,
    /// Set by the rebalance callback.
    pub(super) changed: AtomicBool,
    /// How far the group is, for the metrics.
    pub(super) group: Arc<Group>,
    /// What its calls came to, by type of event.
    pub(super) events: Arc<events::Handler>,
    conn: Mutex<Option<PgConnection>>,
    held: Mutex<BTreeMap<Key, Held>>,
    gone: Mutex<BTreeSet<Key>>,
}

impl Core {
    pub(super) fn name(&self) -> &str {
        self.registered.name()
    }

    /// Looks at or changes what is held; nothing slow may be done meanwhile.
    pub(super) fn with_held<T>(&self, step: impl FnOnce(&mut BTreeMap<Key, Held>) -> T) -> T {
        let mut held = self
            .held
            .lock()
            .expect("no thread panics while it holds the partitions");
        let done = step(&mut held);
        self.health.set_partitions(held.len());
        done
    }

    /// Claims that are read on.
    pub(super) fn running(&self) -> Vec<Checkpoint> {
        self.with_held(|held| {
            held.values()
                .filter_map(|held| match held {
                    Held::Running(claim) => Some(claim.clone()),
                    _ => None,
                })
                .collect()
        })
    }

    /// Claims whose rows are ours to work on.
    pub(super) fn claims(&self) -> Vec<Checkpoint> {
        self.with_held(|held| {
            held.values()
                .filter_map(|held| match held {
                    Held::Running(claim) | Held::Stopped(claim) => Some(claim.clone()),
                    _ => None,
                })
                .collect()
        })
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, BTreeSet<Key>> {
        self.gone
            .lock()
            .expect("no thread panics while it holds the partitions")
    }

    /// Partitions whose polled records must be thrown away.
    pub(super) fn take_gone(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.gone())
    }

    pub(super) fn forget_partitions(&self) {
        self.with_held(BTreeMap::clear);
        self.gone().clear();
    }

    /// Runs a step of intake on its connection, which is given up if the step fails: its state is unknown then.
    pub(super) fn on_database<T>(
        &self,
        step: impl AsyncFnOnce(&mut PgConnection) -> Result<T, EffectError>,
    ) -> Result<T, EffectError> {
        let slot = || {
            self.conn
                .lock()
                .expect("only the intake's thread uses its connection")
        };
        let kept = slot().take();
        let (done, conn) = self.runtime.block_on(async {
            let mut conn = match kept {
                Some(conn) => conn,
                None => match database::connect(&self.config.views, "millrace effect").await {
                    Ok(conn) => conn,
                    Err(error) => return (Err(error.into()), None),
                },
            };
            match database::bounded(step(&mut conn)).await {
                Ok(done) => (Ok(done), Some(conn)),
                Err(error) => (Err(error), None),
            }
        });
        *slot() = conn;
        done
    }

    /// Waits on the intake's thread, shutdown permitting.
    pub(super) fn wait(&self, time: Duration) {
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(time, self.shutdown.cancelled()).await;
        });
    }
}

impl Member for Core {
    fn name(&self) -> &str {
        self.registered.name()
    }

    /// All of them rest until the loop has claimed them.
    fn assigned(&self, _: &GroupConsumer<Self>, keys: &[Key]) -> BTreeMap<Key, Option<i64>> {
        self.with_held(|held| {
            let mut gone = self.gone();
            for key in keys {
                gone.insert(key.clone());
                held.insert(key.clone(), Held::Unclaimed);
            }
        });
        self.changed.store(true, Ordering::Relaxed);
        BTreeMap::new()
    }

    fn unassigned(&self, keys: &[Key]) {
        self.with_held(|held| {
            let mut gone = self.gone();
            for key in keys {
                held.remove(key);
                self.health.released(key);
                gone.insert(key.clone());
            }
        });
        self.changed.store(true, Ordering::Relaxed);
    }

    fn failed(&self, error: &KafkaError) {
        self.health.failed(error.to_string());
    }

    /// What was polled becomes rows within the batch's deadline, so it counts as read. A transaction that hangs shows in the views'
    /// health, which read the same topics.
    fn measured(&self, statistics: &Statistics) {
        let of = |claim: Checkpoint| {
            let (next, settled) = (claim.next, true);
            ((claim.topic, claim.partition), Position { next, settled })
        };
        let positions = self.running().into_iter().map(of).collect();
        self.group.consumed(statistics, &positions);
    }
}

/// A running effect. Dropping it stops it without waiting.
pub struct Effects {
    core: Arc<Core>,
    intake_ended: oneshot::Receiver<()>,
    intake: Option<thread::JoinHandle<()>>,
    loops: Option<JoinHandle<()>>,
}

impl Effects {
    /// Brings the tables up to date and starts one effect.
    pub async fn start(
        config: EffectsConfig,
        registered: Registered,
        decoder: Decoder,
    ) -> Result<Self, EffectError> {
        registered.check().map_err(EffectError::Registration)?;
        let mut conn = database::connect(&config.views, "millrace effect").await?;
        store::migrate(&mut conn).await?;
        store::ensure(&mut conn, registered.name()).await?;
        drop(conn);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(database::options(&config.views, "millrace effect")?);
        let producer = emit::producer(&config.kafka)?;
        let core = Arc::new(Core {
            owner: format!("{}/{}", std::process::id(), Uuid::now_v7().simple()),
            group: Group::of(&super::group(registered.name())),
            events: events::Handler::of(
                events::Kind::Effect,
                registered.name(),
                registered.topics(),
            ),
            config,
            registered,
            decoder,
            runtime: Handle::current(),
            pool,
            health: Health::default(),
            shutdown: CancellationToken::new(),
            wake: Notify::new(),
            ended: Notify::new(),
            changed: AtomicBool::new(false),
            conn: Mutex::default(),
            held: Mutex::default(),
            gone: Mutex::default(),
        });
        let (end, intake_ended) = oneshot::channel::<()>();
        let intake = thread::Builder::new()
            .name(format!("effect {}", core.name()))
            .spawn({
                let core = core.clone();
                move || {
                    // Dropped at the end of the thread, also by a panic: that is what wakes `intake_ended`.
                    let _end = end;
                    intake::run(&core);
                }
            })
            .expect("the system gives out threads");
        let loops = tokio::spawn({
            let core = core.clone();
            async move {
                let done = CancellationToken::new();
                let emitting = emit::run(&core, producer, &done);
                let working = async {
                    work::run(&core).await;
                    done.cancel();
                };
                tokio::join!(working, emitting);
            }
        });
        Ok(Self {
            core,
            intake_ended,
            intake: Some(intake),
            loops: Some(loops),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// How it is.
    pub fn health(&self) -> HealthReport {
        let report = self.core.health.report(Duration::from_secs(10));
        crate::telemetry::handlers::effect(self.name(), &report);
        report
    }

    /// Waits until it ends, which without [`stop`](Self::stop) only a panic makes it do.
    pub async fn ended(&mut self) -> Result<(), EffectError> {
        let panicked = || EffectError::Panicked(self.core.name().to_owned());
        if let Some(loops) = &mut self.loops {
            tokio::select! {
                done = loops => {
                    self.loops = None;
                    done.map_err(|_| panicked())?;
                }
                _ = &mut self.intake_ended, if self.intake.is_some() => {}
            }
        }
        self.core.shutdown.cancel();
        if let Some(loops) = self.loops.take() {
            loops.await.map_err(|_| panicked())?;
        }
        if let Some(intake) = self.intake.take() {
            let joined = tokio::task::spawn_blocking(move || intake.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(panicked());
            }
        }
        Ok(())
    }

    /// Lets calls under way end and records them, commits to Kafka and leaves the group.
    pub async fn stop(mut self) -> Result<(), EffectError> {
        self.core.shutdown.cancel();
        self.ended().await
    }
}

impl Drop for Effects {
    fn drop(&mut self) {
        self.core.shutdown.cancel();
    }
}
