//! Owning partitions: claim, prove, judge resets, stop.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{Held, RUNBOOK, Session, add_commit, paused};
use crate::checkpoints::EFFECTS;
use crate::effect::run::EffectError;
use crate::effect::{Start, crash_point, store};
use crate::log::consumer::{KAFKA_TIMEOUT, Key, committed, go_to, list_of};
use crate::log::offsets::Committed;
use crate::projection::checkpoint::{Beginning, Checkpoint};
use crate::projection::reset::{self, Verdict};
use crate::projection::sink::reader;

impl Session<'_> {
    /// Looks after everything that is not a batch; true if the effect was paused.
    pub(super) fn tick(&mut self) -> Result<bool, EffectError> {
        if paused(self.core)? {
            return Ok(true);
        }
        self.look_back()?;
        self.prove();
        self.claim_waiting()?;
        self.recover();
        Ok(false)
    }

    /// A replay sets a checkpoint back and raises its epoch; without a batch to write, nothing else would tell us.
    fn look_back(&mut self) -> Result<(), EffectError> {
        let core = self.core;
        let claims = core.claims();
        if claims.is_empty() {
            return Ok(());
        }
        let fenced =
            core.on_database(async |conn| Ok(EFFECTS.fenced(conn, core.name(), &claims).await?))?;
        match fenced.is_empty() {
            true => Ok(()),
            false => self.doubt(fenced),
        }
    }

    /// With nothing left to claim, an outage is over when both servers answer; Postgres just did.
    fn recover(&self) {
        if !self.core.health.is_failing() {
            return;
        }
        let topic = self.topics.first().map(|topic| &**topic);
        if self
            .consumer
            .fetch_metadata(topic, Duration::from_secs(1))
            .is_ok()
        {
            self.core.health.recovered();
        }
    }

    /// Our epoch is no longer the newest, or the checkpoint moved: someone else claimed.
    pub(super) fn doubt(&mut self, keys: Vec<Key>) -> Result<(), EffectError> {
        tracing::warn!(
            effect = self.core.name(),
            ?keys,
            "checkpoints moved without us"
        );
        self.core.with_held(|held| {
            for key in &keys {
                if let Some(entry) = held.get_mut(key)
                    && let Held::Running(claim) | Held::Stopped(claim) = &*entry
                {
                    *entry = Held::Doubtful(claim.clone());
                }
            }
        });
        self.forget(&keys.iter().cloned().collect());
        self.consumer.pause(&list_of(&keys))?;
        // A rebalance that is under way shows here, before the assignment is put to the proof.
        self.poll(Duration::ZERO)?;
        self.prove();
        self.claim_waiting()
    }

    /// Commits what we believed to be ours: the group's coordinator knows whether it is.
    ///
    /// Without this a process that woke up after its session ended would claim, and so fence the true owner, and the
    /// two would take the partition from each other for ever. A refusal proves nothing: while a rebalance is
    /// under way the generation is an old one for the true owner too. It rests and is asked for at every tick.
    fn prove(&mut self) {
        let doubtful: Vec<(Key, Checkpoint)> = self.core.with_held(|held| {
            held.iter()
                .filter_map(|(key, held)| match held {
                    Held::Doubtful(claim) => Some((key.clone(), claim.clone())),
                    _ => None,
                })
                .collect()
        });
        for (key, claim) in doubtful {
            if let Err(error) = self.commit(&claim) {
                tracing::warn!(effect = self.core.name(), ?key, %error, "not proven yet");
                break;
            }
            self.core
                .with_held(|held| held.insert(key, Held::Unclaimed));
        }
    }

    fn commit(&self, claim: &Checkpoint) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        add_commit(&mut list, claim)?;
        self.consumer.commit(&list, CommitMode::Sync)
    }

    /// Claims what waits for it, and starts it at its checkpoint.
    ///
    /// Order: claim; read what is committed; write an operator's set down; only then commit to Kafka with our metadata.
    /// A crash after the claim repeats all of it; after the note, the checkpoint stands at the target already.
    fn claim_waiting(&mut self) -> Result<(), EffectError> {
        let waiting: Vec<Key> = self.core.with_held(|held| {
            held.iter()
                .filter(|(_, held)| **held == Held::Unclaimed)
                .map(|(key, _)| key.clone())
                .collect()
        });
        if waiting.is_empty() {
            return Ok(());
        }
        let core = self.core;
        let known =
            core.on_database(async |conn| Ok(EFFECTS.known(conn, core.name(), &waiting).await?))?;
        let mut beginnings = Vec::new();
        for key in waiting.iter().filter(|key| !known.contains(key)) {
            beginnings.push(self.beginning(key)?);
        }
        let claims = core.on_database(async |conn| {
            let holder = &core.owner;
            Ok(store::claim(conn, core.name(), &waiting, &beginnings, holder).await?)
        })?;
        crash_point("effect.after-claim");
        // Read after the claim, which fences whoever might act on these offsets.
        let committed = committed(&self.consumer, &waiting)?;
        for claim in claims {
            let key = (claim.topic.clone(), claim.partition);
            let settled = self.settle(claim, committed.get(&key))?;
            // Whatever was polled before the seek is not from the checkpoint on.
            self.forget(&BTreeSet::from([key.clone()]));
            if let Held::Running(claim) = &settled {
                go_to(&self.consumer, &key, claim.next)?;
                self.consumer.resume(&list_of([&key]))?;
                self.core.health.released(&key);
            }
            self.core.with_held(|held| held.insert(key, settled));
        }
        self.core.wake.notify_one();
        Ok(())
    }

    fn beginning(&self, (topic, partition): &Key) -> Result<Beginning, EffectError> {
        let (first, end) = self
            .consumer
            .fetch_watermarks(topic, *partition, KAFKA_TIMEOUT)?;
        let (next, last) = match self.core.registered.registration.start {
            Start::Earliest => (first, None),
            Start::Now => {
                let at = (topic.as_str(), *partition);
                (end, self.last_event_before(at, first, end)?)
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

    fn last_event_before(
        &self,
        at: (&str, i32),
        from: i64,
        target: i64,
    ) -> Result<Option<crate::position::JournalPosition>, EffectError> {
        reader::last_event_before(&self.core.config.kafka, at, from, target)
            .map_err(|error| EffectError::Read(error.to_string()))
    }

    /// Acts on one partition's committed offset: where an operator set the group, the checkpoint follows.
    fn settle(
        &mut self,
        mut claim: Checkpoint,
        committed: Option<&Committed>,
    ) -> Result<Held, EffectError> {
        let target = match reset::judge(claim.next, committed) {
            Verdict::Resume => return Ok(Held::Running(claim)),
            Verdict::Sign => claim.next,
            Verdict::Backwards { target } | Verdict::Forwards { target } => target,
        };
        let (topic, partition) = (claim.topic.clone(), claim.partition);
        if target != claim.next {
            let (_, end) = reader::ends(&self.core.config.kafka, &topic, partition)?;
            if target > end {
                let reason = format!(
                    "the group was reset to offset {target} of {topic}/{partition}, which ends at {end}: \
                     reset it to an offset between 0 and {end}, or to {} to go on where it stands",
                    claim.next
                );
                return Ok(self.stop(claim, reason));
            }
            let mark = match target > claim.next {
                true => self.last_event_before((&topic, partition), claim.next, target)?,
                false => None,
            };
            tracing::warn!(
                effect = self.core.name(),
                topic,
                partition,
                from = claim.next,
                to = target,
                "the group was set by an operator; nothing up to the mark is called for again"
            );
            let core = self.core;
            let ours = core.on_database(async |conn| {
                Ok(store::set(conn, core.name(), &claim, target, mark).await?)
            })?;
            crash_point("effect.after-reset-recorded");
            if !ours {
                return Ok(Held::Doubtful(claim));
            }
            claim.next = target;
            claim.position = mark.max(claim.position);
        }
        self.commit(&claim)?;
        Ok(Held::Running(claim))
    }

    /// The client does not say which partition it was, so what each would fetch next is compared with its log.
    pub(super) fn stop_out_of_range(&mut self, error: KafkaError) -> Result<(), EffectError> {
        let positions = self.consumer.position()?;
        let mut found = false;
        for claim in self.core.running() {
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
            let key = (claim.topic.clone(), claim.partition);
            let reason = format!(
                "{}/{} holds offsets {low} to {high}, the next to read is {next}, the checkpoint of effect {} is {}: see {RUNBOOK}",
                claim.topic,
                claim.partition,
                self.core.name(),
                claim.next
            );
            let stopped = self.stop(claim, reason);
            self.core
                .with_held(|held| held.insert(key.clone(), stopped));
            self.forget(&BTreeSet::from([key.clone()]));
            self.consumer.pause(&list_of([&key]))?;
        }
        if found { Ok(()) } else { Err(error.into()) }
    }

    /// Takes a partition out until an operator acts, and writes down why.
    fn stop(&self, claim: Checkpoint, reason: String) -> Held {
        let core = self.core;
        tracing::error!(
            effect = core.name(),
            topic = claim.topic,
            partition = claim.partition,
            reason,
            "the partition is stopped"
        );
        core.health
            .stopped((claim.topic.clone(), claim.partition), reason.clone());
        let recorded = core.on_database(async |conn| {
            Ok(EFFECTS
                .record_error(conn, core.name(), &claim, &reason)
                .await?)
        });
        if let Err(error) = recorded {
            tracing::warn!(effect = core.name(), %error, "the reason could not be written down");
        }
        Held::Stopped(claim)
    }
}
