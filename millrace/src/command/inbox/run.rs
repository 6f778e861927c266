//! The thread that reads: poll, queue, commit what has been answered; and the tasks and callbacks that answer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use fail::fail_point;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::{Offset, TopicPartitionList};

use super::progress::{Progress, Ticket};
use super::record::{Head, Incoming};
use super::reply::{CommandOutcome, CommandReply, End, RECORD, reply_id};
use super::{Shared, dlq_topic, group};
use crate::codec::{CodecError, frame, write_datum};
use crate::command::{CommandError, Pending};
use crate::event::{ce_type, commands_topic, replies_topic};
use crate::log::contact::Contact;
use crate::log::{client, headers};
use crate::projection::reset;
use crate::telemetry::consumers::STATISTICS_MS;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two commits: what was answered since is answered once more after a crash, by look-up.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How soon a commit is repeated: the client tells of no asynchronous one, and one that comes in a rebalance is refused.
const REPEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Longest that a rebalance, or the end, waits for what is under way.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(4);
/// After a standstill of this length the partitions rest, so that polling goes on and the group keeps us.
const REST_AFTER: Duration = Duration::from_secs(1);
/// One poll; what was answered is committed between two.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// Between two questions to Kafka whether it is back.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Between the end of a session that failed and the next.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads until shutdown; whatever fails is begun again from the committed offsets.
pub(super) fn run(shared: &Arc<Shared>) {
    while !shared.shutdown.is_cancelled() {
        let ended = Session::start(shared).and_then(Session::run);
        shared.observed.group.left();
        let Err(reason) = ended else { return };
        tracing::warn!(
            aggregate = shared.aggregate,
            reason,
            "the inbox begins again"
        );
        shared.component.not_ready(reason);
        shared.runtime.block_on(async {
            let _ = tokio::time::timeout(PAUSE, shared.shutdown.cancelled()).await;
        });
    }
}

/// Why the record in hand cannot be queued yet.
enum Stall {
    /// Enough is under way.
    Full,
    /// A server does not answer.
    Away(String),
}

/// What is wrong with the record in hand.
enum Trouble {
    Later(Stall),
    Never(String),
}

/// A membership in the group, with the producer of its replies.
struct Session {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    consumer: BaseConsumer<Context>,
    replies: Arc<ThreadedProducer<Acknowledged>>,
    /// Polled and not yet queued.
    backlog: VecDeque<Arc<Incoming>>,
    committed_at: Instant,
    repeated_at: Instant,
    /// None before the first question, which comes at once: the process is not ready before its answer.
    asked_at: Option<Instant>,
    /// Since when the record in hand waits.
    standing_since: Option<Instant>,
    /// The partitions that are paused, because it waits for long.
    resting: Vec<i32>,
    /// Something was away and has not been heard since.
    failing: bool,
}

impl Session {
    fn start(shared: &Arc<Shared>) -> Result<Self, String> {
        let progress = Arc::new(Progress::default());
        let kafka = |error: KafkaError| format!("kafka: {error}");
        let group = group(shared.aggregate);
        let topic = commands_topic(shared.aggregate);
        let replies = ThreadedProducer::from_config_and_context(
            &client::producer(&shared.kafka, &format!("inbox-{}", shared.aggregate)),
            Acknowledged(Arc::clone(&progress)),
        )
        .map_err(kafka)?;
        let consumer = BaseConsumer::from_config_and_context(
            client::consumer(&shared.kafka, &group, "earliest")
                .set("statistics.interval.ms", STATISTICS_MS),
            Context {
                topic: topic.clone(),
                progress: Arc::clone(&progress),
                shared: Arc::clone(shared),
                contact: Contact::default(),
            },
        )
        .map_err(kafka)?;
        consumer.subscribe(&[&topic]).map_err(kafka)?;
        Ok(Self {
            shared: Arc::clone(shared),
            progress,
            consumer,
            replies: Arc::new(replies),
            backlog: VecDeque::new(),
            committed_at: Instant::now(),
            repeated_at: Instant::now(),
            asked_at: None,
            standing_since: None,
            resting: Vec::new(),
            failing: true,
        })
    }

    fn run(mut self) -> Result<(), String> {
        while !self.shared.shutdown.is_cancelled() {
            if let Some(reason) = self.progress.failed() {
                return Err(reason);
            }
            let contact = &self.consumer.context().contact;
            contact.check().map_err(|error| format!("kafka: {error}"))?;
            if self.committed_at.elapsed() >= COMMIT_INTERVAL {
                self.committed_at = Instant::now();
                if self.repeated_at.elapsed() >= REPEAT_INTERVAL {
                    self.repeated_at = Instant::now();
                    self.progress.all_uncommitted();
                }
                self.commit(CommitMode::Async);
            }
            match self.queue() {
                Ok(()) => {
                    self.go_on()?;
                    self.poll(POLL_TIMEOUT)?;
                }
                Err(stall) => self.stand(&stall)?,
            }
        }
        let partitions = self.progress.partitions();
        self.progress.settle(&partitions, SETTLE_TIMEOUT);
        self.commit(CommitMode::Sync);
        Ok(())
    }

    fn commit(&self, mode: CommitMode) {
        let partitions = self.progress.partitions();
        let context = self.consumer.context();
        context.commit(&self.consumer, &partitions, mode);
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), String> {
        match self.consumer.poll(timeout) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Ok(message)) => {
                // One of a partition that has just gone is read by whoever has it now.
                if let Some(claim) = self.progress.claim_of(message.partition()) {
                    let incoming = Incoming::of(&message, claim);
                    self.backlog.push_back(Arc::new(incoming));
                }
            }
            Some(Err(error)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    return Err(format!("kafka: {error}"));
                }
                self.away(format!("kafka: {error}"));
            }
        }
        Ok(())
    }

    /// Queues what was polled, in order.
    fn queue(&mut self) -> Result<(), Stall> {
        while let Some(incoming) = self.backlog.front() {
            let ticket = incoming.ticket;
            if self.progress.claim_of(ticket.partition) == Some(ticket.claim) {
                let options = &self.shared.options;
                let (commands, bytes) = (options.inbox_commands_max, options.inbox_bytes_max);
                if self.progress.is_full(commands as usize, bytes as usize) {
                    return Err(Stall::Full);
                }
                match self.begin(incoming) {
                    Ok(()) => {}
                    Err(Trouble::Later(stall)) => return Err(stall),
                    Err(Trouble::Never(reason)) => {
                        let answer = self.answer(incoming);
                        self.shared.runtime.spawn(answer.dead_letter(reason));
                    }
                }
            }
            self.backlog.pop_front();
        }
        Ok(())
    }

    /// Hands one command to the handler, and its answer to a task.
    fn begin(&self, incoming: &Arc<Incoming>) -> Result<(), Trouble> {
        let head = incoming.head().map_err(Trouble::Never)?;
        let (schema_id, payload) = incoming.value().map_err(Trouble::Never)?;
        self.learn(schema_id)?;
        let codec = self.shared.registry.codec();
        let command_type = codec
            .record(payload)
            .map_err(|error| Trouble::Never(error.to_string()))?;
        let envelope = head.envelope(&command_type, payload);
        let submitted = self.shared.node.submit(envelope);
        let pending = submitted.map_err(|error| match error {
            CommandError::Overloaded(_) | CommandError::Unavailable(_) => {
                Trouble::Later(Stall::Full)
            }
            error => Trouble::Never(error.to_string()),
        })?;
        let answer = self.answer(incoming).run(head, command_type, pending);
        self.shared.runtime.spawn(answer);
        Ok(())
    }

    /// Counts a record as under way, until its answer is acknowledged.
    fn answer(&self, incoming: &Arc<Incoming>) -> Answer {
        self.progress.begin(incoming.ticket);
        Answer {
            shared: Arc::clone(&self.shared),
            progress: Arc::clone(&self.progress),
            replies: Arc::clone(&self.replies),
            incoming: Arc::clone(incoming),
        }
    }

    /// A schema that is met for the first time is asked for; a server that is away is waited for.
    fn learn(&self, schema_id: u32) -> Result<(), Trouble> {
        let registry = &self.shared.registry;
        if registry.codec().can_read(schema_id) {
            return Ok(());
        }
        let learnt = self.shared.runtime.block_on(registry.learn(schema_id));
        learnt.map_err(|error| match error.is_transient() {
            true => Trouble::Later(Stall::Away(error.to_string())),
            false => Trouble::Never(error.to_string()),
        })
    }

    /// Waits with a record in hand. Polling must not cease for long, or the group takes us for dead.
    fn stand(&mut self, stall: &Stall) -> Result<(), String> {
        if let Stall::Away(reason) = stall {
            self.away(reason.clone());
        }
        let since = *self.standing_since.get_or_insert_with(Instant::now);
        if since.elapsed() < REST_AFTER {
            self.progress.wait(Duration::from_millis(10));
            return Ok(());
        }
        let partitions = self.progress.partitions();
        if self.resting != partitions {
            let list = self.list(&partitions);
            let paused = self.consumer.pause(&list);
            paused.map_err(|error| format!("kafka, pausing: {error}"))?;
            self.resting = partitions;
        }
        self.poll(POLL_TIMEOUT)
    }

    /// Nothing is in hand: reading goes on, and what was away is asked whether it is back.
    fn go_on(&mut self) -> Result<(), String> {
        self.standing_since = None;
        if !self.resting.is_empty() {
            let list = self.list(&self.progress.partitions());
            let resumed = self.consumer.resume(&list);
            resumed.map_err(|error| format!("kafka, resuming: {error}"))?;
            self.resting.clear();
        }
        let may_ask = |at: Instant| at.elapsed() >= ASK_INTERVAL;
        if self.failing && self.asked_at.is_none_or(may_ask) {
            self.asked_at = Some(Instant::now());
            let topic = commands_topic(self.shared.aggregate);
            if self
                .consumer
                .fetch_metadata(Some(&topic), ASK_INTERVAL)
                .is_ok()
            {
                self.failing = false;
                self.shared.component.ready();
            }
        }
        Ok(())
    }

    fn away(&mut self, reason: String) {
        if !self.failing {
            tracing::warn!(aggregate = self.shared.aggregate, reason, "commands wait");
        }
        self.failing = true;
        self.shared.component.not_ready(reason);
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let topic = commands_topic(self.shared.aggregate);
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&topic, *partition);
        }
        list
    }
}

/// Waits for a command's answer and sends it.
struct Answer {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    replies: Arc<ThreadedProducer<Acknowledged>>,
    incoming: Arc<Incoming>,
}

impl Answer {
    async fn run(self, head: Head, command_type: String, pending: Pending) {
        let end = match pending.await {
            Ok(result) => End::of(&head.command_id, &command_type, result),
            Err(_) => End::Unknown("the writer stopped before it answered".to_owned()),
        };
        fail_point!("inbox.after-handle");
        match end {
            End::Reply(reply) => self.reply(&head, &reply).await,
            End::DeadLetter(reason) => self.dead_letter(reason).await,
            End::Unknown(reason) => self.progress.fail(reason),
        }
    }

    async fn reply(self, head: &Head, reply: &CommandReply) {
        let (version, payload) = match self.encode(reply) {
            Ok(encoded) => encoded,
            Err(error) => {
                let reason = format!("the reply to {} is not Avro: {error}", reply.command_id);
                return self.progress.fail(reason);
            }
        };
        let headers = self.reply_headers(head, reply, version);
        let topic = replies_topic(self.shared.aggregate);
        self.shared.observed.answered(reply.outcome);
        self.send(|ticket| {
            BaseRecord::with_opaque_to(&topic, Box::new(ticket))
                .key(head.aggregate_id.as_bytes())
                .payload(payload.as_slice())
                .headers(headers.clone())
        })
        .await;
    }

    fn encode(&self, reply: &CommandReply) -> Result<(u32, Vec<u8>), CodecError> {
        let codec = self.shared.registry.codec();
        let writer = codec.writer(self.shared.aggregate, RECORD)?;
        let body = write_datum(&writer.schema, reply)?;
        Ok((writer.version, frame(writer.schema_id, &body)))
    }

    fn reply_headers(&self, head: &Head, reply: &CommandReply, version: u32) -> OwnedHeaders {
        let aggregate = self.shared.aggregate;
        let record = match reply.outcome {
            CommandOutcome::Accepted => "CommandAccepted",
            CommandOutcome::Rejected => "CommandRejected",
            CommandOutcome::Conflict => "CommandConflicted",
        };
        let correlation = head.correlation_id.as_ref().unwrap_or(&head.command_id);
        let mut all = OwnedHeaders::new_with_capacity(12);
        let mut put = |key: &str, value: &str| {
            all = std::mem::take(&mut all).insert(Header {
                key,
                value: Some(value),
            });
        };
        put(headers::SPECVERSION, "1.0");
        put(headers::ID, &reply_id(&head.command_id).to_string());
        put(headers::SOURCE, &self.shared.source);
        put(headers::TYPE, &ce_type(aggregate, record));
        put(headers::SUBJECT, &head.aggregate_id);
        put(headers::TIME, &headers::time(Utc::now()));
        put(headers::CONTENT_TYPE, "application/avro");
        put(headers::SCHEMA_VERSION, &version.to_string());
        put(headers::CORRELATION_ID, correlation);
        put(headers::CAUSATION_ID, &head.command_id);
        if let Some(tenant) = &head.tenant_id {
            put(headers::TENANT_ID, tenant);
        }
        if let Some(traceparent) = &head.traceparent {
            put(headers::TRACEPARENT, traceparent);
        }
        all
    }

    /// To the partition of the same number, with everything that the record came with and the reason.
    async fn dead_letter(self, reason: String) {
        let ticket = self.incoming.ticket;
        tracing::warn!(
            aggregate = self.shared.aggregate,
            partition = ticket.partition,
            offset = ticket.offset,
            reason,
            "a command becomes a dead letter"
        );
        self.shared.observed.dead_letter();
        let topic = dlq_topic(self.shared.aggregate);
        let incoming = Arc::clone(&self.incoming);
        let headers = incoming.letter_headers(&reason);
        fail_point!("inbox.before-dead-letter");
        self.send(|ticket| {
            let mut record = BaseRecord::with_opaque_to(&topic, Box::new(ticket))
                .partition(ticket.partition)
                .headers(headers.clone());
            record.key = incoming.key.as_deref();
            record.payload = incoming.payload.as_deref();
            record
        })
        .await;
    }

    /// Hands a record to the client, which tells of its delivery by [`Acknowledged`].
    async fn send<'r>(&self, record: impl Fn(Ticket) -> Sent<'r>) {
        loop {
            match self.replies.send(record(self.incoming.ticket)) {
                Ok(()) => return,
                Err((error, _))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err((error, _)) => return self.progress.fail(format!("kafka, replying: {error}")),
            }
        }
    }
}

/// A reply or a dead letter, with the ticket of the record that it answers.
type Sent<'r> = BaseRecord<'r, [u8], [u8], Box<Ticket>>;

/// Counts the replies that the broker has.
struct Acknowledged(Arc<Progress>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        match result {
            Ok(_) => {
                fail_point!("inbox.after-reply");
                self.0.done(*ticket);
            }
            Err((error, _)) => self.0.fail(format!("kafka, replying: {error}")),
        }
    }
}

/// The consumer's side of the group.
struct Context {
    topic: String,
    progress: Arc<Progress>,
    shared: Arc<Shared>,
    contact: Contact,
}

impl Context {
    /// Commits what has been answered of partitions that we hold.
    fn commit(&self, consumer: &BaseConsumer<Self>, partitions: &[i32], mode: CommitMode) {
        let due = self.progress.due(partitions);
        if due.is_empty() {
            return;
        }
        fail_point!("inbox.before-commit");
        let mut list = TopicPartitionList::new();
        for one in &due {
            let mut element = list.add_partition(&self.topic, one.partition);
            // Refused only for offsets that no partition has.
            let _ = element.set_offset(Offset::Offset(one.next));
            element.set_metadata(reset::metadata(one.epoch, one.next));
        }
        let result = consumer.commit(&list, mode);
        if matches!(mode, CommitMode::Sync) || result.is_err() {
            self.committed(result, &list);
        }
    }

    fn committed(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        match result {
            Ok(()) => fail_point!("inbox.after-commit"),
            Err(error) => {
                // While a rebalance is under way it is refused to the true owner too: it is tried again while we are that.
                tracing::debug!(topic = self.topic, %error, "kafka commit failed");
                for element in list.elements() {
                    self.progress.uncommitted(element.partition());
                }
            }
        }
    }

    /// How often the partition had been claimed, as the committed metadata says; it only informs.
    fn epochs(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> Vec<(i32, i64)> {
        let mut asked = TopicPartitionList::new();
        for element in list.elements() {
            asked.add_partition(element.topic(), element.partition());
        }
        let known = consumer
            .committed_offsets(asked, KAFKA_TIMEOUT)
            .unwrap_or_default();
        let epoch = |partition| {
            let element = known.find_partition(&self.topic, partition)?;
            // The client panics on metadata that is not UTF-8.
            let text = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).ok()?;
            text.strip_prefix("v1;")?.split(';').next()?.parse().ok()
        };
        list.elements()
            .iter()
            .map(|element| {
                let partition = element.partition();
                (partition, epoch(partition).unwrap_or(0) + 1)
            })
            .collect()
    }
}

impl ClientContext for Context {
    /// A transaction that hangs in a topic of commands is a processor's, whose events' views say so.
    fn stats(&self, statistics: Statistics) {
        self.contact.measured(&statistics);
        let positions = self.progress.positions(&self.topic);
        let _hung = self.shared.observed.group.consumed(&statistics, &positions);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                for (partition, epoch) in self.epochs(consumer, list) {
                    self.progress.claim(partition, epoch);
                }
            }
            Rebalance::Revoke(list) => {
                let partitions: Vec<i32> = list
                    .elements()
                    .iter()
                    .map(|element| element.partition())
                    .collect();
                // What was lost has another owner already; what is given up is ours until we say so.
                if !consumer.assignment_lost() {
                    self.progress.settle(&partitions, SETTLE_TIMEOUT);
                    self.commit(consumer, &partitions, CommitMode::Sync);
                }
                for partition in partitions {
                    self.progress.release(partition);
                }
            }
            Rebalance::Error(error) => {
                tracing::warn!(topic = self.topic, %error, "kafka rebalance");
            }
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // The client keeps our pause over the loss of a partition: one that came back at rest would be woken by nobody.
        if let Rebalance::Assign(list) = rebalance
            && let Err(error) = consumer.resume(list)
        {
            tracing::warn!(topic = self.topic, %error, "a partition was not resumed");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        self.committed(result, list);
    }
}
