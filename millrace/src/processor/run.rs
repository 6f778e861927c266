//! The loop over Kafka: poll, handle, commit; and what happens when a transaction fails.
//!
//! One thread a processor does everything: it polls, runs handlers and talks to the producer, so no callback ever runs
//! beside a transaction.
//!
//! Schedules that this must survive, and the tests of `tests/tests/processors` that run them:
//! - A member stands still in a handler, the group gives its partition away, the new owner handles and commits; then
//!   the first one wakes up and commits. It is refused, because the transaction carries the generation in which it polled
//!   (`a_member_that_slept_through_a_rebalance_commits_nothing`).
//! - A member dies between producing and committing. The next owner waits until the transaction is aborted before it
//!   believes a committed offset (`what_a_crash_leaves_uncommitted_is_never_seen`).
//! - The answer to a commit is lost. Nothing in memory is believed any more: the producer is dropped, a new one ends what
//!   was open, and every partition is taken again from what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::{Message, Offset};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::{Claim, Engine, Retries, Step};
use super::health::{Health, ProcessorReport};
use super::{Handler, blocked_topic, crash_point, dlq_topic, offsets_outside};
use crate::config::KafkaConfig;
use crate::log::Key;
use crate::log::client;
use crate::log::consumer::{self, Context, GroupConsumer, KAFKA_TIMEOUT, Member, Polled};
use crate::log::contact::{self, Contact};
use crate::log::offsets::Committed;
use crate::log::read::{PartitionReader, ReadError};
use crate::log::transaction::{
    MESSAGE_MAX_BYTES, ToProduce, TransactionError, TransactionalProducer,
};
use crate::projection::{Decoder, Start};
use crate::telemetry::consumers::{Group, STATISTICS_MS};
use crate::telemetry::events;

/// How often requests and partitions that wait to be taken are looked at.
const TICK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(100);
/// A transaction of a processor that is gone is aborted when its time is over and the coordinator looks, every 10 s.
const UNSTABLE_MAX: Duration = client::TRANSACTION_TIMEOUT.saturating_mul(3);
/// What fails for less is not unhealthy yet.
const GRACE: Duration = Duration::from_secs(10);

/// How much a processor takes at once, and how often it tries.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessorOptions {
    /// Most events of a transaction of a processor.
    #[arg(long, env = "PROCESSOR_BATCH_RECORDS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub processor_batch_records: u32,
    /// Longest that a transaction's events are collected while input keeps coming; a drained input closes it at once.
    #[arg(long, env = "PROCESSOR_BATCH_DEADLINE_MS", default_value_t = 20)]
    pub processor_batch_deadline_ms: u64,
    /// Most tries of an event whose handler says that it may work later; then it is a dead letter.
    #[arg(long, env = "PROCESSOR_ATTEMPTS_MAX", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub processor_attempts_max: u32,
    /// Pause after the first failed try; doubled by each further one.
    #[arg(long, env = "PROCESSOR_BACKOFF_MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub processor_backoff_ms: u64,
    /// Longest pause between two tries.
    #[arg(long, env = "PROCESSOR_BACKOFF_MAX_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub processor_backoff_max_ms: u64,
    /// Name of this process in the ids of its transactions, used by no other one at the same time. A restarted process of
    /// the same name ends at once what it left open, instead of after 10 s.
    #[arg(long, env = "PROCESSOR_MEMBER")]
    pub processor_member: Option<String>,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            processor_batch_records: 2_000,
            processor_batch_deadline_ms: 20,
            processor_attempts_max: 8,
            processor_backoff_ms: 100,
            processor_backoff_max_ms: 10_000,
            processor_member: None,
        }
    }
}

/// What a processor needs besides its handler.
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Limits.
    pub options: ProcessorOptions,
}

/// Why a processor ended, or waits.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A transaction.
    #[error("transaction: {0}")]
    Transaction(#[from] TransactionError),
    /// The group gave the partitions to someone else, or is about to.
    #[error("the group's assignment was lost")]
    AssignmentLost,
    /// Blocks or dead letters could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The thread died.
    #[error("processor {0} ended with a panic")]
    Panicked(String),
}

/// A running processor. Dropping it stops it without waiting.
pub struct RunningProcessor {
    name: String,
    health: Arc<Health>,
    shutdown: CancellationToken,
    ended: oneshot::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RunningProcessor {
    /// Starts it. Servers that are away are waited for by its thread.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: ProcessorConfig, handler: Arc<dyn Handler>, decoder: Decoder) -> Self {
        let health = Arc::new(Health::default());
        let shutdown = CancellationToken::new();
        let name = handler.name().to_owned();
        let core = Arc::new(Core::new(
            config,
            handler,
            decoder,
            health.clone(),
            shutdown.clone(),
        ));
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("processor {name}"))
            .spawn(move || {
                // Dropped at the end of the thread, also by a panic: that is what wakes `ended`.
                let _end = end;
                run(&core);
            })
            .expect("the system gives out threads");
        Self {
            name,
            health,
            shutdown,
            ended,
            thread: Some(thread),
        }
    }

    /// How it is.
    pub fn health(&self) -> ProcessorReport {
        let report = self.health.report(&self.name, GRACE);
        crate::telemetry::handlers::processor(&report);
        report
    }

    /// Asks for its health later, from anywhere.
    pub fn watch(&self) -> impl Fn() -> ProcessorReport + Send + Sync + 'static {
        let (health, name) = (self.health.clone(), self.name.clone());
        move || health.report(&name, GRACE)
    }

    /// Waits until it ends, which without [`stop`](Self::stop) only a panic makes it do.
    pub async fn ended(&mut self) -> Result<(), ProcessorError> {
        let _ = (&mut self.ended).await;
        let panicked = self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err());
        if panicked {
            return Err(ProcessorError::Panicked(self.name.clone()));
        }
        Ok(())
    }

    /// Finishes the transaction in hand and leaves the group.
    pub async fn stop(mut self) -> Result<(), ProcessorError> {
        self.shutdown.cancel();
        self.ended().await
    }
}

impl Drop for RunningProcessor {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What the loop and the rebalance callback share; both run on the processor's thread.
struct Core {
    config: ProcessorConfig,
    handler: Arc<dyn Handler>,
    decoder: Decoder,
    transactional_id: String,
    runtime: Handle,
    health: Arc<Health>,
    shutdown: CancellationToken,
    started: Instant,
    state: Mutex<State>,
    /// The group's generation is a new one.
    rebalanced: AtomicBool,
    /// How far the group is, for the metrics.
    group: Arc<Group>,
    /// What it did, by type of event.
    events: Arc<events::Handler>,
}

struct State {
    engine: Engine,
    held: BTreeSet<Key>,
    reader: Option<PartitionReader>,
    /// Where each partition of `<group>.blocked` was read to.
    heard: BTreeMap<i32, i64>,
    /// Since when the group's offsets wait for a transaction.
    unstable: Option<Instant>,
}

impl State {
    /// A client that failed is not asked again: it may have forgotten its brokers.
    fn doubt_reader(&mut self, error: &ReadError) {
        if matches!(error, ReadError::Kafka { .. }) {
            self.reader = None;
        }
    }
}

/// The reader, made where there is none.
fn made<'r>(
    reader: &'r mut Option<PartitionReader>,
    kafka: &KafkaConfig,
) -> Result<&'r PartitionReader, KafkaError> {
    if reader.is_none() {
        *reader = Some(PartitionReader::new(kafka, "processor")?);
    }
    Ok(reader.as_ref().expect("made above"))
}

impl Core {
    fn new(
        config: ProcessorConfig,
        handler: Arc<dyn Handler>,
        decoder: Decoder,
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> Self {
        let options = &config.options;
        let retries = Retries {
            attempts_max: options.processor_attempts_max,
            first: Duration::from_millis(options.processor_backoff_ms),
            longest: Duration::from_millis(options.processor_backoff_max_ms),
        };
        let member = match &options.processor_member {
            Some(member) => member.clone(),
            None => Uuid::now_v7().simple().to_string(),
        };
        Self {
            group: Group::of(&handler.group()),
            events: events::Handler::of(
                events::Kind::Processor,
                handler.name(),
                vec![handler.topic()],
            ),
            transactional_id: format!("{}.{member}", handler.group()),
            state: Mutex::new(State {
                engine: Engine::new(handler.clone(), decoder.codec().clone(), retries),
                held: BTreeSet::new(),
                reader: None,
                heard: BTreeMap::new(),
                unstable: None,
            }),
            config,
            handler,
            decoder,
            runtime: Handle::current(),
            health,
            shutdown,
            started: Instant::now(),
            rebalanced: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("only the processor's own thread locks its state")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn failed(&self, error: String) {
        tracing::warn!(processor = self.handler.name(), error, "trying again");
        self.health.failed(error);
    }

    /// Takes partitions from what is committed: offsets first, then blocks.
    ///
    /// In this order: the offsets of a transaction that is still open are waited for, and once its end is known to the
    /// group's coordinator, an open end of `<group>.blocked` is an error until it is known there too.
    fn take(
        &self,
        consumer: &GroupConsumer<Self>,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, i64>, ProcessorError> {
        let taken = self.claim(consumer, keys);
        if let Err(ProcessorError::Read(error)) = &taken {
            self.state().doubt_reader(error);
        }
        taken
    }

    /// What the group has committed. Offsets of a transaction that is open are waited for, but no longer than one may last
    /// ([`UNSTABLE_MAX`]): one that a kill in the middle left behind may never end, and would stop the partition for good.
    /// Then what was committed before it counts: what is emitted again has the same ids, and if that transaction ends after
    /// all, the group keeps what was committed later.
    fn committed(
        &self,
        consumer: &GroupConsumer<Self>,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, Committed>, ProcessorError> {
        let error = match consumer::committed(consumer, keys) {
            Ok(committed) => {
                self.state().unstable = None;
                return Ok(committed);
            }
            Err(error) => error,
        };
        let since = *self.state().unstable.get_or_insert_with(Instant::now);
        if since.elapsed() < UNSTABLE_MAX {
            return Err(error.into());
        }
        // A client of its own: where it is not a transaction that is waited for, it may be the other one that is lost.
        let reader: BaseConsumer = client::reader(&self.config.kafka, "offsets")
            .set("group.id", self.handler.group())
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let committed = consumer::committed(&reader, keys).inspect_err(|_| {
            // Kafka is away: its transactions have the time that is left to them after it is back.
            self.state().unstable = Some(Instant::now());
        })?;
        tracing::warn!(
            processor = self.handler.name(),
            group = self.handler.group(),
            waited_s = since.elapsed().as_secs(),
            %error,
            "the group's offsets are read without a transaction that does not end; `kafka-transactions find-hanging` on __consumer_offsets names it"
        );
        Ok(committed)
    }

    fn claim(
        &self,
        consumer: &GroupConsumer<Self>,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, i64>, ProcessorError> {
        let group = self.handler.group();
        let committed = self.committed(consumer, keys)?;
        let mut state = self.state();
        let State {
            reader,
            engine,
            heard,
            ..
        } = &mut *state;
        let reader = made(reader, &self.config.kafka)?;
        let mut claims = Vec::with_capacity(keys.len());
        for key in keys {
            let committed = committed.get(key).cloned();
            let beginning = match (&committed, self.handler.start()) {
                (Some(_), _) => 0,
                (None, Start::Earliest) => reader.ends(&key.0, key.1)?.0,
                (None, Start::Now) => reader.ends(&key.0, key.1)?.1,
            };
            let (_, dlq_end) = reader.ends(&dlq_topic(&group), key.1)?;
            let mut blocked = BTreeMap::new();
            let end = reader.read((&blocked_topic(&group), key.1), 0, |record| {
                let name = record.key.unwrap_or_default();
                match record.payload {
                    Some(value) => blocked.insert(name, value),
                    None => blocked.remove(&name),
                };
            })?;
            heard.insert(key.1, end);
            claims.push(Claim {
                committed,
                beginning,
                dlq_end,
                blocked: blocked.into_iter().collect(),
            });
        }
        let claims = keys.iter().cloned().zip(claims);
        let taken = claims.map(|(key, claim)| (key.clone(), engine.take(key, claim)));
        let taken = taken.collect();
        drop(state);
        crash_point("processor.after-take");
        Ok(taken)
    }
}

impl Member for Core {
    fn name(&self) -> &str {
        self.handler.name()
    }

    fn assigned(&self, consumer: &GroupConsumer<Self>, keys: &[Key]) -> BTreeMap<Key, Option<i64>> {
        let taken = match self.take(consumer, keys) {
            Ok(taken) => taken,
            Err(error) => {
                self.failed(format!("partitions could not be taken yet: {error}"));
                BTreeMap::new()
            }
        };
        self.state().held.extend(keys.iter().cloned());
        self.rebalanced.store(true, Ordering::Relaxed);
        keys.iter()
            .map(|key| (key.clone(), taken.get(key).copied()))
            .collect()
    }

    fn unassigned(&self, keys: &[Key]) {
        let mut state = self.state();
        for key in keys {
            state.held.remove(key);
            state.heard.remove(&key.1);
            state.engine.release(key);
        }
        self.rebalanced.store(true, Ordering::Relaxed);
    }

    fn failed(&self, error: &KafkaError) {
        self.health.failed(error.to_string());
    }

    /// A transaction that hangs shows in the views' health, which read the same topics.
    fn measured(&self, statistics: &Statistics) {
        let positions = self.state().engine.positions();
        self.group.consumed(statistics, &positions);
    }
}

/// Runs until shutdown; errors that end a consumer start another one.
fn run(core: &Arc<Core>) {
    while !core.shutdown.is_cancelled() {
        if let Err(error) = session(core) {
            core.failed(format!("starting over: {error}"));
            core.runtime.block_on(async {
                let _ =
                    tokio::time::timeout(Duration::from_secs(1), core.shutdown.cancelled()).await;
            });
        }
    }
}

/// One membership in the group.
fn session(core: &Arc<Core>) -> Result<(), ProcessorError> {
    {
        let mut state = core.state();
        state.engine.forget();
        state.held.clear();
        state.heard.clear();
        state.reader = None;
    }
    let producer = producer(core)?;
    crash_point("processor.after-init");
    // A processor whose offsets the log no longer holds goes on with the oldest event that it does hold.
    let consumer: GroupConsumer<Core> =
        client::consumer(&core.config.kafka, &core.handler.group(), "earliest")
            .set("statistics.interval.ms", STATISTICS_MS)
            .create_with_context(Context::of(core))?;
    let topic = core.handler.topic();
    consumer.subscribe(&[topic.as_str()])?;
    let requests = contact::reader(&core.config.kafka, "processor-requests")?;
    let mut session = Session {
        core,
        consumer,
        requests,
        producer: Some(producer),
        generation: None,
        topics: vec![topic.into()],
        paused: BTreeSet::new(),
        ticked: Instant::now(),
    };
    let mut ended = Ok(());
    while ended.is_ok() && !core.shutdown.is_cancelled() {
        ended = session.turn();
    }
    // A consumer that is being closed still hands out statistics.
    drop(session);
    core.group.left();
    ended
}

fn producer(core: &Core) -> Result<TransactionalProducer, TransactionError> {
    TransactionalProducer::start(
        &core.config.kafka,
        &core.transactional_id,
        Some(MESSAGE_MAX_BYTES),
    )
}

struct Session<'c> {
    core: &'c Arc<Core>,
    consumer: GroupConsumer<Core>,
    /// Follows `<group>.blocked`.
    requests: BaseConsumer<Contact>,
    /// None between a failed transaction and the next producer.
    producer: Option<TransactionalProducer>,
    /// The generation in which what is in the engine was polled.
    generation: Option<Arc<ConsumerGroupMetadata>>,
    topics: Vec<Arc<str>>,
    /// Partitions that rest until the engine is done with what it has.
    paused: BTreeSet<Key>,
    ticked: Instant,
}

impl Session<'_> {
    fn turn(&mut self) -> Result<(), ProcessorError> {
        if self.ticked.elapsed() >= TICK {
            self.tick()?;
            self.ticked = Instant::now();
        }
        self.collect()?;
        if self.producer.is_none() {
            return Ok(());
        }
        self.work()?;
        self.redrive()?;
        self.replay()?;
        self.rest()
    }

    /// Polls until the batch is full, the input drained or the deadline of its first record over.
    fn collect(&mut self) -> Result<(), ProcessorError> {
        let options = &self.core.config.options;
        let full = options.processor_batch_records as usize;
        let allowed = Duration::from_millis(options.processor_batch_deadline_ms);
        let begun = Instant::now();
        // At least once, however much waits: a member that does not poll is thrown out of its group.
        let mut brought = self.poll(self.patience())?;
        while brought && begun.elapsed() < allowed && self.core.state().engine.queued() < 2 * full {
            brought = self.poll(Duration::ZERO)?;
        }
        Ok(())
    }

    /// How long an empty poll may take: not beyond the moment when something is due again.
    fn patience(&self) -> Duration {
        let (now, state) = (self.core.now(), self.core.state());
        let mut patience = POLL;
        for key in &state.held {
            match state.engine.waiting(key, now) {
                (0, _) => {}
                (_, Some(due)) => patience = patience.min(due),
                (_, None) => return Duration::ZERO,
            }
        }
        patience
    }

    /// Takes in what one poll brings; false if it brought nothing.
    fn poll(&mut self, timeout: Duration) -> Result<bool, ProcessorError> {
        let polled = consumer::poll(&self.consumer, &self.topics, timeout);
        if self.core.rebalanced.swap(false, Ordering::Relaxed) {
            self.rebalanced()?;
        }
        match polled {
            Polled::Nothing => Ok(false),
            Polled::Record(record) => {
                self.core.state().engine.push(record);
                Ok(true)
            }
            Polled::End => Ok(true),
            Polled::Passing(error) => {
                self.core.failed(error.to_string());
                Ok(true)
            }
            Polled::OutOfRange(error) | Polled::Fatal(error) => Err(error.into()),
        }
    }

    /// Keeps the generation that the partitions belong to.
    ///
    /// It must be read here and not when a transaction is committed: once the client has noticed that the group threw it out,
    /// it hands out an empty member without a generation, which the coordinator takes for a producer of before there were
    /// generations, and lets commit. The flag that the assignment was lost is looked at before each commit for the same reason.
    fn rebalanced(&mut self) -> Result<(), ProcessorError> {
        self.generation = self.consumer.group_metadata().map(Arc::new);
        self.follow()
    }

    /// Follows the requests of the partitions that are held.
    fn follow(&mut self) -> Result<(), ProcessorError> {
        let state = self.core.state();
        self.paused.retain(|key| state.held.contains(key));
        let mut list = TopicPartitionList::new();
        let topic = blocked_topic(&self.core.handler.group());
        for (partition, offset) in &state.heard {
            list.add_partition_offset(&topic, *partition, Offset::Offset(*offset))?;
        }
        self.core
            .health
            .set_counts(state.held.len(), 0, state.engine.blocked());
        self.requests.assign(&list)?;
        Ok(())
    }

    /// Handles what is due and commits it.
    fn work(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        let records = core.config.options.processor_batch_records as usize;
        let mut learn = |id| core.runtime.block_on(core.decoder.learn(id));
        let step = core.state().engine.work(core.now(), records, &mut learn);
        self.settle(step)
    }

    /// Executes one request to redrive a key.
    fn redrive(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        let Some((key, record_key, from)) = core.state().engine.redrive_wanted(core.now()) else {
            return Ok(());
        };
        let mut records = Vec::new();
        let mut state = core.state();
        // Without the letters the engine would take the key for one that has none, and let its later events pass.
        if from < i64::MAX {
            let topic = dlq_topic(&core.handler.group());
            let reader = made(&mut state.reader, &core.config.kafka)?;
            let read = reader.read((&topic, key.1), from, |record| {
                if record.key.as_deref() == Some(&record_key) {
                    records.push(record);
                }
            });
            if let Err(error) = read {
                state.doubt_reader(&error);
                drop(state);
                core.failed(format!("dead letters could not be read yet: {error}"));
                return Ok(());
            }
        }
        let mut learn = |id| core.runtime.block_on(core.decoder.learn(id));
        let wanted = (&key, record_key.as_slice());
        let step = state
            .engine
            .redrive(wanted, core.now(), records, &mut learn);
        drop(state);
        crash_point("processor.before-redrive");
        self.settle(step)
    }

    /// Follows one request to go back to an earlier offset.
    fn replay(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        // After a failed transaction there is no producer until the next tick, and the request stands.
        if self.producer.is_none() {
            return Ok(());
        }
        let Some((key, step)) = core.state().engine.replay() else {
            return Ok(());
        };
        self.consumer.pause(&consumer::list_of([&key]))?;
        self.settle(step)?;
        // Committed or not: what is committed says where it goes on.
        core.state().engine.release(&key);
        self.paused.remove(&key);
        self.take_waiting()
    }

    /// Commits a step, or starts over from what is committed.
    fn settle(&mut self, step: Step) -> Result<(), ProcessorError> {
        let core = self.core;
        if let Some(outage) = &step.outage {
            core.failed(outage.clone());
        }
        if let Some(failure) = &step.failure {
            core.health.noted(failure);
        }
        if step.is_empty() {
            // Nothing moved, so whatever was seen are tries that failed.
            core.events.commit(core.decoder.codec(), &step.seen);
            return self.idle();
        }
        match self.transact(&step) {
            Ok(()) => {
                core.events.commit(core.decoder.codec(), &step.seen);
                if step.outage.is_none() {
                    core.health.committed(&step);
                }
                Ok(())
            }
            Err(error) => {
                core.failed(error.to_string());
                self.start_over()
            }
        }
    }

    fn idle(&mut self) -> Result<(), ProcessorError> {
        let idle = self
            .producer
            .as_ref()
            .map_or(Ok(()), TransactionalProducer::idle);
        match idle {
            Ok(()) => Ok(()),
            Err(error) => {
                self.core.failed(error.to_string());
                self.start_over()
            }
        }
    }

    /// Records and offsets, in one transaction.
    fn transact(&self, step: &Step) -> Result<(), ProcessorError> {
        let (Some(producer), Some(generation)) = (&self.producer, &self.generation) else {
            return Err(ProcessorError::AssignmentLost);
        };
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), committed) in &step.offsets {
            let metadata = committed.metadata.clone();
            consumer::add_commit(
                &mut offsets,
                (topic, *partition),
                committed.offset,
                metadata,
            )?;
        }
        crash_point("processor.before-begin");
        let outside = offsets_outside();
        if outside {
            self.consumer.commit(&offsets, CommitMode::Sync)?;
        }
        producer.begin()?;
        for one in &step.outgoing {
            producer.send(&ToProduce {
                topic: &one.topic,
                partition: one.partition,
                key: one.key.as_deref(),
                payload: one.payload.as_deref(),
                headers: &one.headers,
            })?;
        }
        producer.drain()?;
        crash_point("processor.after-produce");
        if self.consumer.assignment_lost() {
            return Err(ProcessorError::AssignmentLost);
        }
        if !outside {
            producer.send_offsets(&offsets, generation)?;
        }
        crash_point("processor.after-offsets");
        producer.commit()?;
        crash_point("processor.after-commit");
        Ok(())
    }

    /// Nothing in memory is believed any more.
    fn start_over(&mut self) -> Result<(), ProcessorError> {
        self.producer = None;
        let mut state = self.core.state();
        state.engine.forget();
        let held: Vec<Key> = state.held.iter().cloned().collect();
        drop(state);
        if !held.is_empty() {
            self.consumer.pause(&consumer::list_of(&held))?;
        }
        self.paused.clear();
        self.rebuild()
    }

    /// A new producer ends what the old one left open; then the partitions are taken again.
    fn rebuild(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        match producer(core) {
            Ok(producer) => self.producer = Some(producer),
            Err(error) => {
                core.failed(error.to_string());
                return Ok(());
            }
        }
        // Whatever the client polled before is not from the committed offset on; a rebalance that is under way shows here.
        self.poll(Duration::ZERO)?;
        crash_point("processor.after-rebuild");
        self.take_waiting()
    }

    /// Takes the partitions that could not be taken when they were assigned.
    fn take_waiting(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        let state = core.state();
        let waiting: Vec<Key> = state
            .held
            .iter()
            .filter(|key| !state.engine.holds(key))
            .cloned()
            .collect();
        drop(state);
        if waiting.is_empty() {
            return Ok(());
        }
        let taken = match core.take(&self.consumer, &waiting) {
            Ok(taken) => taken,
            Err(error) => {
                core.failed(format!("partitions could not be taken yet: {error}"));
                return Ok(());
            }
        };
        for (key, next) in &taken {
            consumer::go_to(&self.consumer, key, *next)?;
        }
        self.consumer.resume(&consumer::list_of(taken.keys()))?;
        self.follow()?;
        core.health.recovered();
        Ok(())
    }

    /// Partitions whose head is to be tried later rest, so that the others' records fill the batch.
    fn rest(&mut self) -> Result<(), ProcessorError> {
        let core = self.core;
        let most = core.config.options.processor_batch_records as usize;
        let now = core.now();
        let state = core.state();
        let mut pause = Vec::new();
        let mut resume = Vec::new();
        let mut waiting = 0;
        for key in state.held.iter().filter(|key| state.engine.holds(key)) {
            let (queued, due) = state.engine.waiting(key, now);
            waiting += queued;
            let rests = due.is_some() || queued >= most;
            if rests && self.paused.insert(key.clone()) {
                pause.push(key.clone());
            } else if !rests && self.paused.remove(key) {
                resume.push(key.clone());
            }
        }
        core.health
            .set_counts(state.held.len(), waiting, state.engine.blocked());
        drop(state);
        if !pause.is_empty() {
            self.consumer.pause(&consumer::list_of(&pause))?;
        }
        if !resume.is_empty() {
            self.consumer.resume(&consumer::list_of(&resume))?;
        }
        Ok(())
    }

    /// Looks after everything that is not a batch.
    fn tick(&mut self) -> Result<(), ProcessorError> {
        if self.producer.is_none() {
            self.rebuild()?;
        } else {
            self.take_waiting()?;
        }
        self.hear()?;
        self.recover();
        Ok(())
    }

    /// Takes in what operators asked for.
    fn hear(&mut self) -> Result<(), ProcessorError> {
        while let Some(polled) = self.requests.poll(Duration::ZERO) {
            let Ok(message) = polled else { continue };
            let mut state = self.core.state();
            state
                .heard
                .insert(message.partition(), message.offset() + 1);
            let key = message.key().unwrap_or_default();
            state
                .engine
                .hear(message.partition(), key, message.payload());
        }
        Ok(self.requests.context().check()?)
    }

    /// With nothing left to handle, an outage is over when Kafka answers.
    fn recover(&self) {
        let core = self.core;
        let state = core.state();
        let waits =
            state.held.iter().any(|key| !state.engine.holds(key)) || state.engine.queued() > 0;
        drop(state);
        if waits || self.producer.is_none() || !core.health.is_failing() {
            return;
        }
        let topic = core.handler.topic();
        if self
            .consumer
            .fetch_metadata(Some(&topic), KAFKA_TIMEOUT)
            .is_ok()
        {
            core.health.recovered();
        }
    }
}
