//! Assignment: claiming checkpoints, judging resets, and starting each partition at its checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Health, SinkConfig, SinkError, crash_point, database, reader};
use crate::log::Key;
use crate::log::consumer::{self, GroupConsumer, KAFKA_TIMEOUT, Member};
use crate::log::offsets::metadata;
use crate::projection::checkpoint::{self, Beginning, Checkpoint};
use crate::projection::reset::{self, Committed, Verdict};
use crate::projection::{Build, Decoder, Projector, Start, builds};
use crate::telemetry::consumers::Position;
use crate::telemetry::sinks::Observed;

/// What the loop and the rebalance callback share; both run on the sink's thread.
pub(super) struct Core {
    pub(super) config: SinkConfig,
    pub(super) projector: Arc<dyn Projector>,
    pub(super) decoder: Decoder,
    pub(super) holder: String,
    pub(super) runtime: Handle,
    pub(super) health: Arc<Health>,
    pub(super) observed: Observed,
    pub(super) shutdown: CancellationToken,
    state: Mutex<State>,
    /// Set by the callback when partitions went away: what was polled for them must go too.
    pub(super) revoked: AtomicBool,
    /// Records were polled that are not written yet.
    pub(super) pending: AtomicBool,
    /// Most records of a batch for now: halved by one that took too long, doubled by one that did not.
    pub(super) batch_records: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) conn: Option<PgConnection>,
    pub(super) build: Option<Build>,
    pub(super) held: BTreeMap<Key, Held>,
    pub(super) gone: BTreeSet<Key>,
}

/// A partition that the group assigned to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Claimed; records from `next` on are written.
    Running(Checkpoint),
    /// To be claimed as soon as Postgres and Kafka answer; it is paused meanwhile.
    Unclaimed,
    /// Its checkpoint moved without us: the assignment is to be proven before it is claimed again.
    Doubtful(Checkpoint),
    /// Stands still until an operator acts, or until it is claimed anew.
    Stopped(Checkpoint),
}

impl Core {
    pub(super) fn new(
        config: SinkConfig,
        projector: Arc<dyn Projector>,
        decoder: Decoder,
        holder: String,
        (runtime, health, shutdown): (Handle, Arc<Health>, CancellationToken),
    ) -> Self {
        Self {
            batch_records: AtomicUsize::new(config.options.view_batch_records as usize),
            observed: Observed::of(projector.name(), &projector.group(), projector.topics()),
            config,
            projector,
            decoder,
            holder,
            runtime,
            health,
            shutdown,
            state: Mutex::default(),
            revoked: AtomicBool::new(false),
            pending: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("only the sink's own thread locks its state")
    }

    /// Where each partition that we claimed stands.
    fn positions(&self) -> BTreeMap<Key, Position> {
        let settled = !self.pending.load(Ordering::Relaxed);
        let state = self.state();
        let positions = state.held.iter().filter_map(|(key, held)| {
            let (claim, settled) = match held {
                Held::Running(claim) => (claim, settled),
                // What was polled of them was thrown away.
                Held::Doubtful(claim) | Held::Stopped(claim) => (claim, false),
                Held::Unclaimed => return None,
            };
            let next = claim.next;
            Some((key.clone(), Position { next, settled }))
        });
        positions.collect()
    }

    /// Runs a step on the connection, which is given up if the step fails: its state is unknown then.
    pub(super) fn on_database<T>(
        &self,
        step: impl AsyncFnOnce(&mut PgConnection) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let kept = self.state().conn.take();
        let (done, conn) = self.runtime.block_on(async {
            let mut conn = match kept {
                Some(conn) => conn,
                None => match database::connect(&self.config.views, "millrace view").await {
                    Ok(conn) => conn,
                    Err(error) => return (Err(error.into()), None),
                },
            };
            match database::bounded(step(&mut conn)).await {
                Ok(done) => (Ok(done), Some(conn)),
                Err(error) => (Err(error), None),
            }
        });
        self.state().conn = conn;
        done
    }

    /// Claims the partitions and does what the group's committed offsets ask for.
    ///
    /// Order: claim; read what is committed; record resets and skips in Postgres; only then commit to Kafka with our metadata.
    /// A crash after the claim repeats all of it; after the record, the same reset is found again and
    /// recorded once; nothing of a partition is applied before its Kafka commit succeeded.
    pub(super) fn take(
        &self,
        consumer: &GroupConsumer<Core>,
        partitions: &[Key],
    ) -> Result<Vec<Held>, SinkError> {
        let view = self.projector.name();
        let known =
            self.on_database(async |conn| Ok(checkpoint::known(conn, view, partitions).await?))?;
        let mut beginnings = Vec::new();
        for key in partitions.iter().filter(|key| !known.contains(key)) {
            beginnings.push(self.beginning(consumer, key)?);
        }
        let (live, claimed) = self.on_database(async |conn| {
            let claimed =
                checkpoint::claim(conn, view, partitions, &beginnings, &self.holder).await?;
            // Read after the claim: a swap raises the epochs, so a build read here is the live one for
            // as long as our epochs are the newest.
            let live = builds::live(conn, &*self.projector).await?;
            Ok((live, claimed))
        })?;
        crash_point("sink.after-claim");
        let live = live.ok_or(sqlx::Error::RowNotFound)?;
        if !live.current {
            return Err(SinkError::OtherDefinition {
                view: view.to_owned(),
                build: live.number,
            });
        }
        // Read after the claim, which fences whoever might act on these offsets. Read before, it may be an
        // operator's skip that another sink executes while this process stands still: the checkpoint is then
        // ahead of it, and the skip would be taken for a reset backwards.
        let committed = consumer::committed(consumer, partitions)?;
        let mut taken = Vec::with_capacity(claimed.len());
        for claim in claimed {
            let key = (claim.topic.clone(), claim.partition);
            taken.push(self.settle(consumer, claim, committed.get(&key))?);
        }
        let mut build = live.build(view, self.config.options.view_parked_max);
        build.skips = self.on_database(async |conn| Ok(checkpoint::skips(conn, view).await?))?;
        self.state().build = Some(build);
        Ok(taken)
    }

    fn beginning(
        &self,
        consumer: &GroupConsumer<Core>,
        (topic, partition): &Key,
    ) -> Result<Beginning, SinkError> {
        let (first, end) = consumer.fetch_watermarks(topic, *partition, KAFKA_TIMEOUT)?;
        let (next, last) = match self.projector.start() {
            Start::Earliest if first > 0 => {
                return Err(SinkError::Truncated {
                    view: self.projector.name().to_owned(),
                    topic: topic.clone(),
                    partition: *partition,
                    first,
                });
            }
            Start::Earliest => (first, None),
            Start::Now => {
                let at = (topic.as_str(), *partition);
                let last = reader::last_event_before(&self.config.kafka, at, first, end)?;
                (end, last)
            }
        };
        Ok(Beginning {
            topic: topic.clone(),
            partition: *partition,
            first,
            next,
            last,
        })
    }

    /// Acts on one partition's committed offset.
    fn settle(
        &self,
        consumer: &GroupConsumer<Core>,
        mut claim: Checkpoint,
        committed: Option<&Committed>,
    ) -> Result<Held, SinkError> {
        let verdict = reset::judge(claim.next, committed);
        match verdict {
            Verdict::Resume => return Ok(Held::Running(claim)),
            Verdict::Sign => {}
            Verdict::Backwards { target } => self.set_back(&claim, target)?,
            Verdict::Forwards { target } => match self.skip(&mut claim, target)? {
                None => {}
                Some(reason) => return Ok(self.stop(claim, reason)),
            },
        }
        commit(consumer, &claim, claim.next, CommitMode::Sync)?;
        Ok(Held::Running(claim))
    }

    fn set_back(&self, claim: &Checkpoint, target: i64) -> Result<(), SinkError> {
        let view = self.projector.name();
        let Checkpoint {
            topic,
            partition,
            next,
            ..
        } = claim;
        tracing::warn!(
            view,
            topic,
            partition,
            target,
            checkpoint = next,
            "the group was set back: a rebuild of the partition from the log's start is recorded; \
             the live view goes on from its checkpoint"
        );
        let ours = self.on_database(async |conn| {
            let mut tx = conn.begin().await?;
            let ours = checkpoint::record_reset(&mut tx, view, claim, target).await?;
            tx.commit().await?;
            Ok(ours)
        })?;
        crash_point("sink.after-reset-recorded");
        if ours {
            Ok(())
        } else {
            Err(sqlx::Error::RowNotFound.into())
        }
    }

    /// Moves the claim over the skipped offsets; a reason if there is nothing there to skip to.
    fn skip(&self, claim: &mut Checkpoint, target: i64) -> Result<Option<String>, SinkError> {
        let view = self.projector.name();
        let (topic, partition) = (claim.topic.clone(), claim.partition);
        let (_, end) = reader::ends(&self.config.kafka, &topic, partition)?;
        if target > end {
            return Ok(Some(format!(
                "the group was reset to offset {target} of {topic}/{partition}, which ends at {end}: \
                 reset it to an offset between 0 and {end}, or to {} to go on where it stands",
                claim.next
            )));
        }
        let last =
            reader::last_event_before(&self.config.kafka, (&topic, partition), claim.next, target)?;
        tracing::warn!(
            view,
            topic,
            partition,
            from = claim.next,
            to = target,
            "the group was set forward: the events between are skipped on purpose"
        );
        let moved = self.on_database(async |conn| {
            let mut tx = conn.begin().await?;
            let moved = checkpoint::record_skip(&mut tx, view, claim, target, last).await?;
            if moved {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok(moved)
        })?;
        crash_point("sink.after-skip-recorded");
        if !moved {
            return Err(sqlx::Error::RowNotFound.into());
        }
        claim.next = target;
        claim.position = last.or(claim.position);
        Ok(None)
    }

    /// Takes a partition out until an operator acts, and writes down why.
    pub(super) fn stop(&self, claim: Checkpoint, reason: String) -> Held {
        let view = self.projector.name();
        tracing::error!(
            view,
            topic = claim.topic,
            partition = claim.partition,
            reason,
            "the partition is stopped"
        );
        self.health
            .stopped((claim.topic.clone(), claim.partition), reason.clone());
        let recorded = self.on_database(async |conn| {
            Ok(checkpoint::record_error(conn, view, &claim, &reason).await?)
        });
        if let Err(error) = recorded {
            tracing::warn!(view, %error, "the reason could not be written down");
        }
        Held::Stopped(claim)
    }
}

impl Member for Core {
    fn name(&self) -> &str {
        self.projector.name()
    }

    fn assigned(&self, consumer: &GroupConsumer<Self>, keys: &[Key]) -> BTreeMap<Key, Option<i64>> {
        let taken = match self.take(consumer, keys) {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(view = self.projector.name(), %error, "could not claim yet");
                self.health.failed(error.to_string());
                Vec::new()
            }
        };
        let mut held: BTreeMap<Key, Held> = keys
            .iter()
            .map(|key| (key.clone(), Held::Unclaimed))
            .collect();
        for partition in taken {
            if let Held::Running(claim) | Held::Stopped(claim) = &partition {
                held.insert((claim.topic.clone(), claim.partition), partition);
            }
        }
        let starts = held.iter().map(|(key, held)| match held {
            Held::Running(claim) => (key.clone(), Some(claim.next)),
            _ => (key.clone(), None),
        });
        let starts = starts.collect();
        let mut state = self.state();
        state.gone.extend(keys.iter().cloned());
        state.held.extend(held);
        self.health.set_partitions(state.held.len());
        self.revoked.store(true, Ordering::Relaxed);
        starts
    }

    fn unassigned(&self, keys: &[Key]) {
        let mut state = self.state();
        for key in keys {
            state.held.remove(key);
            self.health.released(key);
            state.gone.insert(key.clone());
        }
        self.health.set_partitions(state.held.len());
        self.revoked.store(true, Ordering::Relaxed);
    }

    fn failed(&self, error: &KafkaError) {
        self.health.failed(error.to_string());
    }

    fn measured(&self, statistics: &Statistics) {
        let hung = self.observed.group.consumed(statistics, &self.positions());
        self.health.set_hung(hung);
    }
}

/// Commits one partition's offset with our metadata.
pub(super) fn commit(
    consumer: &GroupConsumer<Core>,
    claim: &Checkpoint,
    next: i64,
    mode: CommitMode,
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    add_commit(&mut list, claim, next)?;
    consumer.commit(&list, mode)
}

/// Adds the offset of a claim to a list of commits.
pub(super) fn add_commit(
    list: &mut TopicPartitionList,
    claim: &Checkpoint,
    next: i64,
) -> KafkaResult<()> {
    let metadata = metadata(claim.epoch, next);
    consumer::add_commit(list, (&claim.topic, claim.partition), next, metadata)
}
