//! What the owner of partitions does beside writing batches: prove, claim, answer requests.

use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use sqlx::Connection;

use super::SinkError;
use super::assign::{Core, Held, commit};
use super::run::{Outcome, Session};
use crate::log::Key;
use crate::log::consumer::{self, list_of};
use crate::projection::checkpoint::{self, Checkpoint};
use crate::projection::{ApplyError, ParkedKey, Request, builds, park};

/// Longest wait for a broker that may be away; polling stands still meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Our epoch is no longer the newest, or the checkpoint moved: someone else claimed, or a swap did.
    pub(super) fn doubt(&mut self, keys: Vec<Key>) -> Result<(), SinkError> {
        tracing::warn!(
            view = self.core.projector.name(),
            ?keys,
            "checkpoints moved without us"
        );
        let mut state = self.core.state();
        for key in &keys {
            if let Some(held) = state.held.get_mut(key)
                && let Held::Running(claim) | Held::Stopped(claim) = &*held
            {
                *held = Held::Doubtful(claim.clone());
            }
        }
        drop(state);
        self.forget(&keys.iter().cloned().collect());
        self.consumer.pause(&list_of(&keys))?;
        // A rebalance that is under way shows here, before the assignment is put to the proof.
        self.poll(Duration::ZERO)?;
        self.prove()?;
        self.claim_waiting()
    }

    /// Commits what we believed to be ours: the group's coordinator knows whether it is.
    ///
    /// Without this a process that woke up after its session ended would claim, and so fence the true
    /// owner; it would be fenced in turn, and the two would take the partition from each other for ever.
    ///
    /// A refusal proves nothing: while a rebalance is under way the generation is an old one for the true owner too, and a
    /// partition that stays with its member is not assigned to it anew. Whoever has lost it hears so by the
    /// rebalance callback; until one or the other, the partition rests and is asked for at every tick.
    fn prove(&mut self) -> Result<(), SinkError> {
        let doubtful: Vec<(Key, Checkpoint)> = self
            .core
            .state()
            .held
            .iter()
            .filter_map(|(key, held)| match held {
                Held::Doubtful(claim) => Some((key.clone(), claim.clone())),
                _ => None,
            })
            .collect();
        for (key, claim) in doubtful {
            if let Err(error) = commit(&self.consumer, &claim, claim.next, CommitMode::Sync) {
                tracing::warn!(view = self.core.projector.name(), ?key, %error, "not proven yet");
                break;
            }
            self.core.state().held.insert(key, Held::Unclaimed);
        }
        Ok(())
    }

    /// Claims what waits for it, and starts it at its checkpoint.
    fn claim_waiting(&mut self) -> Result<(), SinkError> {
        let waiting: Vec<Key> = self
            .core
            .state()
            .held
            .iter()
            .filter(|(_, held)| **held == Held::Unclaimed)
            .map(|(key, _)| key.clone())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let taken = self.core.take(&self.consumer, &waiting)?;
        // Whatever was polled before the seek is not from the checkpoint on.
        self.forget(&waiting.into_iter().collect());
        for held in taken {
            let (Held::Running(claim) | Held::Stopped(claim)) = &held else {
                continue;
            };
            let key = (claim.topic.clone(), claim.partition);
            if let Held::Running(claim) = &held {
                consumer::go_to(&self.consumer, &key, claim.next)?;
                self.consumer.resume(&list_of([&key]))?;
                self.core.health.released(&key);
            }
            self.core.state().held.insert(key, held);
        }
        self.core.health.recovered();
        Ok(())
    }

    /// Looks after everything that is not a batch; true if the view was paused.
    pub(super) fn tick(&mut self) -> Result<bool, SinkError> {
        let core = self.core;
        let Some(live) =
            core.on_database(async |conn| Ok(builds::live(conn, &*core.projector).await?))?
        else {
            return Ok(false);
        };
        if live.paused {
            return Ok(true);
        }
        let swapped = core
            .state()
            .build
            .as_ref()
            .is_some_and(|build| build.number != live.number);
        if swapped {
            // Stopped ones too: the new build may stand behind what stopped them.
            let keys = core.state().held.keys().cloned().collect();
            self.doubt(keys)?;
        }
        self.prove()?;
        self.claim_waiting()?;
        self.requests()?;
        self.note_hung()?;
        self.commit_to_kafka();
        self.recover();
        Ok(false)
    }

    /// Writes down where a transaction hangs, for `millrace status`, and takes back what has ended.
    fn note_hung(&mut self) -> Result<(), SinkError> {
        let hung = self.core.health.hung();
        if hung.keys().eq(&self.hung) {
            return Ok(());
        }
        let (view, before) = (self.core.projector.name(), &self.hung);
        let running = self.running();
        self.core.on_database(async |conn| {
            for claim in &running {
                let key = (claim.topic.clone(), claim.partition);
                match hung.get(&key) {
                    Some(reason) if !before.contains(&key) => {
                        tracing::error!(view, reason, "a transaction hangs");
                        checkpoint::record_error(conn, view, claim, reason).await?;
                    }
                    None if before.contains(&key) => {
                        checkpoint::clear_error(conn, view, claim).await?;
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        self.hung = hung.into_keys().collect();
        Ok(())
    }

    /// With nothing left to write, an outage is over when both servers answer; Postgres just did. Otherwise a view
    /// that is idle, or a member that lost its partitions meanwhile, would be called unhealthy until the next event.
    fn recover(&self) {
        let waiting = |held: &Held| matches!(held, Held::Unclaimed | Held::Doubtful(_));
        if !self.core.health.is_failing() || self.core.state().held.values().any(waiting) {
            return;
        }
        let topics = self.core.projector.topics();
        let topic = topics.first().map(String::as_str);
        if self.consumer.fetch_metadata(topic, ANSWER_TIMEOUT).is_ok() {
            self.core.health.recovered();
        }
    }

    /// Executes what operators asked for parked aggregates of our partitions.
    fn requests(&mut self) -> Result<(), SinkError> {
        let core = self.core;
        let Some(build) = core.state().build.clone() else {
            return Ok(());
        };
        // Those of other owners must not fill the page.
        let (topics, partitions): (Vec<String>, Vec<i32>) =
            core.state().held.keys().cloned().unzip();
        type Row = (String, i32, String, String);
        let rows: Vec<Row> = core.on_database(async |conn| {
            Ok(sqlx::query_as(
                "SELECT topic, partition, aggregate_id, request FROM millrace_views.parked
                 JOIN unnest($3::text[], $4::int[]) u (topic, partition) USING (topic, partition)
                 WHERE view = $1 AND build = $2 AND request IS NOT NULL
                 ORDER BY parked_at LIMIT 100",
            )
            .bind(&build.view)
            .bind(build.number)
            .bind(topics)
            .bind(partitions)
            .fetch_all(conn)
            .await?)
        })?;
        for (topic, partition, aggregate_id, request) in rows {
            let key = (topic, partition);
            let held = core.state().held.get(&key).cloned();
            let (Some(Held::Running(claim) | Held::Stopped(claim)), Some(request)) =
                (held, Request::parse(&request))
            else {
                continue;
            };
            self.release(&key, &claim, &aggregate_id, request)?;
        }
        Ok(())
    }

    fn release(
        &mut self,
        key: &Key,
        claim: &Checkpoint,
        aggregate_id: &str,
        request: Request,
    ) -> Result<(), SinkError> {
        let core = self.core;
        let parked = ParkedKey {
            topic: &key.0,
            partition: key.1,
            aggregate_id,
        };
        match release(core, claim, parked, request) {
            Ok(Outcome::Written(applied)) => {
                core.health.wrote(applied.applied);
                let mut state = core.state();
                if let Some(Held::Stopped(_)) = state.held.get(key) {
                    // There may be room under the cap now.
                    state.held.insert(key.clone(), Held::Unclaimed);
                }
                Ok(())
            }
            Ok(Outcome::Lost(keys)) => self.doubt(keys),
            Err(SinkError::Apply(ApplyError::Stop { reason, .. })) => {
                core.on_database(async |conn| {
                    Ok(park::refuse(conn, core.projector.name(), parked, &reason).await?)
                })
            }
            Err(error) => Err(error),
        }
    }
}

/// A request, in a transaction that moves nothing but needs the checkpoint to be ours.
fn release(
    core: &Core,
    claim: &Checkpoint,
    parked: ParkedKey<'_>,
    request: Request,
) -> Result<Outcome, SinkError> {
    let build = core.state().build.clone().ok_or(sqlx::Error::RowNotFound)?;
    core.on_database(async |conn| {
        let mut tx = conn.begin().await?;
        let lost = checkpoint::advance(&mut tx, &build.view, &[claim.stay()]).await?;
        if !lost.is_empty() {
            tx.rollback().await?;
            return Ok(Outcome::Lost(lost));
        }
        let applied = park::release(
            &*core.projector,
            &mut tx,
            &build,
            &core.decoder,
            parked,
            request,
        )
        .await?;
        tx.commit().await?;
        Ok(Outcome::Written(applied))
    })
}
