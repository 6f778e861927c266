//! Intake: events become rows, in the transaction that moves the checkpoint; then the offset goes to Kafka.
//!
//! Invariant: a row is written by the owner of the newest epoch of its partition, in order and without holes from the
//! checkpoint on. Invariant: nothing at or below the partition's mark becomes a row, so a group that was set back reads
//! in silence up to where it once was. The schedule that would break it without the mark: an operator resets the group to the
//! log's start after the rows of last year were removed, and every mail of that year goes out again.

mod batch;
mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;

use super::run::{Core, EffectError};
use super::{group, store};
use crate::log::client;
use crate::log::consumer::{self, Context, GroupConsumer, Key, Polled, list_of};
use crate::log::offsets::metadata;
use crate::projection::Record;
use crate::projection::checkpoint::{Checkpoint, Move};
use crate::telemetry::consumers::STATISTICS_MS;

/// How often a pause and claims that wait are looked at.
const TICK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(100);
const RUNBOOK: &str = "docs/runbooks/offset-out-of-range.md";

/// A partition that the group assigned to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Claimed; records from `next` on become rows, and its rows are worked on.
    Running(Checkpoint),
    /// To be claimed as soon as Postgres and Kafka answer; it rests meanwhile.
    Unclaimed,
    /// Its checkpoint moved without us: the assignment is to be proven before it is claimed again.
    Doubtful(Checkpoint),
    /// Read no further until an operator acts; what was claimed of it is worked on.
    Stopped(Checkpoint),
}

/// Reads until shutdown; Kafka errors that end a consumer start another one.
pub(super) fn run(core: &Arc<Core>) {
    while !core.shutdown.is_cancelled() {
        if let Err(error) = session(core) {
            tracing::error!(effect = core.name(), %error, "starting over");
            core.health.failed(error.to_string());
            core.wait(Duration::from_secs(1));
        }
    }
}

/// One membership in the group: until shutdown, a pause, or an error that the consumer does not survive.
fn session(core: &Arc<Core>) -> Result<(), EffectError> {
    while paused(core)? {
        core.health.set_paused(true);
        core.wait(TICK);
        if core.shutdown.is_cancelled() {
            return Ok(());
        }
    }
    core.health.set_paused(false);
    core.forget_partitions();
    let topics = core.registered.topics();
    let consumer: GroupConsumer<Core> =
        client::consumer(&core.config.kafka, &group(core.name()), "error")
            .set("statistics.interval.ms", STATISTICS_MS)
            .create_with_context(Context::of(core))?;
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut session = Session {
        core,
        consumer,
        topics: topics.into_iter().map(Arc::from).collect(),
        batch: Vec::new(),
        bytes: 0,
        ticked: None,
    };
    let ended = session.run();
    session.leave();
    core.forget_partitions();
    core.group.left();
    ended
}

fn paused(core: &Core) -> Result<bool, EffectError> {
    core.on_database(async |conn| Ok(store::paused(conn, core.name()).await?))
}

struct Session<'c> {
    core: &'c Arc<Core>,
    consumer: GroupConsumer<Core>,
    topics: Vec<Arc<str>>,
    /// Polled and not yet written.
    batch: Vec<Record>,
    bytes: usize,
    ticked: Option<Instant>,
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), EffectError> {
        while !self.core.shutdown.is_cancelled() {
            if self.ticked.is_none_or(|at| at.elapsed() >= TICK) {
                self.ticked = Some(Instant::now());
                match self.tick() {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => self.endure(&error)?,
                }
            }
            self.collect()?;
            self.flush()?;
        }
        Ok(())
    }

    /// Polls until the batch is full, the input drained or the deadline of its first record over.
    fn collect(&mut self) -> Result<(), EffectError> {
        let options = &self.core.config.options;
        let full = options.effect_batch_records as usize;
        let allowed = Duration::from_millis(options.effect_batch_deadline_ms);
        let mut first: Option<Instant> = None;
        while self.batch.len() < full && self.bytes < options.batch_bytes() {
            let timeout = match self.batch.is_empty() {
                true => POLL,
                false => Duration::ZERO,
            };
            if !self.poll(timeout)?
                || first.get_or_insert_with(Instant::now).elapsed() >= allowed
                || self.core.changed.load(Ordering::Relaxed)
            {
                break;
            }
        }
        Ok(())
    }

    /// Takes in what one poll brings; false if it brought no record.
    fn poll(&mut self, timeout: Duration) -> Result<bool, EffectError> {
        let polled = consumer::poll(&self.consumer, &self.topics, timeout);
        if self.core.changed.swap(false, Ordering::Relaxed) {
            let gone = self.core.take_gone();
            self.forget(&gone);
            // New partitions are claimed at once, not at the next tick.
            self.ticked = None;
        }
        match polled {
            Polled::Nothing => Ok(false),
            Polled::Record(record) => {
                self.bytes += record.size();
                self.batch.push(record);
                Ok(true)
            }
            Polled::End => Ok(true),
            Polled::Fatal(error) => Err(error.into()),
            Polled::OutOfRange(error) => self.stop_out_of_range(error).map(|()| true),
            Polled::Passing(error) => {
                // It heals by itself, and polling goes on.
                tracing::warn!(effect = self.core.name(), %error, "consumer");
                self.core.health.failed(error.to_string());
                Ok(true)
            }
        }
    }

    fn forget(&mut self, keys: &BTreeSet<Key>) {
        self.batch
            .retain(|record| !keys.contains(&(record.topic.to_string(), record.partition)));
        self.bytes = self.batch.iter().map(Record::size).sum();
    }

    /// Writes the batch; tries again for as long as a server is away, and keeps polling meanwhile.
    fn flush(&mut self) -> Result<(), EffectError> {
        let mut waited = false;
        while !self.core.shutdown.is_cancelled() {
            let moves = self.moves();
            if moves.is_empty() {
                break;
            }
            match batch::write(self.core, &self.batch, &moves) {
                Ok(batch::Outcome::Written(new)) => {
                    self.written(&moves, new);
                    break;
                }
                Ok(batch::Outcome::Lost(keys)) => self.doubt(keys)?,
                Err(error) => {
                    waited = true;
                    self.endure(&error)?;
                }
            }
        }
        self.batch.clear();
        self.bytes = 0;
        if waited {
            self.resume_running()?;
        }
        Ok(())
    }

    /// Drops what must not be written and says how far each checkpoint goes.
    fn moves(&mut self) -> BTreeMap<Key, Move> {
        let mut moves: BTreeMap<Key, Move> = BTreeMap::new();
        for claim in self.core.running() {
            let step = Move {
                position: claim.position,
                ..claim.stay()
            };
            moves.insert((claim.topic, claim.partition), step);
        }
        self.batch.retain(|record| {
            let key = (record.topic.to_string(), record.partition);
            match moves.get_mut(&key) {
                Some(step) if record.offset >= step.next => {
                    let mark = step.position;
                    step.extend(record);
                    // A group that was set back reads below its mark: the mark stays.
                    step.position = step.position.max(mark);
                    true
                }
                _ => false,
            }
        });
        moves.retain(|_, step| step.next > step.expected);
        moves
    }

    fn written(&mut self, moves: &BTreeMap<Key, Move>, new: u64) {
        self.core.health.claimed(new);
        let mut list = TopicPartitionList::new();
        self.core.with_held(|held| {
            for (key, step) in moves {
                if let Some(Held::Running(claim)) = held.get_mut(key) {
                    claim.next = step.next;
                    claim.position = step.position;
                    if let Err(error) = add_commit(&mut list, claim) {
                        tracing::warn!(%error, "offset not committed to kafka");
                    }
                }
            }
        });
        if new > 0 {
            self.core.wake.notify_one();
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(effect = self.core.name(), %error, "kafka commit failed");
        }
        super::crash_point("effect.after-kafka-commit");
    }

    /// Holds out while a server is away: nothing new is fetched, the group hears from us.
    fn endure(&mut self, error: &EffectError) -> Result<(), EffectError> {
        tracing::warn!(effect = self.core.name(), %error, "trying again");
        self.core.health.failed(error.to_string());
        let keys = self.running_keys();
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

    fn running_keys(&self) -> Vec<Key> {
        self.core
            .running()
            .into_iter()
            .map(|claim| (claim.topic, claim.partition))
            .collect()
    }

    fn resume_running(&self) -> Result<(), EffectError> {
        let keys = self.running_keys();
        if !keys.is_empty() {
            self.consumer.resume(&list_of(&keys))?;
        }
        Ok(())
    }

    /// Commits to Kafka what Postgres has, so that the group tools show no lag, and leaves the group.
    fn leave(self) {
        let mut list = TopicPartitionList::new();
        for claim in self.core.running() {
            let _ = add_commit(&mut list, &claim);
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Sync)
        {
            tracing::debug!(effect = self.core.name(), %error, "kafka commit failed");
        }
    }
}

/// Adds a claim's offset with our metadata.
fn add_commit(list: &mut TopicPartitionList, claim: &Checkpoint) -> Result<(), KafkaError> {
    let key = (claim.topic.as_str(), claim.partition);
    let metadata = metadata(claim.epoch, claim.next);
    consumer::add_commit(list, key, claim.next, metadata)
}
