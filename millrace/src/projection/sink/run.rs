//! The loop: poll, write, commit; and what happens when one of the servers is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::Connection;

use super::assign::{Core, Held, add_commit};
use super::{SinkError, crash_point, reader};
use crate::checkpoints::VIEWS;
use crate::log::consumer::{self, Context, GroupConsumer, Polled, list_of};
use crate::log::{Key, client};
use crate::projection::checkpoint::{self, Checkpoint, Move};
use crate::projection::{Applied, ApplyError, RUNBOOK, Record, builds, is_outage};
use crate::telemetry;

/// How often pause, requests and claims that wait are looked at.
const TICK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(100);

/// Runs the sink until it is shut down; Kafka errors that end a consumer start another one.
pub(super) fn run(core: &Arc<Core>) {
    while !core.shutdown.is_cancelled() {
        match session(core) {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(view = core.projector.name(), %error, "starting over");
                core.health.failed(error.to_string());
                wait(core, Duration::from_secs(1));
            }
        }
    }
}

fn wait(core: &Core, time: Duration) {
    core.runtime.block_on(async {
        let _ = tokio::time::timeout(time, core.shutdown.cancelled()).await;
    });
}

/// One membership in the group: until shutdown, a pause, or an error that the consumer does not survive.
fn session(core: &Arc<Core>) -> Result<(), SinkError> {
    while paused(core)? {
        core.health.set_paused(true);
        wait(core, TICK);
        if core.shutdown.is_cancelled() {
            return Ok(());
        }
    }
    core.health.set_paused(false);
    let mut state = core.state();
    core.pending.store(false, Ordering::Relaxed);
    state.held.clear();
    state.gone.clear();
    drop(state);
    let topics = core.projector.topics();
    let consumer: GroupConsumer<Core> =
        client::consumer(&core.config.kafka, &core.projector.group(), "error")
            .set(
                "statistics.interval.ms",
                telemetry::consumers::STATISTICS_MS,
            )
            .create_with_context(Context::of(core))?;
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut session = Session {
        core,
        consumer,
        topics: topics.into_iter().map(Arc::from).collect(),
        batch: Vec::new(),
        bytes: 0,
        ticked: Instant::now(),
        hung: BTreeSet::new(),
        uncommitted: BTreeSet::new(),
    };
    let ended = session.run();
    session.leave();
    // Only now: a consumer that is being closed still hands out statistics.
    core.observed.group.left();
    core.health.set_hung(Vec::new());
    ended
}

fn paused(core: &Core) -> Result<bool, SinkError> {
    core.on_database(async |conn| {
        Ok(builds::live(conn, &*core.projector)
            .await?
            .is_some_and(|live| live.paused))
    })
}

pub(super) struct Session<'c> {
    pub(super) core: &'c Arc<Core>,
    pub(super) consumer: GroupConsumer<Core>,
    topics: Vec<Arc<str>>,
    /// Polled and not yet written.
    batch: Vec<Record>,
    bytes: usize,
    ticked: Instant,
    /// Partitions whose hanging transaction is written down.
    pub(super) hung: BTreeSet<Key>,
    /// Partitions whose checkpoint moved since Kafka was told of it.
    uncommitted: BTreeSet<Key>,
}

/// Why a partition stops once the records before the offset are written.
struct Stop {
    /// The claim that it is true for.
    epoch: i64,
    offset: i64,
    reason: String,
}

/// What a try to write came to.
pub(super) enum Outcome {
    Written(Applied),
    /// These checkpoints are not where we left them.
    Lost(Vec<Key>),
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), SinkError> {
        while !self.core.shutdown.is_cancelled() {
            if self.ticked.elapsed() >= TICK {
                match self.tick() {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => self.endure(&error)?,
                }
                self.ticked = Instant::now();
            }
            self.collect()?;
            self.flush()?;
        }
        Ok(())
    }

    /// Polls until the batch is full, the input drained or the deadline of its first record over.
    fn collect(&mut self) -> Result<(), SinkError> {
        let options = &self.core.config.options;
        let full = self.core.batch_records.load(Ordering::Relaxed);
        let full_bytes = usize::try_from(options.view_batch_bytes).unwrap_or(usize::MAX);
        let allowed = Duration::from_millis(options.view_batch_deadline_ms);
        let mut first: Option<Instant> = None;
        while self.batch.len() < full && self.bytes < full_bytes {
            let timeout = if self.batch.is_empty() {
                POLL
            } else {
                Duration::ZERO
            };
            if !self.poll(timeout)? {
                break;
            }
            if first.get_or_insert_with(Instant::now).elapsed() >= allowed {
                break;
            }
        }
        Ok(())
    }

    /// Takes in what one poll brings; false if it brought no record.
    pub(super) fn poll(&mut self, timeout: Duration) -> Result<bool, SinkError> {
        let polled = consumer::poll(&self.consumer, &self.topics, timeout);
        if self.core.revoked.swap(false, Ordering::Relaxed) {
            self.forget_gone();
        }
        match polled {
            Polled::Nothing => return Ok(false),
            Polled::Record(record) => {
                self.bytes += record.size();
                self.batch.push(record);
                self.core.pending.store(true, Ordering::Relaxed);
            }
            Polled::End => {}
            Polled::Fatal(error) => return Err(error.into()),
            Polled::OutOfRange(error) => self.stop_out_of_range(error)?,
            Polled::Passing(error) => {
                // Polling goes on.
                tracing::warn!(view = self.core.projector.name(), %error, "consumer");
                self.core.health.failed(error.to_string());
            }
        }
        Ok(true)
    }

    /// The client does not say which partition it was, so what each would fetch next is compared with its log.
    ///
    /// The client fetches nothing more from the partition that it means. If the log holds all that is to be
    /// fetched (its start or end may have moved since), only another consumer goes on with it.
    fn stop_out_of_range(&mut self, error: KafkaError) -> Result<(), SinkError> {
        let positions = self.consumer.position()?;
        let held: Vec<Held> = self.core.state().held.values().cloned().collect();
        let mut found = false;
        for held in held {
            // The error may be a second one, of a partition that the first one stopped with the others.
            let (Held::Running(claim) | Held::Stopped(claim)) = &held else {
                continue;
            };
            let position = positions.find_partition(&claim.topic, claim.partition);
            let next = match position.map(|element| element.offset()) {
                Some(Offset::Offset(position)) => position,
                _ => claim.next,
            };
            let (low, high) = reader::ends(&self.core.config.kafka, &claim.topic, claim.partition)?;
            if (low..=high).contains(&next) {
                continue;
            }
            found = true;
            if matches!(held, Held::Stopped(_)) {
                continue;
            }
            let reason = format!(
                "{}/{} holds offsets {low} to {high}, the next to read is {next}, the checkpoint of view {} is {}: see {RUNBOOK}",
                claim.topic,
                claim.partition,
                self.core.projector.name(),
                claim.next
            );
            self.stop(claim.clone(), reason)?;
        }
        if found { Ok(()) } else { Err(error.into()) }
    }

    pub(super) fn running(&self) -> Vec<Checkpoint> {
        self.core
            .state()
            .held
            .values()
            .filter_map(|held| match held {
                Held::Running(claim) => Some(claim.clone()),
                _ => None,
            })
            .collect()
    }

    fn stop(&mut self, claim: Checkpoint, reason: String) -> Result<(), SinkError> {
        let key = (claim.topic.clone(), claim.partition);
        let stopped = self.core.stop(claim, reason);
        self.core.state().held.insert(key.clone(), stopped);
        self.forget(&BTreeSet::from([key.clone()]));
        self.consumer.pause(&list_of([&key]))?;
        Ok(())
    }

    fn forget_gone(&mut self) {
        let gone = std::mem::take(&mut self.core.state().gone);
        self.forget(&gone);
    }

    pub(super) fn forget(&mut self, keys: &BTreeSet<Key>) {
        self.batch
            .retain(|record| !keys.contains(&(record.topic.to_string(), record.partition)));
        self.bytes = self.batch.iter().map(Record::size).sum();
    }

    /// Writes the batch; tries again for as long as a server is away, and keeps polling meanwhile.
    ///
    /// A partition that must stop is written up to the record that stops it first, so that the checkpoint
    /// stands at that record and a reset over it skips nothing else.
    fn flush(&mut self) -> Result<(), SinkError> {
        let mut waited = false;
        let mut stops: BTreeMap<Key, Stop> = BTreeMap::new();
        loop {
            let moves = self.moves();
            if moves.is_empty() {
                self.batch.clear();
                self.core.pending.store(false, Ordering::Relaxed);
                self.bytes = 0;
                break;
            }
            match write(self.core, &self.batch, &moves) {
                Ok(Outcome::Written(applied)) => {
                    self.written(&moves, &applied);
                    break;
                }
                Ok(Outcome::Lost(keys)) => self.doubt(keys)?,
                Err(SinkError::Apply(ApplyError::Stop {
                    topic,
                    partition,
                    offset,
                    reason,
                })) => {
                    let key = (topic, partition);
                    // Nothing more of it may join the batch: it would leave a hole behind it.
                    self.consumer.pause(&list_of([&key]))?;
                    self.cut(&key, offset);
                    if let Some(step) = moves.get(&key) {
                        let epoch = step.epoch;
                        stops.insert(
                            key,
                            Stop {
                                epoch,
                                offset,
                                reason,
                            },
                        );
                    }
                }
                Err(error) if is_too_slow(&error) && self.batch.len() > 1 => {
                    // The same batch would take as long again: a new consumer reads less at a time from the
                    // checkpoints on.
                    let half = self.batch.len() / 2;
                    self.core.batch_records.store(half, Ordering::Relaxed);
                    return Err(error);
                }
                Err(error) => {
                    waited = true;
                    self.endure(&error)?;
                    if self.core.shutdown.is_cancelled() {
                        return Ok(());
                    }
                }
            }
        }
        for (key, stop) in stops {
            let held = self.core.state().held.get(&key).cloned();
            // Claimed anew meanwhile, it reads from its checkpoint on and meets the record again.
            if let Some(Held::Running(claim)) = held
                && claim.epoch == stop.epoch
            {
                let reason = format!(
                    "offset {}, checkpoint {}: {}",
                    stop.offset, claim.next, stop.reason
                );
                self.stop(claim, reason)?;
            }
        }
        if waited {
            self.resume_running()?;
        }
        Ok(())
    }

    /// Drops a partition's records from the offset on.
    fn cut(&mut self, (topic, partition): &Key, offset: i64) {
        self.batch.retain(|record| {
            record.partition != *partition || *record.topic != **topic || record.offset < offset
        });
        self.bytes = self.batch.iter().map(Record::size).sum();
    }

    /// Drops what must not be written and says how far each checkpoint goes.
    fn moves(&mut self) -> BTreeMap<Key, Move> {
        let state = self.core.state();
        let mut moves: BTreeMap<Key, Move> = BTreeMap::new();
        for claim in state.held.values() {
            if let Held::Running(claim) = claim {
                moves.insert((claim.topic.clone(), claim.partition), claim.stay());
            }
        }
        drop(state);
        let mut last: Option<(Arc<str>, i32, Key)> = None;
        self.batch.retain(|record| {
            // Runs of one partition are long: the key is built once for each.
            let same = last.as_ref().is_some_and(|(topic, partition, _)| {
                Arc::ptr_eq(topic, &record.topic) && *partition == record.partition
            });
            if !same {
                let key = (record.topic.to_string(), record.partition);
                last = Some((record.topic.clone(), record.partition, key));
            }
            let step = last.as_ref().and_then(|(_, _, key)| moves.get_mut(key));
            match step {
                Some(step) if record.offset >= step.next => {
                    step.extend(record);
                    true
                }
                _ => false,
            }
        });
        moves.retain(|_, step| step.next > step.expected);
        moves
    }

    fn written(&mut self, moves: &BTreeMap<Key, Move>, applied: &Applied) {
        self.core.health.wrote(applied.applied);
        let most = self.core.config.options.view_batch_records as usize;
        let limit = self.core.batch_records.load(Ordering::Relaxed);
        self.core
            .batch_records
            .store((limit * 2).min(most), Ordering::Relaxed);
        let mut state = self.core.state();
        for (key, step) in moves {
            if let Some(Held::Running(claim)) = state.held.get_mut(key) {
                claim.next = step.next;
                claim.position = step.position.or(claim.position);
            }
        }
        drop(state);
        self.uncommitted.extend(moves.keys().cloned());
        self.batch.clear();
        self.core.pending.store(false, Ordering::Relaxed);
        self.bytes = 0;
    }

    /// Tells Kafka how far the checkpoints went since the last tick. Only the group tools read it, so it is not worth a request
    /// for each batch: at 100 events a second four views would make 400.
    pub(super) fn commit_to_kafka(&mut self) {
        let uncommitted = std::mem::take(&mut self.uncommitted);
        let mut list = TopicPartitionList::new();
        for claim in self.running() {
            if uncommitted.contains(&(claim.topic.clone(), claim.partition))
                && let Err(error) = add_commit(&mut list, &claim, claim.next)
            {
                tracing::warn!(%error, "offset not committed to kafka");
            }
        }
        if list.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(view = self.core.projector.name(), %error, "kafka commit failed");
        }
        crash_point("sink.after-kafka-commit");
    }

    /// Holds out while a server is away: nothing new is fetched, the group hears from us.
    fn endure(&mut self, error: &SinkError) -> Result<(), SinkError> {
        let text = error.to_string();
        tracing::warn!(
            view = self.core.projector.name(),
            error = text,
            "trying again"
        );
        self.core.health.failed(text.clone());
        let view = self.core.projector.name();
        let running = self.running();
        if !is_database_away(error) {
            let _ = self.core.on_database(async |conn| {
                for claim in &running {
                    checkpoint::record_error(conn, view, claim, &text).await?;
                }
                Ok(())
            });
        }
        let keys: Vec<Key> = running
            .iter()
            .map(|claim| (claim.topic.clone(), claim.partition))
            .collect();
        if !keys.is_empty() {
            self.consumer.pause(&list_of(&keys))?;
        }
        let until = Instant::now() + TICK;
        while Instant::now() < until && !self.core.shutdown.is_cancelled() {
            self.poll(Duration::from_millis(50))?;
        }
        if self.batch.is_empty() {
            self.resume_running()?;
        }
        Ok(())
    }

    fn resume_running(&self) -> Result<(), SinkError> {
        let keys: Vec<Key> = self
            .running()
            .into_iter()
            .map(|claim| (claim.topic, claim.partition))
            .collect();
        if !keys.is_empty() {
            self.consumer.resume(&list_of(&keys))?;
        }
        Ok(())
    }

    /// Commits to Kafka what Postgres has, so that the group tools show no lag, and leaves the group.
    fn leave(self) {
        let mut list = TopicPartitionList::new();
        for claim in self.running() {
            let _ = add_commit(&mut list, &claim, claim.next);
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Sync)
        {
            tracing::debug!(view = self.core.projector.name(), %error, "kafka commit failed");
        }
    }
}

/// Postgres is there and ended a statement at its time limit.
fn is_too_slow(error: &SinkError) -> bool {
    matches!(
        error,
        SinkError::Database(sqlx::Error::Database(error))
            | SinkError::Apply(ApplyError::Database(sqlx::Error::Database(error)))
            if error.code().as_deref() == Some("57014")
    )
}

/// Nothing can be written down then; the other errors show in `status`.
fn is_database_away(error: &SinkError) -> bool {
    matches!(
        error,
        SinkError::Database(error) | SinkError::Apply(ApplyError::Database(error))
            if is_outage(error)
    )
}

/// Checkpoints and rows, in one transaction.
fn write(
    core: &Core,
    records: &[Record],
    moves: &BTreeMap<Key, Move>,
) -> Result<Outcome, SinkError> {
    let build = core.state().build.clone().ok_or(sqlx::Error::RowNotFound)?;
    let moves: Vec<Move> = moves.values().cloned().collect();
    let writing = core.observed.begin(records);
    core.on_database(async |conn| {
        crash_point("sink.before-checkpoint");
        let mut tx = conn.begin().await?;
        let lost = checkpoint::advance(&mut tx, &build.view, &moves).await?;
        if !lost.is_empty() {
            tx.rollback().await?;
            return Ok(Outcome::Lost(lost));
        }
        crash_point("sink.after-checkpoint");
        let applied = core
            .projector
            .apply(&mut tx, &build, &core.decoder, records)
            .await?;
        for (topic, partition, reason) in &applied.reasons {
            let place = (topic.as_str(), *partition);
            VIEWS
                .count_error(&mut *tx, &build.view, place, reason)
                .await?;
        }
        crash_point("sink.after-rows");
        crash_point("sink.before-commit");
        tx.commit().await?;
        crash_point("sink.after-commit");
        let codec = core.decoder.codec();
        core.observed
            .end(writing, (codec, records), (&applied, &moves));
        Ok(Outcome::Written(applied))
    })
}
