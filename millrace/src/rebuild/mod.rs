//! Rebuilds: a view's rows computed again from the log's start, while the live rows go on being served and written.
//!
//! ```text
//!            resets recorded           every covered partition within 1,000 offsets
//!  idle ──────────────────▶ building ─────────────────────────────────────────▶ swap ──▶ old tables dropped
//!                            ▲     │ a batch into the shadow tables, with its checkpoint, one transaction
//!                            └─────┘
//! ```
//!
//! Any process may build; one does, under a lease a view. Invariants, and the schedules that would break them:
//!
//! 1. The shadow is never ahead of the live rows, or a swap would apply records that the live sink applies again. The
//!    builder reads `live.next` before each batch and keeps back what lies behind it.
//! 2. A swap loses and repeats no record. Broken if the live sink committed a batch between the shadow's last batch and the
//!    swap: so the swap locks the live checkpoints first, fills the shadow to exactly `live.next` under these locks, and
//!    raises the epochs, whereupon the live sink's next batch finds its epoch old, writes nothing, claims anew and reads
//!    which build is live. A partition that is claimed for the first time during a swap waits on the lock of the view's row.
//! 3. Two builders never write one shadow twice. Broken if a stopped builder wakes up after its lease expired: each shadow
//!    transaction checks the lease's epoch, moves the shadow's checkpoints by compare-and-set, and holds the build's
//!    row in state `building` against a swap, so whoever is late writes nothing.
//! 4. A build covers the resets that were recorded when it began; a reset that comes later waits for the next build,
//!    because its operator may have corrected something that the running build has read past.
//!
//! Tests: `rebuild::…` in the end-to-end suite run these schedules.

mod fill;
mod lease;
mod plan;
mod reader;
mod swap;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::config::{KafkaConfig, ViewsConfig};
use crate::lease::{Attempt, Lease, LeaseError, LeaseSpec};
use crate::projection::builds::BuildError;
use crate::projection::sink::database;
use crate::projection::{ApplyError, Decoder, Projector, RUNBOOK, is_outage};

pub use plan::{Progress, ask, ask_for, progress, readers};

const APPLICATION: &str = "millrace rebuild";
/// How long a build that is told to stop may take to free its lease; it ends without that otherwise.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks for resets.
const TICK: Duration = Duration::from_millis(250);

/// What a builder needs besides its view.
#[derive(Debug, Clone)]
pub struct RebuildConfig {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// The views' Postgres.
    pub views: ViewsConfig,
    /// Most parked aggregates of a partition; one more stops the build.
    pub parked_max: i64,
    /// Records of a batch.
    pub batch_records: usize,
    /// How long a builder that was stopped keeps others out.
    pub lease_ttl: Duration,
    /// How long a build waits until every partition was claimed after the first reset.
    pub claims_timeout: Duration,
}

impl RebuildConfig {
    /// With the defaults: batches of 5,000, a lease of 5 s, 10 s for the claims.
    pub fn new(kafka: KafkaConfig, views: ViewsConfig) -> Self {
        Self {
            kafka,
            views,
            parked_max: 1_000,
            batch_records: 5_000,
            lease_ttl: Duration::from_secs(5),
            claims_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a build did not go on. It is tried again, here or by another process.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    /// The new tables.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A batch.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Another process builds, or has swapped.
    #[error("build {build} of view {view} is no longer ours: {reason}")]
    Fenced {
        /// Which view.
        view: String,
        /// Number of the build.
        build: i32,
        /// How it was seen.
        reason: &'static str,
    },
    /// Kafka gave nothing for a record that must be there.
    #[error("{topic}/{partition}: nothing was read from offset {offset} on within {waited_s} s")]
    Unread {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where.
        offset: i64,
        /// How long.
        waited_s: u64,
    },
    /// Events were deleted from the topic: what is built from the rest would lack them without a trace.
    #[error(
        "{topic}/{partition} begins at offset {first}, view {view} must be built from {next} on: see {RUNBOOK}"
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
        /// What is to be read next.
        next: i64,
    },
    /// Ended on request, or by a fail point.
    #[error("stopped {0}")]
    Stopped(&'static str),
}

impl RebuildError {
    /// True if another try meets it again: it lies in the log, in the code or in the tables.
    fn lasts(&self) -> bool {
        match self {
            Self::Apply(ApplyError::Unavailable(_)) | Self::Fenced { .. } | Self::Stopped(_) => {
                false
            }
            Self::Apply(ApplyError::Database(error)) | Self::Database(error) => !is_outage(error),
            _ => true,
        }
    }
}

/// Builds what needs building, for every view, until shutdown.
pub async fn run(
    config: RebuildConfig,
    projectors: Vec<Arc<dyn Projector>>,
    decoder: Decoder,
    shutdown: CancellationToken,
) {
    let look = Look::default();
    let builders = projectors.into_iter().map(|projector| {
        let builder = Builder {
            look: look.clone(),
            ..Builder::new(config.clone(), projector, decoder.clone())
        };
        builder.run(shutdown.clone())
    });
    futures::future::join_all(builders).await;
}

/// The connection by which builders look for work, one after another: a session of its own for each look of each of twenty
/// views keeps Postgres busy with nothing. Dropped after any error, and by whoever is cancelled with it in his hands.
type Look = Arc<tokio::sync::Mutex<Option<PgConnection>>>;

/// The builder of one view in this process.
pub struct Builder {
    look: Look,
    config: RebuildConfig,
    projector: Arc<dyn Projector>,
    decoder: Decoder,
}

/// What a builder found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing, or another process does it.
    None,
    /// A build was swapped in, or what was left of an old one was dropped.
    Done,
}

impl Builder {
    /// A builder; it does nothing yet.
    pub fn new(config: RebuildConfig, projector: Arc<dyn Projector>, decoder: Decoder) -> Self {
        Self {
            look: Look::default(),
            config,
            projector,
            decoder,
        }
    }

    /// Looks for work and does it until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = TICK;
        while !shutdown.is_cancelled() {
            let overdue = async {
                shutdown.cancelled().await;
                tokio::time::sleep(STOP_WITHIN).await;
            };
            let done = tokio::select! {
                done = self.once(&shutdown) => done,
                () = overdue => break,
            };
            pause = match done {
                Ok(_) => TICK,
                Err(RebuildError::Stopped(_)) if shutdown.is_cancelled() => break,
                Err(error) => {
                    tracing::warn!(view = self.projector.name(), %error, "rebuild interrupted");
                    (pause * 2).min(Duration::from_secs(5))
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks once, and builds to the end if there is something to build and no one else builds it.
    ///
    /// Dropping the future stops the build between two transactions and leaves the lease to expire, as a killed
    /// process does.
    pub async fn once(&self, shutdown: &CancellationToken) -> Result<Work, RebuildError> {
        if !self.has_work().await? {
            return Ok(Work::None);
        }
        let mut conn = connect(&self.config).await?;
        let Attempt::Held(lease) = crate::lease::try_acquire(
            &database::options(&self.config.views, APPLICATION)?,
            &self.lease_spec(),
        )
        .await?
        else {
            return Ok(Work::None);
        };
        let lease = Arc::new(lease);
        let built = self.build(&mut conn, &lease, shutdown).await;
        if let Err(error) = &built
            && error.lasts()
        {
            // The connection may be in the middle of what failed.
            let mut conn = connect(&self.config).await?;
            plan::failed(&mut conn, &*self.projector, &error.to_string()).await?;
        }
        // A fail point stands for a killed process, which frees nothing.
        let killed = matches!(built, Err(RebuildError::Stopped(_))) && !shutdown.is_cancelled();
        if let (false, Some(lease)) = (killed, Arc::into_inner(lease)) {
            lease.release().await?;
        }
        built
    }

    async fn has_work(&self) -> Result<bool, RebuildError> {
        let mut look = self.look.lock().await;
        let mut conn = match look.take() {
            Some(conn) => conn,
            None => connect(&self.config).await?,
        };
        let found = plan::has_work(&mut conn, &*self.projector, &self.config);
        let found = database::bounded(found).await?;
        *look = Some(conn);
        Ok(found)
    }

    async fn build(
        &self,
        conn: &mut PgConnection,
        lease: &Arc<Lease>,
        shutdown: &CancellationToken,
    ) -> Result<Work, RebuildError> {
        let tenure = lease::Tenure {
            name: self.lease_spec().name,
            epoch: lease.epoch(),
        };
        let plan = match database::bounded(plan::current(conn, &*self.projector)).await? {
            Some(plan) => Some(plan),
            None => {
                let begun = plan::begin(conn, &*self.projector, &self.config, &tenure);
                database::bounded(begun).await?
            }
        };
        fail_point("rebuild.after-create")?;
        if let Some(plan) = plan {
            let stop = shutdown.child_token();
            let _stop_when_dropped = stop.clone().drop_guard();
            let job = fill::Job {
                config: self.config.clone(),
                projector: self.projector.clone(),
                decoder: self.decoder.clone(),
                runtime: tokio::runtime::Handle::current(),
                lease: lease.clone(),
                tenure,
                plan,
                stop,
            };
            tokio::task::spawn_blocking(move || fill::run(job))
                .await
                .map_err(|_| RebuildError::Stopped("by a panic"))??;
        }
        fail_point("rebuild.after-swap")?;
        database::bounded_by(swap::LIMIT, plan::drop_old(conn, &*self.projector)).await?;
        fail_point("rebuild.after-drop")?;
        Ok(Work::Done)
    }

    fn lease_spec(&self) -> LeaseSpec {
        LeaseSpec {
            schema: "millrace_views",
            name: format!("rebuild {}", self.projector.name()),
            ttl: self.config.lease_ttl,
            renew_every: self.config.lease_ttl / 5,
        }
    }
}

async fn connect(config: &RebuildConfig) -> Result<PgConnection, sqlx::Error> {
    database::connect(&config.views, APPLICATION).await
}

/// A named point between two durable steps, where a test ends the build as a kill would.
fn fail_point(name: &'static str) -> Result<(), RebuildError> {
    fail::fail_point!(name, |_| Err(RebuildError::Stopped(name)));
    let _ = name;
    Ok(())
}
