//! A topology without a broker: pipe events in, drain commands and integration events out, advance time.
//!
//! The engine is the one that runs over Kafka, and so is the Avro; only the log is a list in memory, in which a
//! transaction either happens or does not. Of all that is emitted the log checks that it names its cause and its story.
//!
//! ```ignore
//! let mut log = TopologyLog::new(processors::topology(), &schemas::all());
//! log.pipe("42", CounterRaised { by: 1 });
//! let commands = log.drain::<MirrorCommand>();
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::codec::{Codec, Schema, Writer};
use crate::command::CommandSet;
use crate::event::{Event, IntegrationEvent, ce_type, commands_topic};
use crate::log::headers;
use crate::log::offsets::Committed;
use crate::log::record::{HeaderBlock, Record};
use crate::position::{JournalPosition, partition_of};
use crate::processor::{
    Block, Claim, Engine, Handler, Letter, Outgoing, Request, Retries, Step, Topology,
    blocked_topic, dlq_topic, redrive_request,
};
use crate::projection::{LearnError, Start};
use crate::registry::SchemaSet;

/// Most records of a transaction.
const BATCH: usize = 100;

/// A command that a processor emitted.
#[derive(Debug, Clone)]
pub struct Emitted<C> {
    /// Its id, `ce_id`.
    pub id: Uuid,
    /// The aggregate that it is for.
    pub aggregate_id: String,
    /// The command.
    pub command: C,
    /// The record as it stands on the topic.
    pub record: Record,
}

/// An integration event that a processor published.
#[derive(Debug, Clone)]
pub struct Published<E> {
    /// Its id, `ce_id`.
    pub id: Uuid,
    /// Its key: that of the event that it came from.
    pub key: String,
    /// The event.
    pub event: E,
    /// The record as it stands on the topic.
    pub record: Record,
}

/// A log in memory, and a member of every processor's group.
pub struct TopologyLog {
    codec: Codec,
    partitions: i32,
    topics: BTreeMap<(String, i32), Vec<Record>>,
    members: Vec<Member>,
    now: Duration,
    sequences: HashMap<(&'static str, String), i64>,
    piped: i64,
    drained: HashMap<String, usize>,
    order: HashMap<String, Vec<(i32, usize)>>,
}

struct Member {
    handler: Arc<dyn Handler>,
    engine: Engine,
    committed: BTreeMap<(String, i32), Committed>,
    /// Next offset to read; a partition that is not here is to be taken.
    positions: BTreeMap<(String, i32), i64>,
    heard: BTreeMap<i32, usize>,
    lose_next: Option<bool>,
}

impl TopologyLog {
    /// A log of three partitions, with the retries that processors have by default.
    ///
    /// # Panics
    /// When a schema does not parse.
    pub fn new(topology: &Topology, sets: &[SchemaSet]) -> Self {
        let codec = codec_of(sets);
        let retries = Retries {
            attempts_max: 8,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        };
        Self::with(topology, codec, 3, &retries)
    }

    fn with(topology: &Topology, codec: Codec, partitions: i32, retries: &Retries) -> Self {
        let members = topology
            .handlers()
            .iter()
            .map(|handler| Member {
                handler: handler.clone(),
                engine: Engine::new(handler.clone(), codec.clone(), retries.clone()),
                committed: BTreeMap::new(),
                positions: BTreeMap::new(),
                heard: BTreeMap::new(),
                lose_next: None,
            })
            .collect();
        Self {
            codec,
            partitions,
            topics: BTreeMap::new(),
            members,
            now: Duration::ZERO,
            sequences: HashMap::new(),
            piped: 0,
            drained: HashMap::new(),
            order: HashMap::new(),
        }
    }

    /// Another number of partitions; to be said before anything is piped.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Most tries of an event that may work later.
    #[must_use]
    pub fn attempts_max(mut self, attempts_max: u32) -> Self {
        for member in &mut self.members {
            member.engine.set_attempts_max(attempts_max);
        }
        self
    }

    /// The next event of an aggregate; returns its id. What it leads to happens at once.
    ///
    /// # Panics
    /// When the event cannot be encoded.
    pub fn pipe<E: Event>(&mut self, aggregate_id: &str, event: impl Into<E>) -> Uuid {
        let event = event.into();
        let (_, payload) = self
            .codec
            .encode(&event)
            .expect("the schemas were given to `new`");
        let sequence = self
            .sequences
            .entry((E::AGGREGATE, aggregate_id.to_owned()))
            .or_default();
        *sequence += 1;
        let sequence = *sequence;
        self.piped += 1;
        // Unlike a journal's, so that every run of a test derives the same ids.
        let id = Uuid::from_u128(self.piped as u128);
        let position = JournalPosition {
            generation: 1,
            xid: self.piped,
            position: self.piped,
        };
        let kind = ce_type(E::AGGREGATE, event.event_type());
        let mut block = HeaderBlock::default();
        for (name, value) in [
            (headers::SPECVERSION, "1.0"),
            (headers::ID, &id.to_string()),
            (headers::SOURCE, "/millrace/test"),
            (headers::TYPE, &kind),
            (headers::SUBJECT, aggregate_id),
            (headers::TIME, &headers::time(self.time())),
            (headers::CONTENT_TYPE, "application/avro"),
            (headers::SEQUENCE, &sequence.to_string()),
            (headers::SCHEMA_VERSION, "1"),
            (headers::POSITION, &position.to_string()),
            // Of a story that began before it, so that it shows whether what follows belongs to it.
            (headers::CORRELATION_ID, &format!("story-{}", self.piped)),
            (headers::CAUSATION_ID, &format!("command-{}", self.piped)),
        ] {
            block.push(name, Some(value.as_bytes()));
        }
        self.pipe_record(&E::topic(), aggregate_id, Some(payload), block);
        id
    }

    /// A record as any tool may write it.
    pub fn pipe_record(
        &mut self,
        topic: &str,
        key: &str,
        payload: Option<Vec<u8>>,
        headers: HeaderBlock,
    ) {
        self.append(Outgoing {
            topic: topic.to_owned(),
            partition: None,
            key: Some(key.as_bytes().to_vec()),
            payload,
            headers,
        });
        self.run();
    }

    /// The time that events are piped at: the start of 2026, and what it was advanced by.
    pub fn time(&self) -> DateTime<Utc> {
        DateTime::<Utc>::from_timestamp(1_767_225_600, 0).expect("2026-01-01T00:00:00Z is a time")
            + self.now
    }

    /// Lets time pass; what is due is tried again.
    pub fn advance(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// The commands of one aggregate type that were emitted since the last call, oldest first.
    ///
    /// # Panics
    /// When one cannot be decoded.
    pub fn drain<C: CommandSet>(&mut self) -> Vec<Emitted<C>> {
        self.drain_topic(&commands_topic(C::AGGREGATE))
    }

    /// The same from any topic.
    ///
    /// # Panics
    /// When a record is no such command.
    pub fn drain_topic<C: CommandSet>(&mut self, topic: &str) -> Vec<Emitted<C>> {
        self.undrained(topic)
            .into_iter()
            .map(|(id, aggregate_id, record)| {
                let payload = record.payload.as_deref().expect("a command has a value");
                Emitted {
                    id,
                    aggregate_id,
                    command: self
                        .codec
                        .decode_command(payload)
                        .expect("a command of this aggregate"),
                    record,
                }
            })
            .collect()
    }

    /// The integration events of one context that were published since the last call, oldest first.
    ///
    /// # Panics
    /// When one cannot be decoded.
    pub fn published<E: IntegrationEvent>(&mut self) -> Vec<Published<E>> {
        self.undrained(&E::topic())
            .into_iter()
            .map(|(id, key, record)| {
                let payload = record.payload.as_deref().expect("an event has a value");
                Published {
                    id,
                    key,
                    event: self
                        .codec
                        .decode(payload)
                        .expect("an event of this context"),
                    record,
                }
            })
            .collect()
    }

    /// The records of a topic since the last call, with their ids and keys.
    fn undrained(&mut self, topic: &str) -> Vec<(Uuid, String, Record)> {
        let order = self.order.get(topic).map(Vec::as_slice).unwrap_or_default();
        let drained = self.drained.entry(topic.to_owned()).or_default();
        let new = &order[*drained..];
        *drained = order.len();
        new.iter()
            .map(|(partition, index)| {
                let record = self.topics[&(topic.to_owned(), *partition)][*index].clone();
                let id = record
                    .headers
                    .iter()
                    .find(|(name, _)| *name == headers::ID)
                    .and_then(|(_, value)| std::str::from_utf8(value?).ok()?.parse().ok())
                    .expect("what a processor emits has an id");
                let key = record
                    .key
                    .clone()
                    .expect("what a processor emits has a key");
                let key = String::from_utf8(key).expect("an aggregate's id is text");
                (id, key, record)
            })
            .collect()
    }

    /// Every dead letter of a processor, with what became of it.
    pub fn dead_letters(&self, processor: &str) -> Vec<Letter> {
        let topic = dlq_topic(&crate::processor::group(processor));
        (0..self.partitions)
            .flat_map(|partition| {
                crate::processor::fold_letters(self.records(&topic, partition).iter().cloned())
            })
            .collect()
    }

    /// The blocks of a processor.
    pub fn blocks(&self, processor: &str) -> Vec<Block> {
        let topic = blocked_topic(&crate::processor::group(processor));
        (0..self.partitions)
            .flat_map(|partition| newest(self.records(&topic, partition)))
            .filter(|(key, _)| key.starts_with(b"block/"))
            .filter_map(|(_, value)| serde_json::from_slice(&value).ok())
            .collect()
    }

    /// Asks for a key to be redriven, as `millrace dlq redrive` does; with `skip`, the source offset of its first waiting
    /// letter, as `millrace dlq skip` does.
    pub fn redrive(&mut self, processor: &str, key: &str, skip: Option<i64>) {
        let group = crate::processor::group(processor);
        let Some(member) = self
            .members
            .iter()
            .find(|member| member.handler.name() == processor)
        else {
            return;
        };
        let topic = member.handler.topic();
        let partition = partition_of(key, self.partitions);
        let request = Request {
            id: Uuid::from_u128(0),
            skip,
        };
        self.append(redrive_request(
            &group,
            (&topic, partition, key.as_bytes()),
            &request,
        ));
        self.run();
    }

    /// Stops every processor and resets the group of one, as a stock tool does.
    pub fn reset(&mut self, processor: &str, partition: i32, offset: i64) {
        for member in &mut self.members {
            if member.handler.name() == processor {
                let key = (member.handler.topic(), partition);
                let metadata = String::new();
                member.committed.insert(key, Committed { offset, metadata });
            }
        }
        self.restart();
    }

    /// Ends every processor, and starts it from what is committed.
    pub fn restart(&mut self) {
        for member in &mut self.members {
            member.positions.clear();
            member.engine.forget();
        }
        self.run();
    }

    /// The next transaction of each processor fails: it is aborted, or it is committed and the answer is lost.
    pub fn fail_next(&mut self, committed_all_the_same: bool) {
        for member in &mut self.members {
            member.lose_next = Some(committed_all_the_same);
        }
    }

    /// The offset that a processor's group has committed, and its metadata.
    pub fn committed(&self, processor: &str, partition: i32) -> Option<(i64, String)> {
        let member = self
            .members
            .iter()
            .find(|member| member.handler.name() == processor)?;
        let committed = member.committed.get(&(member.handler.topic(), partition))?;
        Some((committed.offset, committed.metadata.clone()))
    }

    fn records(&self, topic: &str, partition: i32) -> &[Record] {
        self.topics
            .get(&(topic.to_owned(), partition))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn append(&mut self, one: Outgoing) {
        let key = String::from_utf8_lossy(one.key.as_deref().unwrap_or_default()).into_owned();
        let partition = one
            .partition
            .unwrap_or_else(|| partition_of(&key, self.partitions));
        let records = self
            .topics
            .entry((one.topic.clone(), partition))
            .or_default();
        let offset = records.len() as i64;
        self.order
            .entry(one.topic.clone())
            .or_default()
            .push((partition, records.len()));
        records.push(Record::new(
            (one.topic.as_str().into(), partition, offset),
            one.key,
            one.payload,
            one.headers,
        ));
    }

    /// Runs every processor until none has anything to do before time passes.
    fn run(&mut self) {
        for index in 0..self.members.len() {
            let mut member = std::mem::replace(&mut self.members[index], Member::away());
            while self.turn(&mut member) {}
            self.members[index] = member;
        }
    }

    fn turn(&mut self, member: &mut Member) -> bool {
        let topic = member.handler.topic();
        for partition in 0..self.partitions {
            self.feed(member, &(topic.clone(), partition));
        }
        let mut learn = |id| {
            Err(LearnError::Unknown(format!(
                "schema id {id} does not exist"
            )))
        };
        let step = member.engine.work(self.now, BATCH, &mut learn);
        if !step.is_empty() {
            self.commit(member, step);
            return true;
        }
        let Some((key, record_key, from)) = member.engine.redrive_wanted(self.now) else {
            return false;
        };
        let letters = self
            .records(&dlq_topic(&member.handler.group()), key.1)
            .iter()
            .filter(|record| record.offset >= from)
            .cloned()
            .collect();
        let step = member
            .engine
            .redrive((&key, &record_key), self.now, letters, &mut learn);
        self.commit(member, step);
        true
    }

    /// Takes a partition that is not held, and hands over what it has not read yet.
    fn feed(&self, member: &mut Member, key: &(String, i32)) {
        let group = member.handler.group();
        let records = self.records(&key.0, key.1);
        let blocked = self.records(&blocked_topic(&group), key.1);
        if !member.engine.holds(key) {
            let claim = Claim {
                committed: member.committed.get(key).cloned(),
                beginning: match member.handler.start() {
                    Start::Earliest => 0,
                    Start::Now => records.len() as i64,
                },
                dlq_end: self.records(&dlq_topic(&group), key.1).len() as i64,
                blocked: newest(blocked),
            };
            let next = member.engine.take(key.clone(), claim);
            member.positions.insert(key.clone(), next);
            member.heard.insert(key.1, blocked.len());
        }
        let heard = member.heard.entry(key.1).or_default();
        for record in &blocked[*heard..] {
            let name = record.key.as_deref().unwrap_or_default();
            member.engine.hear(key.1, name, record.payload.as_deref());
        }
        *heard = blocked.len();
        let position = member.positions.entry(key.clone()).or_default();
        for record in records
            .iter()
            .skip(usize::try_from(*position).unwrap_or_default())
        {
            member.engine.push(record.clone());
            *position = record.offset + 1;
        }
    }

    /// Whatever a processor emits names the event that it came from, and goes on with that event's story. Every test on this log
    /// sees it, so every flow that is tested at all.
    fn check_cause(&self, handler: &dyn Handler, one: &Outgoing) {
        let header = |wanted: &str| {
            let mut all = one.headers.iter();
            let (_, value) = all.find(|(name, _)| *name == wanted)?;
            std::str::from_utf8(value?).ok()
        };
        let source = format!("/millrace/processor/{}", handler.name());
        // Dead letters and blocks are records of the log's own.
        if header(headers::SOURCE) != Some(source.as_str()) {
            return;
        }
        let id = header(headers::ID).unwrap_or_default();
        let cause = header(headers::CAUSATION_ID);
        let caused = (0..self.partitions)
            .flat_map(|partition| self.records(&handler.topic(), partition))
            .filter_map(|record| Some(&record.envelope.as_ref().ok()?.metadata))
            .find(|event| Some(event.event_id.to_string().as_str()) == cause);
        let Some(event) = caused else {
            panic!(
                "{} {id} names the cause {cause:?}, which is no event of {}",
                one.topic,
                handler.topic()
            );
        };
        let of_event = event.event_id.to_string();
        let story = event.correlation_id.as_ref().unwrap_or(&of_event);
        assert_eq!(
            header(headers::CORRELATION_ID),
            Some(story.as_str()),
            "{} {id} of {} belongs to another story than its cause",
            one.topic,
            handler.name()
        );
    }

    fn commit(&mut self, member: &mut Member, step: Step) {
        for one in &step.outgoing {
            self.check_cause(&*member.handler, one);
        }
        let lost = member.lose_next.take();
        if lost != Some(false) {
            for one in step.outgoing {
                self.append(one);
            }
            member.committed.extend(step.offsets);
        }
        if lost.is_some() {
            member.engine.forget();
            member.positions.clear();
        }
    }
}

impl Member {
    /// What stands in a member's place while it runs.
    fn away() -> Self {
        struct Nobody;
        impl Handler for Nobody {
            fn name(&self) -> &str {
                ""
            }
            fn topic(&self) -> String {
                String::new()
            }
            fn start(&self) -> Start {
                Start::Earliest
            }
            fn order(&self) -> crate::processor::Order {
                crate::processor::Order::Any
            }
            fn run(
                &self,
                _: &Codec,
                _: &Record,
            ) -> Result<Vec<Outgoing>, crate::processor::RunError> {
                Ok(Vec::new())
            }
        }
        let handler: Arc<dyn Handler> = Arc::new(Nobody);
        let retries = Retries {
            attempts_max: 1,
            first: Duration::ZERO,
            longest: Duration::ZERO,
        };
        Self {
            engine: Engine::new(handler.clone(), Codec::default(), retries),
            handler,
            committed: BTreeMap::new(),
            positions: BTreeMap::new(),
            heard: BTreeMap::new(),
            lose_next: None,
        }
    }
}

/// The newest value of each key, as compaction leaves it.
fn newest(records: &[Record]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut newest = BTreeMap::new();
    for record in records {
        let key = record.key.clone().unwrap_or_default();
        match &record.payload {
            Some(value) => newest.insert(key, value.clone()),
            None => newest.remove(&key),
        };
    }
    newest.into_iter().collect()
}

fn codec_of(sets: &[SchemaSet]) -> Codec {
    let mut writers = HashMap::new();
    let mut readers = Vec::new();
    for (schema_id, (set, schema)) in (1..).zip(
        sets.iter()
            .flat_map(|set| set.schemas.iter().map(move |schema| (set, schema))),
    ) {
        readers.push((schema_id, schema.json));
        if !schema.retired {
            let writer = Writer {
                schema_id,
                version: schema.version,
                schema: Schema::parse_str(schema.json).expect("a schema file parses"),
            };
            writers.insert((set.aggregate, schema.record), writer);
        }
    }
    let codec = Codec::new(writers);
    for (schema_id, json) in readers {
        codec
            .add_reader(schema_id, json)
            .expect("a schema file parses");
    }
    codec
}
