//! The live sink: one consumer a view, on a thread of its own, writing into the view's live build.
//!
//! The loop polls until its batch is full or the input is drained, then moves the checkpoints, writes the
//! rows and commits, all in one Postgres transaction, and only then commits to Kafka. The Kafka commit is
//! for the group tools; the checkpoint alone says where to go on.
//!
//! Invariant: a partition's records are written in order and without holes, from the checkpoint on. What
//! was polled for a partition is thrown away when the partition is revoked, lost or claimed anew.

mod assign;
pub(crate) mod database;
mod health;
mod owner;
pub(crate) mod reader;
mod run;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use health::{Health, HealthReport};

use crate::config::{KafkaConfig, ViewsConfig};
use crate::projection::builds::BuildError;
use crate::projection::{ApplyError, Decoder, Projector, RUNBOOK, builds};

/// How large a batch may grow and how much may go wrong.
#[derive(Debug, Clone, clap::Args)]
pub struct SinkOptions {
    /// Most records of a batch of a view.
    #[arg(long, env = "VIEW_BATCH_RECORDS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub view_batch_records: u32,
    /// Most bytes of a batch of a view; a single record may be larger.
    #[arg(long, env = "VIEW_BATCH_BYTES", default_value_t = 8_000_000)]
    pub view_batch_bytes: u64,
    /// Longest that a batch is collected while input keeps coming, from its first record; a drained
    /// input closes it at once.
    #[arg(long, env = "VIEW_BATCH_DEADLINE_MS", default_value_t = 50)]
    pub view_batch_deadline_ms: u64,
    /// Most parked aggregates of a partition of a view; one more stops the partition.
    #[arg(long, env = "VIEW_PARKED_MAX", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub view_parked_max: i64,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            view_batch_records: 5_000,
            view_batch_bytes: 8_000_000,
            view_batch_deadline_ms: 50,
            view_parked_max: 1_000,
        }
    }
}

/// What a sink needs besides its view.
#[derive(Clone)]
pub struct SinkConfig {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// The views' Postgres.
    pub views: ViewsConfig,
    /// Limits.
    pub options: SinkOptions,
}

/// Why a sink did not start, ended, or waits.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The view's tables.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A batch.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The live build's tables were made for another definition; the rebuild's swap ends the wait.
    #[error(
        "build {build} of view {view} has the tables of another definition: waiting for the rebuild with this one"
    )]
    OtherDefinition {
        /// Which view.
        view: String,
        /// Number of the live build.
        build: i32,
    },
    /// A record that must be there was not read in time.
    #[error("{topic}/{partition}: nothing was read from offset {offset} on within {waited_s} s")]
    Unread {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where the reading began.
        offset: i64,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// A new view would lack, without a trace, the events that were deleted from the topic.
    #[error(
        "{topic}/{partition} begins at offset {first}, the new view {view} must be built from 0 on: see {RUNBOOK}"
    )]
    Truncated {
        /// Which view.
        view: String,
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// First offset that it holds.
        first: i64,
    },
    /// The thread died.
    #[error("the sink of view {0} ended with a panic")]
    Panicked(String),
}

/// A running sink. Dropping it stops it without waiting.
pub struct Sink {
    name: String,
    health: Arc<Health>,
    shutdown: CancellationToken,
    ended: oneshot::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sink {
    /// Creates the view's first build if there is none, and starts the sink.
    pub async fn start(
        config: SinkConfig,
        projector: Arc<dyn Projector>,
        decoder: Decoder,
    ) -> Result<Self, SinkError> {
        let mut conn = database::connect(&config.views, "millrace view").await?;
        builds::migrate(&mut conn).await?;
        builds::ensure(&mut conn, &*projector).await?;
        drop(conn);
        let health = Arc::new(Health::default());
        let shutdown = CancellationToken::new();
        let name = projector.name().to_owned();
        let core = Arc::new(assign::Core::new(
            config,
            projector,
            decoder,
            format!("{}/{}", std::process::id(), Uuid::now_v7().simple()),
            (Handle::current(), health.clone(), shutdown.clone()),
        ));
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("view {name}"))
            .spawn(move || {
                // Dropped at the end of the thread, also by a panic: that is what wakes `ended`.
                let _end = end;
                run::run(&core);
            })
            .expect("the system gives out threads");
        Ok(Self {
            name,
            health,
            shutdown,
            ended,
            thread: Some(thread),
        })
    }

    /// How it is.
    pub fn health(&self) -> HealthReport {
        self.health.report(Duration::from_secs(10))
    }

    /// Waits until it ends, which without [`stop`](Self::stop) only a panic makes it do.
    pub async fn ended(&mut self) -> Result<(), SinkError> {
        let _ = (&mut self.ended).await;
        let panicked = self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err());
        if panicked {
            return Err(SinkError::Panicked(self.name.clone()));
        }
        Ok(())
    }

    /// Finishes the batch in hand, commits to Kafka and leaves the group.
    pub async fn stop(mut self) -> Result<(), SinkError> {
        self.shutdown.cancel();
        self.ended().await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Runs a sink for every view until `shutdown`, then drains them; a sink that dies ends them all.
pub async fn run(
    config: SinkConfig,
    projectors: Vec<Arc<dyn Projector>>,
    decoder: Decoder,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    let mut sinks = Vec::with_capacity(projectors.len());
    for projector in projectors {
        sinks.push(Sink::start(config.clone(), projector, decoder.clone()).await?);
    }
    let result = {
        let ends = sinks.iter_mut().map(|sink| Box::pin(sink.ended()));
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            (ended, _, _) = futures::future::select_all(ends) => ended,
        }
    };
    for sink in &sinks {
        sink.shutdown.cancel();
    }
    for sink in sinks {
        if sink.thread.is_some() {
            sink.stop().await?;
        }
    }
    result
}

/// A named point between two durable steps, where the crash test ends the process or the thread.
fn crash_point(name: &str) {
    fail::fail_point!(name);
    let _ = name;
}
