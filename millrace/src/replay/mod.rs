//! Replays: a window of events is delivered again to processors and effects, or a view is rebuilt, while everything runs.
//!
//! ```text
//!  ask: window -> offsets ──(one transaction of the views' Postgres)──▶ open ──▶ every position is back ──▶ done
//!                            effects' checkpoints go back, views' resets are recorded
//!  the driver:               asks each processor's partitions over `<group>.blocked`, until they say that they went back
//! ```
//!
//! Nothing happens twice by it: a processor emits the same ids, which the command side has answered before; an effect is
//! silent up to its mark; a view is built in the shadow. So a replay may be interrupted anywhere and goes on.
//!
//! Invariants, and the schedules that would break them:
//!
//! 1. *A member that runs follows.* An effect's checkpoint goes back with a raised epoch: what its owner has in hand finds
//!    another epoch and writes nothing, and an owner without a batch looks every quarter of a second. A processor's owner is
//!    asked, and goes back in a transaction of its own generation: an offset that was committed from outside would be
//!    overwritten by the owner's next commit, or refused while the group has members.
//! 2. *What was asked is done, whoever dies.* The plan is in Postgres before anything is asked of a processor. A driver that
//!    dies in between leaves a partition whose offset does not name the replay, and any driver asks again.
//! 3. *No replay goes back twice for one asking.* The processor keeps the replay's id with the offset that it went back
//!    to, in one transaction; a request of the same id is struck out.
//! 4. *A handler follows one replay at a time*: a unique index over the open ones, so of two askers one is told of the other.

pub mod http;
mod progress;
mod store;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::error::KafkaError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::KafkaConfig;
use crate::processor::{self, Handler};
use crate::registry::{RecordKind, SchemaSet};
use crate::stats::{self, HandlerKind, Placed, StatsError};

/// Between two looks at what is open.
const TICK: Duration = Duration::from_secs(1);
/// A partition that did not go back is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Why a replay was not begun, or nothing can be said of one.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be done as it was asked for.
    #[error("{0}")]
    Refused(String),
    /// A handler still follows another one.
    #[error("{group} still follows replay {replay}: wait until it is done")]
    Busy {
        /// Consumer group.
        group: String,
        /// The other one.
        replay: Uuid,
    },
    /// There is no such replay.
    #[error("there is no replay {0}")]
    Unknown(Uuid),
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A processor could not be asked.
    #[error(transparent)]
    Processor(#[from] processor::ops::OpsError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<StatsError> for ReplayError {
    fn from(error: StatsError) -> Self {
        match error {
            StatsError::Kafka(error) => Self::Kafka(error),
            StatsError::Database(error) => Self::Database(error),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Only handlers that read a topic with this type, from its first event in the window on; all where there is none.
    pub event_type: Option<String>,
    /// Begin of the window: what was published from then on.
    pub since: DateTime<Utc>,
    /// Name or consumer group of one handler or view; every processor and effect where there is none.
    pub to: Option<String>,
}

/// How far a replay is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Replay {
    /// Its id.
    pub id: Uuid,
    /// The type that was named.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Begin of the window.
    pub since: DateTime<Utc>,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// True when every handler is back where it stood.
    pub done: bool,
    /// What it means, in sentences.
    pub says: Vec<String>,
    /// Who follows it.
    pub handlers: Vec<HandlerReplay>,
    /// Where its progress stands.
    pub progress: String,
}

/// How a handler follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It is given the events again.
    Redelivery,
    /// Its rows are computed anew.
    Rebuild,
}

/// How far a handler is with a replay.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HandlerReplay {
    /// What it is.
    pub kind: HandlerKind,
    /// Its name.
    pub name: String,
    /// Its consumer group.
    pub group: String,
    /// How it follows.
    pub way: Way,
    /// True where nobody outside the system hears anything: an effect calls nothing, a view is built in the shadow. A
    /// processor emits its commands again, under the same ids, which changes nothing.
    pub silent: bool,
    /// Offsets delivered again, over its partitions.
    pub delivered: i64,
    /// At most this many are left.
    pub left: i64,
    /// True when none is.
    pub done: bool,
    /// By topic and partition.
    pub partitions: Vec<PartitionReplay>,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PartitionReplay {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset that is delivered again.
    pub from: i64,
    /// Where the handler stood when it was asked for: the first one that is not.
    pub to: i64,
    /// True once the handler has gone back.
    pub begun: bool,
    /// At most this many are left.
    pub left: i64,
}

/// Begins replays, follows them up and says how far they are. Cheap to clone.
#[derive(Clone)]
pub struct Replays {
    kafka: KafkaConfig,
    pool: PgPool,
    processors: Arc<[Arc<dyn Handler>]>,
    schemas: Arc<[SchemaSet]>,
}

impl Replays {
    /// Over the views' database, which holds the effects' rows too, and the processors of the program; `schemas` say
    /// which topic holds which type.
    pub fn new(
        kafka: KafkaConfig,
        pool: PgPool,
        processors: &[Arc<dyn Handler>],
        schemas: Vec<SchemaSet>,
    ) -> Self {
        Self {
            kafka,
            pool,
            processors: processors.into(),
            schemas: schemas.into(),
        }
    }

    /// Begins one. It is bounded by where each handler stands now.
    pub async fn ask(&self, wanted: &Wanted) -> Result<Replay, ReplayError> {
        let all = stats::positions(&self.kafka, &self.pool, self.processors.to_vec()).await?;
        let chosen = chosen(all, wanted.to.as_deref())?;
        let chosen = self.holding(chosen, wanted.event_type.as_deref())?;
        self.look().await?;
        // Before the window is laid: a handler that went back already has nothing left in it, and that is not why it cannot go.
        let groups: Vec<&str> = chosen.iter().map(|(_, group, _)| group.as_str()).collect();
        store::check_free(&self.pool, &groups).await?;
        let kafka = self.kafka.clone();
        let window = wanted.clone();
        let plan = stats::blocking(move || window::plan(&kafka, chosen, &window)).await?;
        let id = Uuid::now_v7();
        store::begin(&self.pool, (id, wanted), &plan).await?;
        tracing::info!(replay = %id, since = %wanted.since, handlers = plan.len(), "replay begins");
        let stored = store::replay(&self.pool, id).await?;
        stored
            .map(progress::planned)
            .ok_or(ReplayError::Unknown(id))
    }

    /// Only partitions of topics that hold the type.
    fn holding(
        &self,
        placed: Vec<Placed>,
        event_type: Option<&str>,
    ) -> Result<Vec<Placed>, ReplayError> {
        let Some(event_type) = event_type else {
            return Ok(placed);
        };
        let sets = self.schemas.iter().filter(|set| {
            matches!(set.kind, RecordKind::Event | RecordKind::Published)
                && set.schemas.iter().any(|one| one.record == event_type)
        });
        let topics: BTreeSet<String> = sets.map(SchemaSet::topic).collect();
        if topics.is_empty() {
            return Err(ReplayError::Refused(format!(
                "type: no event is named {event_type}; a type is a record's name, as `GET /events/list` shows it"
            )));
        }
        let holding: Vec<Placed> = placed
            .into_iter()
            .filter(|(_, _, at)| topics.contains(&at.topic))
            .collect();
        match holding.is_empty() {
            true => Err(ReplayError::Refused(format!(
                "type: nobody who was asked for reads {event_type}"
            ))),
            false => Ok(holding),
        }
    }

    /// How far it is.
    pub async fn progress(&self, id: Uuid) -> Result<Replay, ReplayError> {
        let stored = store::replay(&self.pool, id).await?;
        let stored = stored.ok_or(ReplayError::Unknown(id))?;
        let all = match stored.done {
            true => Vec::new(),
            false => self.standing(&stored).await?,
        };
        let kafka = self.kafka.clone();
        stats::blocking(move || progress::measured(&kafka, stored, &all)).await
    }

    /// Where its processors and effects stand; a view's progress is its rebuild's.
    async fn standing(&self, stored: &store::Stored) -> Result<Vec<Placed>, ReplayError> {
        let of = |one: &Arc<dyn Handler>| {
            let group = one.group();
            stored
                .handlers
                .iter()
                .any(|two| two.group == group && !two.done)
        };
        let processors = self.processors.iter().filter(|one| of(one)).cloned();
        Ok(stats::positions(&self.kafka, &self.pool, processors.collect()).await?)
    }

    /// Follows up what is open, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut asked = BTreeMap::new();
        while !shutdown.is_cancelled() {
            if let Err(error) = self.follow_up(&mut asked).await {
                tracing::warn!(%error, "replays are looked at again");
            }
            let _ = tokio::time::timeout(TICK, shutdown.cancelled()).await;
        }
    }

    /// Notes which are done.
    async fn look(&self) -> Result<Vec<Replay>, ReplayError> {
        let mut open = Vec::new();
        for id in store::open(&self.pool).await? {
            let replay = self.progress(id).await?;
            store::finish(&self.pool, &replay).await?;
            if !replay.done {
                open.push(replay);
            }
        }
        Ok(open)
    }

    /// Notes which are done, and asks processors that did not go back yet.
    async fn follow_up(
        &self,
        asked: &mut BTreeMap<(Uuid, String), Instant>,
    ) -> Result<(), ReplayError> {
        asked.retain(|_, at| at.elapsed() < ASK_AGAIN);
        for replay in self.look().await? {
            for one in replay.handlers.iter().filter(|one| !one.done) {
                let processor = self.processors.iter().find(|two| two.group() == one.group);
                let key = (replay.id, one.group.clone());
                let Some(processor) = processor.filter(|_| !asked.contains_key(&key)) else {
                    continue;
                };
                let left = one.partitions.iter().filter(|one| !one.begun);
                let from: Vec<(i32, i64)> = left.map(|one| (one.partition, one.from)).collect();
                if !from.is_empty() {
                    let (kafka, processor) = (self.kafka.clone(), Arc::clone(processor));
                    let id = replay.id;
                    stats::blocking(move || {
                        processor::ops::ask_replay(&kafka, &*processor, id, &from)
                    })
                    .await?;
                    asked.insert(key, Instant::now());
                }
            }
        }
        Ok(())
    }
}

/// Who follows: one by name or group, or every processor and effect.
fn chosen(all: Vec<Placed>, to: Option<&str>) -> Result<Vec<Placed>, ReplayError> {
    let Some(to) = to else {
        let handlers = all
            .into_iter()
            .filter(|(kind, _, _)| *kind != HandlerKind::View);
        return Ok(handlers.collect());
    };
    let known: BTreeSet<String> = all.iter().map(|(_, group, _)| group.clone()).collect();
    let found: Vec<Placed> = all
        .into_iter()
        .filter(|(_, group, at)| at.name == to || group == to)
        .collect();
    let groups: BTreeSet<&String> = found.iter().map(|(_, group, _)| group).collect();
    match groups.len() {
        1 => Ok(found),
        0 => Err(ReplayError::Refused(format!(
            "to: nobody who has read anything is named {to}; there are {}",
            Vec::from_iter(known).join(", ")
        ))),
        _ => Err(ReplayError::Refused(format!(
            "to: {to} is the name of several; say which by its group: {}",
            groups.into_iter().cloned().collect::<Vec<_>>().join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handled::Handled;

    fn placed(kind: HandlerKind, kind_name: &str, name: &str) -> Placed {
        let at = stats::Position {
            name: name.to_owned(),
            topic: "counter.events".to_owned(),
            partition: 0,
            next: 7,
            handled: Handled::default(),
        };
        (kind, format!("millrace.{kind_name}.{name}"), at)
    }

    fn all() -> Vec<Placed> {
        vec![
            placed(HandlerKind::View, "view", "counters"),
            placed(HandlerKind::View, "view", "steps"),
            placed(HandlerKind::Processor, "processor", "steps"),
            placed(HandlerKind::Effect, "effect", "mail"),
        ]
    }

    #[test]
    fn without_a_name_every_processor_and_effect_follows_and_no_view() {
        let kinds: Vec<HandlerKind> = chosen(all(), None)
            .unwrap()
            .into_iter()
            .map(|(kind, _, _)| kind)
            .collect();
        assert_eq!(kinds, [HandlerKind::Processor, HandlerKind::Effect]);
    }

    #[test]
    fn a_name_that_two_have_is_refused_with_their_groups_and_a_group_is_taken() {
        let error = chosen(all(), Some("steps")).unwrap_err().to_string();
        assert!(
            error.contains("millrace.processor.steps, millrace.view.steps"),
            "{error}"
        );
        let one = chosen(all(), Some("millrace.view.steps")).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].0, HandlerKind::View);
        let error = chosen(all(), Some("else")).unwrap_err().to_string();
        assert!(error.contains("millrace.effect.mail"), "{error}");
    }
}
