//! What a processor does with records, without a clock, a thread or a broker: the Kafka loop and the test kit
//! both run this.
//!
//! The engine's state runs ahead of the log by at most one [`Step`]. Invariant: a step is committed whole, or the
//! engine forgets its partitions and takes them again from what is committed. The schedule that would break an engine
//! which went on with its state: the commit's answer is lost, the transaction is aborted, and a block that was never
//! written holds back a key for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use super::block::{About, Block, Replay, Request};
use super::letter::{self, Cause, Letter, State};
use super::{HandleError, Handler, Order, Outgoing, RunError};
use crate::codec::Codec;
use crate::handled::Handled;
use crate::log::Key;
use crate::log::offsets::{Committed, metadata_with};
use crate::log::record::Record;
use crate::projection::LearnError;
use crate::telemetry::consumers::Position;
use crate::telemetry::events::Tally;

/// A step that has this many records to produce takes no further event, and the next one goes on: one event may lead to
/// thousands of commands, and a replay brings such events by the batch. 20,000 records are produced in well under a second,
/// which is far from the transaction's timeout, and fit into memory whatever they hold.
const OUTGOING_MAX: usize = 20_000;

/// How failures are tried again.
#[derive(Debug, Clone)]
pub(crate) struct Retries {
    /// Most tries of an event whose handler says that it may work later.
    pub(crate) attempts_max: u32,
    /// Pause after the first.
    pub(crate) first: Duration,
    /// Longest pause.
    pub(crate) longest: Duration,
}

impl Retries {
    /// The pause after this many tries: doubled each time, of which the upper half is by lot (`dice` in 0..1), so that what
    /// failed together is not tried again together.
    pub(crate) fn pause(&self, tries: u32, dice: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(
                1_u32
                    .checked_shl(tries.saturating_sub(1))
                    .unwrap_or(u32::MAX),
            )
            .min(self.longest);
        doubled.div_f64(2.0) + doubled.div_f64(2.0).mul_f64(dice)
    }
}

/// What is committed about a partition when it is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim {
    /// The group's offset.
    pub(crate) committed: Option<Committed>,
    /// Where to start if there is none.
    pub(crate) beginning: i64,
    /// Where the dead letters' partition ends.
    pub(crate) dlq_end: i64,
    /// The newest value of each key of `<group>.blocked`.
    pub(crate) blocked: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is to be committed in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Records, in this order.
    pub(crate) outgoing: Vec<Outgoing>,
    /// The next offset of each partition that is concerned, with its metadata.
    pub(crate) offsets: BTreeMap<Key, Committed>,
    /// Events handled.
    pub(crate) handled: usize,
    /// Commands and integration events emitted.
    pub(crate) emitted: usize,
    /// Dead letters written.
    pub(crate) letters: usize,
    /// What is away, if something is.
    pub(crate) outage: Option<String>,
    /// The newest failure of a handler.
    pub(crate) failure: Option<String>,
    /// The same by type of event.
    pub(crate) seen: Tally,
}

impl Step {
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

struct Partition {
    topic: Arc<str>,
    number: i32,
    epoch: i64,
    next: i64,
    handled: Handled,
    /// Nothing with our metadata is committed yet, so even an idle partition commits once.
    unsigned: bool,
    /// What a reset leads to; written before anything else.
    opening: Vec<Outgoing>,
    queue: VecDeque<Record>,
    /// Nothing is tried before.
    due: Duration,
    blocks: BTreeMap<Vec<u8>, Block>,
    /// By key; with the offset of the letter to give up, if one is.
    requests: BTreeMap<Vec<u8>, Option<i64>>,
    /// To be gone back for.
    replay: Option<Replay>,
    dlq_end: i64,
}

/// The state of one member's processor.
pub(crate) struct Engine {
    handler: Arc<dyn Handler>,
    group: String,
    retries: Retries,
    codec: Codec,
    partitions: BTreeMap<Key, Partition>,
    /// Tries of the record at the head of a partition. Kept when partitions are taken again: an outage must
    /// neither use tries up nor give them back.
    tries: HashMap<(Key, i64), u32>,
}

/// How one record ended.
enum Ended {
    Emitted(Vec<Outgoing>),
    Dead(Cause, String, u32),
    Again(Duration, String),
    Outage(String),
}

/// Makes an unknown schema id known to the codec.
pub(crate) type Learn<'l> = &'l mut dyn FnMut(u32) -> Result<(), LearnError>;

impl Engine {
    pub(crate) fn new(handler: Arc<dyn Handler>, codec: Codec, retries: Retries) -> Self {
        Self {
            group: handler.group(),
            handler,
            retries,
            codec,
            partitions: BTreeMap::new(),
            tries: HashMap::new(),
        }
    }

    pub(crate) fn set_attempts_max(&mut self, attempts_max: u32) {
        self.retries.attempts_max = attempts_max;
    }

    /// Takes a partition from what is committed; returns the offset to read from.
    pub(crate) fn take(&mut self, key: Key, claim: Claim) -> i64 {
        let (topic, number) = (&key.0, key.1);
        let committed = claim.committed.as_ref();
        let next = committed.map_or(claim.beginning, |committed| committed.offset);
        let mut partition = Partition {
            topic: topic.as_str().into(),
            number,
            epoch: committed.map_or(0, Committed::epoch) + 1,
            next,
            handled: committed.map(Committed::handled).unwrap_or_default(),
            unsigned: committed.is_none_or(Committed::is_reset),
            opening: Vec::new(),
            queue: VecDeque::new(),
            due: Duration::ZERO,
            blocks: BTreeMap::new(),
            requests: BTreeMap::new(),
            replay: None,
            dlq_end: claim.dlq_end,
        };
        for (name, value) in claim.blocked {
            let Some((about, of, record_key)) = About::parse(&name) else {
                continue;
            };
            if of != *topic {
                continue;
            }
            match about {
                About::Redrive => {
                    partition.requests.insert(record_key, skip_of(&value));
                }
                About::Replay => partition.replay = serde_json::from_slice(&value).ok(),
                About::Block => match serde_json::from_slice(&value) {
                    Ok(block) => {
                        partition.blocks.insert(record_key, block);
                    }
                    Err(error) => {
                        tracing::error!(topic, number, %error, "a block that cannot be read is not held");
                    }
                },
            }
        }
        if committed.is_some_and(Committed::is_reset) {
            partition.supersede(&self.group);
        }
        self.partitions.insert(key, partition);
        next
    }

    pub(crate) fn release(&mut self, key: &Key) {
        self.partitions.remove(key);
        self.tries.retain(|(of, _), _| of != key);
    }

    /// Forgets everything but how often heads were tried: what became of the last step is not known.
    pub(crate) fn forget(&mut self) {
        self.partitions.clear();
    }

    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.partitions.contains_key(key)
    }

    pub(crate) fn push(&mut self, record: Record) {
        let key = (record.topic.to_string(), record.partition);
        if let Some(partition) = self.partitions.get_mut(&key) {
            // Polled before the partition was taken again and sought back: it will come again.
            let expected = partition
                .queue
                .back()
                .map_or(partition.next, |last| last.offset + 1);
            if record.offset >= expected {
                partition.queue.push_back(record);
            }
        }
    }

    /// Takes in a record of `<group>.blocked` that was written after the partition was taken.
    pub(crate) fn hear(&mut self, number: i32, key: &[u8], value: Option<&[u8]>) {
        let Some((about, topic, record_key)) = About::parse(key) else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(&(topic, number)) else {
            return;
        };
        match (about, value) {
            (About::Redrive, Some(value)) => {
                partition.requests.insert(record_key, skip_of(value));
            }
            (About::Redrive, None) => {
                partition.requests.remove(&record_key);
            }
            (About::Replay, value) => {
                partition.replay = value.and_then(|value| serde_json::from_slice(value).ok());
            }
            (About::Block, _) => {}
        }
    }

    /// Records that wait, and how long nothing of the partition is tried, if it rests.
    pub(crate) fn waiting(&self, key: &Key, now: Duration) -> (usize, Option<Duration>) {
        self.partitions.get(key).map_or((0, None), |one| {
            (
                one.queue.len(),
                one.due.checked_sub(now).filter(|rest| !rest.is_zero()),
            )
        })
    }

    /// Where each partition stands.
    pub(crate) fn positions(&self) -> BTreeMap<Key, Position> {
        let of = |(key, one): (&Key, &Partition)| {
            let (next, settled) = (one.next, one.queue.is_empty());
            (key.clone(), Position { next, settled })
        };
        self.partitions.iter().map(of).collect()
    }

    pub(crate) fn queued(&self) -> usize {
        self.partitions.values().map(|one| one.queue.len()).sum()
    }

    /// Keys with dead letters, over all partitions that are held.
    pub(crate) fn blocked(&self) -> usize {
        self.partitions.values().map(|one| one.blocks.len()).sum()
    }

    /// Handles what is due, at most `records`, and says what to commit. `now` counts from any fixed moment.
    pub(crate) fn work(&mut self, now: Duration, records: usize, learn: Learn<'_>) -> Step {
        let mut step = Step::default();
        let keys: Vec<Key> = self.partitions.keys().cloned().collect();
        for key in keys {
            self.work_partition(&key, now, records, learn, &mut step);
        }
        step
    }

    fn work_partition(
        &mut self,
        key: &Key,
        now: Duration,
        records: usize,
        learn: Learn<'_>,
        step: &mut Step,
    ) {
        let Some(mut partition) = self.partitions.remove(key) else {
            return;
        };
        let mut dirty = BTreeSet::new();
        let mut moved = std::mem::take(&mut partition.unsigned);
        step.outgoing.append(&mut partition.opening);
        while partition.due <= now
            && step.handled + step.letters < records
            && step.outgoing.len() < OUTGOING_MAX
        {
            let Some(record) = partition.queue.pop_front() else {
                break;
            };
            match self.one(&partition, &record, learn) {
                Ended::Emitted(outgoing) => {
                    step.seen.handled(&record);
                    step.handled += 1;
                    step.emitted += outgoing.len();
                    step.outgoing.extend(outgoing);
                }
                Ended::Dead(cause, reason, attempts) => {
                    step.letters += 1;
                    step.outgoing.push(letter::letter(
                        &self.group,
                        &record,
                        cause,
                        &reason,
                        attempts,
                    ));
                    if cause != Cause::Behind {
                        step.seen.failed(&record);
                        partition.handled.failed(&reason);
                        step.failure = Some(reason.clone());
                    }
                    // What is no event at all stands in no order with the events of that key.
                    if let Some(record_key) = &record.key
                        && (cause == Cause::Behind || record.envelope.is_ok())
                    {
                        partition.block(&record, (reason, attempts), self.handler.order());
                        dirty.insert(record_key.clone());
                    }
                }
                Ended::Again(pause, reason) => {
                    step.seen.failed(&record);
                    partition.handled.failed(&reason);
                    step.failure = Some(reason);
                    partition.due = now + pause;
                    partition.queue.push_front(record);
                    break;
                }
                Ended::Outage(reason) => {
                    step.outage = Some(reason);
                    partition.due = now + self.retries.first;
                    partition.queue.push_front(record);
                    break;
                }
            }
            self.tries.remove(&(key.clone(), record.offset));
            partition.next = record.offset + 1;
            partition.handled.extend(&record);
            moved = true;
        }
        for record_key in dirty {
            step.outgoing
                .push(partition.block_record(&self.group, &record_key));
        }
        if moved {
            step.offsets.insert(key.clone(), partition.committed());
        }
        self.partitions.insert(key.clone(), partition);
    }

    fn one(&mut self, partition: &Partition, record: &Record, learn: Learn<'_>) -> Ended {
        let block = record
            .key
            .as_ref()
            .and_then(|key| partition.blocks.get(key));
        if let Some(block) = block.filter(|block| block.holds_back) {
            let reason = format!(
                "follows the dead letter of offset {}: {}",
                block.first, block.reason
            );
            return Ended::Dead(Cause::Behind, reason, 0);
        }
        let head = ((record.topic.to_string(), record.partition), record.offset);
        let tries = self.tries.get(&head).copied().unwrap_or_default();
        match self.run(record, learn) {
            Ok(Ok(outgoing)) => Ended::Emitted(outgoing),
            Ok(Err(HandleError::Poison(reason))) => Ended::Dead(Cause::Poison, reason, tries + 1),
            Ok(Err(HandleError::Transient(reason))) => {
                if tries + 1 >= self.retries.attempts_max {
                    return Ended::Dead(Cause::Exhausted, reason, tries + 1);
                }
                let dice = dice(record.offset, tries);
                self.tries.insert(head, tries + 1);
                Ended::Again(self.retries.pause(tries + 1, dice), reason)
            }
            Err(away) => Ended::Outage(away),
        }
    }

    /// The handler's answer; the outer error is a server that is away.
    fn run(
        &self,
        record: &Record,
        learn: Learn<'_>,
    ) -> Result<Result<Vec<Outgoing>, HandleError>, String> {
        let mut learnt = None;
        loop {
            // A panic is the handler's fault with this event, and must not end the others' events.
            let ran = catch_unwind(AssertUnwindSafe(|| self.handler.run(&self.codec, record)));
            let unknown = match ran {
                Ok(Ok(outgoing)) => return Ok(Ok(outgoing)),
                Ok(Err(RunError::Handle(error))) => return Ok(Err(error)),
                Ok(Err(RunError::UnknownSchema(id))) => id,
                Err(_) => return Ok(Err(HandleError::Poison("the handler panicked".to_owned()))),
            };
            let poison = |reason| Ok(Err(HandleError::Poison(reason)));
            if learnt == Some(unknown) {
                return poison(format!("schema id {unknown} cannot be learnt"));
            }
            match learn(unknown) {
                Ok(()) => learnt = Some(unknown),
                Err(LearnError::Unknown(reason)) => return poison(reason),
                Err(LearnError::Unavailable(reason)) => return Err(reason),
            }
        }
    }

    /// A partition that is to go back, and what to commit for it: the earlier offset, and that the request is done.
    ///
    /// Both in one transaction, so a request is followed once: before it, the next owner finds the request; after it, the
    /// offset. A repeat of the request, told by its id, is only struck out. Whoever commits this must release the partition
    /// and take it again, for what is in the engine was read from another offset on.
    pub(crate) fn replay(&mut self) -> Option<(Key, Step)> {
        let mut asked = self.partitions.iter_mut();
        let (key, partition, replay) = asked.find_map(|(key, partition)| {
            let replay = partition.replay.take()?;
            Some((key.clone(), partition, replay))
        })?;
        if partition.handled.replay != Some(replay.id) {
            partition.handled.replay = Some(replay.id);
            if replay.from < partition.next {
                partition.next = replay.from;
                partition.supersede(&self.group);
            }
        }
        let at = (&*partition.topic.clone(), partition.number, &b""[..]);
        let mut step = Step {
            outgoing: std::mem::take(&mut partition.opening),
            ..Step::default()
        };
        step.outgoing
            .push(About::Replay.record::<Replay>(&self.group, at, None));
        partition.unsigned = false;
        step.offsets.insert(key.clone(), partition.committed());
        Some((key, step))
    }

    /// A key that is to be redriven now: its partition, itself, and where its letters begin.
    pub(crate) fn redrive_wanted(&self, now: Duration) -> Option<(Key, Vec<u8>, i64)> {
        self.partitions.iter().find_map(|(key, partition)| {
            let wanted = partition
                .requests
                .keys()
                .next()
                .filter(|_| partition.due <= now)?;
            let from = partition
                .blocks
                .get(wanted)
                .map_or(i64::MAX, |block| block.dlq_from);
            Some((key.clone(), wanted.clone(), from))
        })
    }

    /// Runs the open letters of a key again, in order; `records` are those of the dead letters' partition.
    ///
    /// The step moves no offset, but it carries the partition's, so that a member which lost the partition is refused.
    pub(crate) fn redrive(
        &mut self,
        (key, record_key): (&Key, &[u8]),
        now: Duration,
        records: Vec<Record>,
        learn: Learn<'_>,
    ) -> Step {
        let mut step = Step::default();
        let Some(mut partition) = self.partitions.remove(key) else {
            return step;
        };
        let at = (&*partition.topic.clone(), partition.number, record_key);
        let mut open: Vec<Letter> = letter::fold(records)
            .into_iter()
            .filter(|one| one.state == State::Open && one.record.key.as_deref() == Some(record_key))
            .filter(|one| *one.record.topic == *partition.topic)
            .collect();
        open.sort_by_key(|one| one.record.offset);
        let skip = partition.requests.get(record_key).copied().flatten();
        // Only the first: whoever asked saw it there, and has not judged another.
        if let Some(offset) = skip
            && open.first().is_some_and(|one| one.record.offset == offset)
        {
            open.remove(0);
            step.outgoing.push(letter::mark(
                &self.group,
                at,
                State::Skipped,
                (offset, offset),
            ));
        }
        let mut left: Option<(i64, String)> = None;
        for one in &open {
            match self.run(&one.record, learn) {
                Ok(Ok(outgoing)) => {
                    step.seen.handled(&one.record);
                    step.handled += 1;
                    step.emitted += outgoing.len();
                    step.outgoing.extend(outgoing);
                    let offset = one.record.offset;
                    step.outgoing.push(letter::mark(
                        &self.group,
                        at,
                        State::Redriven,
                        (offset, offset),
                    ));
                }
                Ok(Err(HandleError::Poison(reason) | HandleError::Transient(reason))) => {
                    step.seen.failed(&one.record);
                    step.failure = Some(reason.clone());
                    left.get_or_insert((one.record.offset, reason));
                    if self.handler.order() == Order::PerKey {
                        break;
                    }
                }
                Err(away) => {
                    // Nothing of it is kept: the request stands and is executed when the server is back.
                    partition.due = now + self.retries.first;
                    self.partitions.insert(key.clone(), partition);
                    return Step {
                        outage: Some(away),
                        ..Step::default()
                    };
                }
            }
        }
        partition.requests.remove(record_key);
        step.outgoing
            .push(About::Redrive.record::<Request>(&self.group, at, None));
        match (left, partition.blocks.get_mut(record_key)) {
            (Some((first, reason)), Some(block)) => {
                block.attempts = if block.first == first {
                    block.attempts + 1
                } else {
                    1
                };
                block.first = first;
                block.reason = reason;
                step.outgoing
                    .push(partition.block_record(&self.group, record_key));
            }
            (None, Some(_)) => {
                partition.blocks.remove(record_key);
                step.outgoing
                    .push(partition.block_record(&self.group, record_key));
            }
            (_, None) => {}
        }
        partition.unsigned = false;
        let mut opening = std::mem::take(&mut partition.opening);
        opening.append(&mut step.outgoing);
        step.outgoing = opening;
        step.offsets.insert(key.clone(), partition.committed());
        self.partitions.insert(key.clone(), partition);
        step
    }
}

impl Partition {
    /// What is to be committed about it.
    fn committed(&mut self) -> Committed {
        self.handled.failed = self.blocks.len() as i64;
        Committed {
            offset: self.next,
            metadata: metadata_with(self.epoch, self.next, &self.handled),
        }
    }

    /// Opens or extends the block of a dead letter's key.
    fn block(&mut self, record: &Record, (reason, attempts): (String, u32), order: Order) {
        let key = record.key.clone().unwrap_or_default();
        let dlq_from = self.dlq_end;
        self.blocks
            .entry(key)
            .and_modify(|block| block.last = block.last.max(record.offset))
            .or_insert_with_key(|key| Block {
                topic: record.topic.to_string(),
                partition: record.partition,
                key: String::from_utf8_lossy(key).into_owned(),
                first: record.offset,
                last: record.offset,
                reason,
                attempts,
                since: Utc::now(),
                dlq_from,
                holds_back: order == Order::PerKey,
            });
    }

    /// The record that says how a key's block stands: its tombstone where there is none.
    fn block_record(&self, group: &str, key: &[u8]) -> Outgoing {
        let at = (&*self.topic, self.number, key);
        About::Block.record(group, at, self.blocks.get(key))
    }

    /// The group was set back to `next`: what stands from there on comes again.
    fn supersede(&mut self, group: &str) {
        let target = self.next;
        let covered: Vec<Vec<u8>> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.last >= target)
            .map(|(key, _)| key.clone())
            .collect();
        for key in covered {
            let Some(mut block) = self.blocks.remove(&key) else {
                continue;
            };
            let at = (&*self.topic.clone(), self.number, key.as_slice());
            let range = (block.first.max(target), block.last);
            self.opening
                .push(letter::mark(group, at, State::Superseded, range));
            if block.first < target {
                block.last = target - 1;
                self.blocks.insert(key.clone(), block);
            } else if self.requests.remove(&key).is_some() {
                self.opening
                    .push(About::Redrive.record::<Request>(group, at, None));
            }
            self.opening.push(self.block_record(group, &key));
        }
    }
}

/// The letter that a request gives up.
fn skip_of(request: &[u8]) -> Option<i64> {
    serde_json::from_slice::<Request>(request).ok()?.skip
}

/// A number in 0..1 that differs from record to record and try to try; nothing depends on its quality.
fn dice(offset: i64, tries: u32) -> f64 {
    let mixed = (offset as u64 ^ u64::from(tries).rotate_left(40) ^ u64::from(std::process::id()))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
