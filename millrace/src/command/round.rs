//! One round of a writer: look up, decide, append, confirm, answer.
//!
//! Invariants, and the schedules that would break them:
//! - A decision rests on committed state only. Loading and deciding come before the append, which is the first
//!   write of its transaction. (Broken by deciding on state whose append is still in flight: another process could
//!   publish sequence 2 before 1.)
//! - Only an accepted command is guarded by the compare-and-set. A rejection, a no-op or a conflict that was
//!   decided on cached state is answered only after `streams.version` confirmed that state. (Broken by a stale
//!   cache: another process reopened what this one believes closed, and the caller is refused what is allowed.)
//! - A command that may have been appended before, on a connection that broke, is looked for by the ids of its
//!   events before it is decided again, and is in doubt until it is answered. (Broken by a retry after a lost answer,
//!   or after a statement behind the append failed: it would happen twice.)
//! - Outcomes and lost appends are looked up after the states are loaded, so whatever a state contains is seen by the
//!   look-up too; what commits later fails the compare-and-set or the confirmation. (Broken by looking up first: another
//!   producer accepts the same command in between, and this one refuses it by its own effect.)

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fail::fail_point;
use sqlx::PgConnection;

use crate::aggregate::Aggregate;
use crate::command::decision::{Decision, Work, outcome_to_keep, repeat};
use crate::command::writer::{Job, Writer};
use crate::command::{Accepted, CommandError, CommandId, EventRef};
use crate::event::{Event, events_topic};
use crate::journal::append::{Append, Appended, Confirmation, append, confirm};
use crate::journal::load::{self, LoadError, Outcome, StoredEvent};
use crate::position::{JournalPosition, Token, partition_of};
use crate::telemetry::journal::Appending;
use crate::telemetry::trace;

/// Bytes of events after which a round takes no more commands: a statement has a limit of 1 GB, and memory too.
const ROUND_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(crate) struct Round<'w, A: Aggregate> {
    writer: &'w mut Writer<A>,
    jobs: Vec<Option<Job<A::Command>>>,
    decisions: Vec<Decision>,
    work: HashMap<String, Work<A>>,
}

impl<'w, A: Aggregate> Round<'w, A> {
    pub(crate) fn new(writer: &'w mut Writer<A>, jobs: Vec<Job<A::Command>>) -> Self {
        Self {
            writer,
            jobs: jobs.into_iter().map(Some).collect(),
            decisions: Vec::new(),
            work: HashMap::new(),
        }
    }

    /// What must come again, in order.
    pub(crate) fn into_unanswered(self) -> Vec<Job<A::Command>> {
        self.jobs.into_iter().flatten().collect()
    }

    pub(crate) async fn run(&mut self, connection: &mut PgConnection) -> Result<(), LoadError> {
        self.load(connection).await?;
        let outcomes = self.outcomes(connection).await?;
        let found = self.found(connection).await?;
        self.decide(outcomes, found);
        let appended = self.append(connection).await?;
        let standing = self.confirm(connection, &appended).await?;
        let stored = self.stored(connection).await?;
        self.answer(&appended, &standing, &stored);
        self.keep_states(&appended, connection).await;
        Ok(())
    }

    fn jobs(&self) -> impl Iterator<Item = &Job<A::Command>> {
        self.jobs.iter().flatten()
    }

    async fn outcomes(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashMap<(String, String), Outcome>, LoadError> {
        let keys: Vec<(&str, &str)> = self
            .jobs()
            .filter(|job| !matches!(job.envelope.id, CommandId::Made(_)))
            .map(|job| (job.envelope.aggregate_id.as_str(), job.envelope.id.as_str()))
            .collect();
        Ok(load::outcomes(connection, A::Event::AGGREGATE, &keys).await?)
    }

    /// Events of commands that are in doubt, by aggregate id.
    async fn found(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashMap<String, Vec<StoredEvent>>, LoadError> {
        let ranges: Vec<(&str, i64, i64)> = self
            .jobs()
            .filter_map(|job| Some((job.envelope.aggregate_id.as_str(), job.doubt?)))
            .fold(HashMap::<&str, i64>::new(), |mut first, (id, doubt)| {
                let above = first.entry(id).or_insert(doubt);
                *above = doubt.min(*above);
                first
            })
            .into_iter()
            .map(|(id, above)| (id, above + 1, i64::MAX))
            .collect();
        let mut found: HashMap<String, Vec<StoredEvent>> = HashMap::new();
        if !ranges.is_empty() {
            for event in load::ranges(connection, A::Event::AGGREGATE, &ranges).await? {
                found
                    .entry(event.aggregate_id.clone())
                    .or_default()
                    .push(event);
            }
        }
        Ok(found)
    }

    /// Takes the states out of the cache; what fails from here on is loaded anew by the next round.
    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), LoadError> {
        let mut missing = HashSet::new();
        for job in self.jobs.iter().flatten() {
            let id = &job.envelope.aggregate_id;
            if self.work.contains_key(id) || missing.contains(id.as_str()) {
                continue;
            }
            match self.writer.cache.pop(id) {
                Some(loaded) => {
                    self.work.insert(id.clone(), Work::new(id, loaded));
                }
                None => {
                    missing.insert(id.as_str());
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<&str> = missing.into_iter().collect();
        let codec = self.writer.side.registry.codec();
        let loaded =
            load::aggregates::<A>(connection, codec, A::Event::AGGREGATE, &missing).await?;
        for (id, loaded) in loaded {
            let work = Work::new(&id, loaded);
            self.work.insert(id, work);
        }
        Ok(())
    }

    fn decide(
        &mut self,
        outcomes: HashMap<(String, String), Outcome>,
        found: HashMap<String, Vec<StoredEvent>>,
    ) {
        let mut seen: HashSet<(String, String)> = HashSet::new();
        let mut broken: HashSet<String> = HashSet::new();
        let mut staged_bytes = 0;
        let side = self.writer.side.clone();
        for job in self.jobs.iter_mut().flatten() {
            let id = job.envelope.aggregate_id.clone();
            let key = (id.clone(), job.envelope.id.as_str().to_owned());
            let ours = |event: &&StoredEvent| job.event_ids.contains(&event.event_id);
            let before: Vec<StoredEvent> = found
                .get(&id)
                .filter(|_| job.doubt.is_some())
                .map(|events| events.iter().filter(ours).cloned().collect())
                .unwrap_or_default();
            let decision = if !before.is_empty() {
                Decision::Found(before)
            } else if let Some(outcome) = outcomes.get(&key) {
                repeat::<A>(job, outcome)
            } else if staged_bytes > ROUND_BYTES_MAX {
                Decision::Later
            } else if broken.contains(&id) || !seen.insert(key) {
                Decision::Again
            } else {
                let work = self
                    .work
                    .get_mut(&id)
                    .expect("every job's aggregate was loaded");
                let event_bytes_max = side.config.event_bytes_max as usize;
                // A fault in one aggregate's code must not end the writer of all of them.
                let decided = catch_unwind(AssertUnwindSafe(|| {
                    work.decide(job, side.registry.codec(), event_bytes_max)
                }));
                staged_bytes += work.staged_bytes();
                decided.unwrap_or_else(|_| {
                    broken.insert(id);
                    Decision::panicked(&job.envelope)
                })
            };
            self.decisions.push(decision);
        }
        self.forget_broken(&broken);
    }

    /// What was decided on a state that a panic may have left half changed is decided again.
    fn forget_broken(&mut self, broken: &HashSet<String>) {
        for id in broken {
            self.work.remove(id);
        }
        for (job, decision) in self.jobs.iter().flatten().zip(&mut self.decisions) {
            let rests_on_state = matches!(
                decision,
                Decision::Accept { .. }
                    | Decision::NoOp { .. }
                    | Decision::Refuse {
                        version: Some(_),
                        ..
                    }
            );
            if rests_on_state && broken.contains(&job.envelope.aggregate_id) {
                *decision = Decision::Again;
            }
        }
    }

    async fn append(&mut self, connection: &mut PgConnection) -> Result<Appended, LoadError> {
        let appends: Vec<Append> = self
            .work
            .values_mut()
            .filter(|work| !work.append.events.is_empty())
            .map(|work| std::mem::take(&mut work.append))
            .collect();
        if appends.is_empty() {
            return Ok(Appended::new());
        }
        fail_point!("journal.before-append");
        let doubts: Vec<Option<i64>> = self.jobs().map(|job| job.doubt).collect();
        for (job, decision) in self.jobs.iter_mut().flatten().zip(&self.decisions) {
            if let Decision::Accept { events, .. } = decision {
                let below = events.first().map_or(0, |event| event.sequence - 1);
                job.doubt = Some(job.doubt.unwrap_or(below).min(below));
            }
        }
        let appending = self.appending(&appends);
        let appended = append(connection, A::Event::AGGREGATE, &appends).await?;
        self.writer.observed.end(appending);
        fail_point!("journal.after-append");
        self.writer.side.appended.notify_one();
        let mut conflicts = 0;
        for work in appends {
            let lost = !appended.contains_key(&work.aggregate_id);
            if !lost {
                continue;
            }
            self.work.remove(&work.aggregate_id);
            let decided = self.jobs.iter_mut().flatten().zip(&mut self.decisions);
            for ((job, decision), doubt) in decided.zip(&doubts) {
                if job.envelope.aggregate_id == work.aggregate_id
                    && !matches!(decision, Decision::Repeat(_) | Decision::Found(_))
                {
                    // The answer settles this append, but not an earlier one whose answer was lost.
                    job.doubt = *doubt;
                    *decision = Decision::Again;
                    conflicts += 1;
                }
            }
        }
        self.writer.observed.conflicts(conflicts);
        Ok(appended)
    }

    /// What the metrics and traces say of an append.
    fn appending(&self, appends: &[Append]) -> Appending {
        let events = appends.iter().map(|one| one.events.len()).sum();
        let accepted = self
            .jobs()
            .zip(&self.decisions)
            .filter_map(|(job, decision)| {
                matches!(decision, Decision::Accept { .. })
                    .then_some(job.envelope.traceparent.as_deref())
            });
        let spans = trace::appending(accepted);
        self.writer.observed.begin(events, spans)
    }

    /// Which of the answers that wrote no event still stand, by index of the job.
    async fn confirm(
        &mut self,
        connection: &mut PgConnection,
        appended: &Appended,
    ) -> Result<HashSet<usize>, LoadError> {
        let mut indexes = Vec::new();
        let mut confirmations = Vec::new();
        for (index, (job, decision)) in self.jobs().zip(&self.decisions).enumerate() {
            let (version, rejection) = match decision {
                Decision::NoOp { version } => (Some(*version), None),
                Decision::Refuse { version, error } => (*version, Some(error)),
                _ => continue,
            };
            let id = &job.envelope.aggregate_id;
            let proven = appended.contains_key(id);
            indexes.push(index);
            confirmations.push(Confirmation {
                aggregate_id: id.clone(),
                version: version.filter(|_| !proven),
                outcome: outcome_to_keep(job, version.unwrap_or_default(), rejection),
            });
        }
        if confirmations.is_empty() {
            return Ok(HashSet::new());
        }
        let standing = confirm(connection, A::Event::AGGREGATE, &confirmations).await?;
        fail_point!("journal.after-confirm");
        let stale = standing.iter().filter(|stands| !**stands).count();
        self.writer.observed.conflicts(stale);
        Ok(indexes
            .into_iter()
            .zip(standing)
            .filter_map(|(index, stands)| stands.then_some(index))
            .collect())
    }

    /// The stored events that repeats and no-ops answer with, by aggregate and sequence.
    async fn stored(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashMap<(String, i64), StoredEvent>, LoadError> {
        let ranges: Vec<(&str, i64, i64)> = self
            .jobs()
            .zip(&self.decisions)
            .filter_map(|(job, decision)| {
                let id = job.envelope.aggregate_id.as_str();
                match decision {
                    Decision::Repeat(outcome) if outcome.rejection.is_none() => {
                        let events = i64::from(outcome.events.max(1));
                        Some((id, outcome.version - events + 1, outcome.version))
                    }
                    Decision::NoOp { version } => Some((id, *version, *version)),
                    _ => None,
                }
            })
            .collect();
        if ranges.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(load::ranges(connection, A::Event::AGGREGATE, &ranges)
            .await?
            .into_iter()
            .map(|event| ((event.aggregate_id.clone(), event.sequence), event))
            .collect())
    }

    fn answer(
        &mut self,
        appended: &Appended,
        standing: &HashSet<usize>,
        stored: &HashMap<(String, i64), StoredEvent>,
    ) {
        let partitions = self.writer.side.topic_partitions;
        let decisions = std::mem::take(&mut self.decisions);
        for (index, (slot, decision)) in self.jobs.iter_mut().zip(decisions).enumerate() {
            let id = match slot {
                Some(job) => job.envelope.aggregate_id.clone(),
                None => continue,
            };
            let at = |sequence: i64| stored.get(&(id.clone(), sequence));
            let accepted =
                |version, events, position: Option<JournalPosition>, repeated| Accepted {
                    aggregate: A::Event::AGGREGATE,
                    id: id.clone(),
                    version,
                    events,
                    token: position.map(|position| token::<A>(&id, partitions, position)),
                    repeated,
                };
            let result = match decision {
                Decision::Accept { events, last } => {
                    let version = events.last().map_or(0, |event| event.sequence);
                    let position = appended.get(&id).and_then(|all| all.get(last).copied());
                    Some(Ok(accepted(version, events, position, false)))
                }
                Decision::NoOp { version } if standing.contains(&index) => {
                    let position = at(version).map(StoredEvent::position);
                    Some(Ok(accepted(version, Vec::new(), position, false)))
                }
                Decision::Refuse { error, .. } if standing.contains(&index) => Some(Err(error)),
                Decision::Repeat(outcome) => Some(match outcome.rejection {
                    Some(reason) => Err(CommandError::Rejected {
                        reason,
                        version: outcome.version,
                        repeated: true,
                    }),
                    None => {
                        let first = outcome.version - i64::from(outcome.events) + 1;
                        let events = (first..=outcome.version).filter_map(at).map(reference);
                        let position = at(outcome.version).map(StoredEvent::position);
                        Ok(accepted(outcome.version, events.collect(), position, true))
                    }
                }),
                Decision::Found(events) => events.last().map(|last| {
                    let references = events.iter().map(reference).collect();
                    Ok(accepted(
                        last.sequence,
                        references,
                        Some(last.position()),
                        false,
                    ))
                }),
                Decision::Later => continue,
                Decision::NoOp { .. } | Decision::Refuse { .. } | Decision::Again => None,
            };
            match (result, slot.take()) {
                (Some(result), Some(job)) => job.answer(result),
                (None, Some(mut job)) => {
                    job.attempts += 1;
                    // What this state refused, newer state may allow.
                    self.work.remove(&id);
                    *slot = Some(job);
                }
                (_, None) => {}
            }
        }
    }

    /// Returns proven states to the cache and stores the snapshots that are due.
    async fn keep_states(&mut self, appended: &Appended, connection: &mut PgConnection) {
        let every = self.writer.side.config.snapshot_events;
        let mut due = Vec::new();
        for (id, mut work) in self.work.drain() {
            let version = work.loaded.version;
            if appended.contains_key(&id)
                && version - work.loaded.snapshot >= every
                && let Ok(state) = serde_json::to_value(&work.loaded.state)
            {
                due.push((id.clone(), version, state.to_string()));
            }
            self.writer.cache.put(id, std::mem::take(&mut work.loaded));
        }
        if due.is_empty() {
            return;
        }
        // A snapshot only saves time: without it the next load reads more events.
        let saved = load::save_snapshots(connection, A::Event::AGGREGATE, A::SHAPE, &due).await;
        fail_point!("journal.after-snapshot");
        if let Err(error) = saved {
            tracing::warn!(%error, aggregate = A::Event::AGGREGATE, "snapshots were not stored");
            return;
        }
        for (id, version, _) in due {
            if let Some(loaded) = self.writer.cache.peek_mut(&id) {
                loaded.snapshot = version;
            }
        }
    }
}

fn reference(event: &StoredEvent) -> EventRef {
    EventRef {
        id: event.event_id,
        event_type: event.event_type.clone(),
        sequence: event.sequence,
    }
}

fn token<A: Aggregate>(id: &str, partitions: i32, position: JournalPosition) -> Token {
    Token {
        topic: events_topic(A::Event::AGGREGATE),
        partition: partition_of(id, partitions),
        position,
    }
}
