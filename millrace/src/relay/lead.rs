//! The relay's thread: from standing by to publishing, and back after every error.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{JournalConfig, KafkaConfig};
use crate::event::events_topic;
use crate::lease::{self, Attempt};
use crate::log::topics::{self, Kind, Topic};
use crate::position::JournalPosition;
use crate::relay::feed::Feed;
use crate::relay::gate::GateRule;
use crate::relay::position::{self, PositionRecord};
use crate::relay::publish::Publisher;
use crate::relay::read::{self, Batch, Reader};
use crate::relay::seat::{self, JournalIdentity};
use crate::relay::status::Rate;
use crate::relay::tenure::{self, Tenure};
use crate::relay::{RelayConfig, RelayError, RelayRole, RelayStatus};
use crate::telemetry::{self, trace};

/// Pause between two tries to get the lease.
const STANDBY_PAUSE: Duration = Duration::from_millis(400);
/// Longest pause after an error.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often an idle publisher serves its client.
const IDLE_TICK: Duration = Duration::from_millis(200);

/// Everything that the relay's thread works with.
pub(super) struct Leader {
    pub(super) config: RelayConfig,
    pub(super) kafka: KafkaConfig,
    pub(super) journal: JournalConfig,
    pub(super) status: Arc<watch::Sender<RelayStatus>>,
    pub(super) wake: Arc<Notify>,
    pub(super) shutdown: CancellationToken,
    pub(super) runtime: tokio::runtime::Handle,
}

/// What a term starts from.
struct Seat {
    publisher: Publisher,
    reader: Reader,
    identity: JournalIdentity,
    position: Option<PositionRecord>,
    topics: HashSet<String>,
}

impl Leader {
    /// Leads or stands by until shutdown, or until it must stop.
    pub(super) fn lead(self) -> Result<(), RelayError> {
        let mut held: Option<Tenure> = None;
        let mut pause = Duration::from_millis(50);
        let mut read_timed_out = false;
        let result = loop {
            if self.shutdown.is_cancelled() {
                break Ok(());
            }
            let published = self.status.borrow().published;
            match self.term(&mut held, read_timed_out) {
                Ok(()) => break Ok(()),
                Err(error) if error.stops() => break Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the relay starts over");
                    self.status
                        .send_modify(|status| status.error = Some(error.to_string()));
                    read_timed_out = matches!(error, RelayError::PostgresTimeout(_));
                    if self.status.borrow().published > published {
                        pause = Duration::from_millis(50);
                    }
                    match held.take_if(|tenure| tenure.is_exhausted()) {
                        Some(tenure) => self.give_up(tenure),
                        None => self.sleep(pause),
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        };
        if let Some(tenure) = held {
            self.release(tenure);
        }
        result
    }

    /// Frees the lease and leaves it to others for a while.
    fn give_up(&self, tenure: Tenure) {
        tracing::warn!("the relay gets nowhere, it frees the lease for another to try");
        self.release(tenure);
        self.status
            .send_modify(|status| status.role = RelayRole::StandingBy);
        self.sleep(tenure::pause_after_giving_up(STANDBY_PAUSE));
    }

    fn release(&self, tenure: Tenure) {
        if let Err(error) = self.runtime.block_on(tenure.end().release()) {
            tracing::warn!(%error, "the lease was not released, it expires by itself");
        }
    }

    /// One term: lease, producer, position, then batches. Ends well only at shutdown.
    fn term(&self, held: &mut Option<Tenure>, read_timed_out: bool) -> Result<(), RelayError> {
        // Whatever ended the last term: a producer is built only by who holds the lease, because building it
        // fences the present leader.
        if held.as_ref().is_some_and(|tenure| !tenure.lease.is_held()) {
            *held = None;
        }
        let tenure = match held {
            Some(tenure) => tenure,
            None => match self.stand_by()? {
                Some(tenure) => held.insert(tenure),
                None => return Ok(()),
            },
        };
        crash_point!("relay.after-lease");
        let mut seat = self.take_seat(tenure)?;
        if read_timed_out {
            seat.reader = seat.reader.careful();
        }
        self.publish(seat, tenure)
    }

    /// Asks for the lease until it is held; nothing at shutdown.
    fn stand_by(&self) -> Result<Option<Tenure>, RelayError> {
        let options = read::session(self.journal.database_url.expose(), "millrace-relay-lease")?;
        let spec = self.config.lease();
        while !self.shutdown.is_cancelled() {
            match self.runtime.block_on(lease::try_acquire(&options, &spec))? {
                Attempt::Held(lease) => {
                    tracing::info!(epoch = lease.epoch(), "the relay holds the lease");
                    let _runtime = self.runtime.enter();
                    return Ok(Some(Tenure::begin(lease, spec.ttl)));
                }
                Attempt::Taken(holder) => {
                    self.status.send_modify(|status| {
                        status.role = RelayRole::StandingBy;
                        status.leader = Some(holder.info);
                        status.error = None;
                    });
                    self.sleep(STANDBY_PAUSE);
                }
            }
        }
        Ok(None)
    }

    /// Fences the predecessor, reads what it published, and checks that against the journal.
    fn take_seat(&self, tenure: &Tenure) -> Result<Seat, RelayError> {
        let mut connection = self
            .runtime
            .block_on(read::connect(self.journal.database_url.expose()))?;
        tenure.step();
        let topics = self.topics(&mut connection)?;
        let wanted: Vec<Topic> = topics.iter().map(|name| self.topic(name)).collect();
        self.runtime
            .block_on(topics::ensure(&self.kafka, &wanted))?;
        tenure.step();
        if !tenure.lease.is_held() {
            return Err(RelayError::LeaseLost);
        }
        let publisher = Publisher::start(&self.kafka, self.config.publisher())?;
        crash_point!("relay.after-init");
        tenure.step();
        let position = position::read_latest(&self.kafka, &self.config.relay_position_topic)?;
        if position.is_none() {
            self.refuse_published_events(&topics)?;
        }
        tenure.step();
        let verified = seat::verify(&mut connection, position.as_ref());
        let identity = self.runtime.block_on(read::answer(verified))?;
        let cursor = position
            .as_ref()
            .map(PositionRecord::cursor)
            .unwrap_or_default();
        let reader = Reader::new(connection, cursor, self.config.limits(), gate_rule());
        Ok(Seat {
            publisher,
            reader,
            identity,
            position,
            topics: topics.into_iter().collect(),
        })
    }

    /// The position topic and one topic for each aggregate type of the journal.
    fn topics(&self, connection: &mut PgConnection) -> Result<Vec<String>, RelayError> {
        let types = self
            .runtime
            .block_on(read::answer(seat::aggregate_types(connection)))?;
        let events = types.iter().map(|aggregate| events_topic(aggregate));
        Ok(std::iter::once(self.config.relay_position_topic.clone())
            .chain(events)
            .collect())
    }

    fn topic(&self, name: &str) -> Topic {
        let kind = if name == self.config.relay_position_topic {
            Kind::Position
        } else {
            Kind::Events
        };
        Topic {
            name: name.to_owned(),
            kind,
        }
    }

    /// No position is a start only if nothing was ever published.
    fn refuse_published_events(&self, topics: &[String]) -> Result<(), RelayError> {
        let events: Vec<String> = topics
            .iter()
            .filter(|name| **name != self.config.relay_position_topic)
            .cloned()
            .collect();
        match position::first_not_empty(&self.kafka, &events)? {
            Some(events_topic) => Err(RelayError::PositionMissing {
                topic: self.config.relay_position_topic.clone(),
                events_topic,
            }),
            None => Ok(()),
        }
    }

    /// Publishes batch by batch until shutdown or an error.
    fn publish(&self, seat: Seat, tenure: &Tenure) -> Result<(), RelayError> {
        let Seat {
            mut publisher,
            reader,
            identity,
            position,
            mut topics,
        } = seat;
        self.status.send_modify(|status| {
            status.role = RelayRole::Active;
            status.leader = None;
            status.error = None;
            status.position = position.as_ref().map(PositionRecord::cursor);
        });
        let (batches, mut incoming) = mpsc::channel(1);
        let published = Arc::new(Notify::new());
        let feed = Feed {
            reader,
            batches,
            published: Arc::clone(&published),
            wake: Arc::clone(&self.wake),
            status: Arc::clone(&self.status),
            pause_min: Duration::from_millis(self.config.relay_poll_min_ms),
            pause_max: Duration::from_millis(self.config.relay_poll_max_ms),
        };
        // Ends by itself when `incoming` is dropped.
        self.runtime.spawn(feed.run());
        let ttl = self.config.lease().ttl;
        let mut rate = Rate::start();
        let mut idle_since: Option<Instant> = None;
        loop {
            tenure.step();
            let batch = match self.runtime.block_on(self.next(&mut incoming, tenure)) {
                Next::Batch(batch) => batch?,
                Next::Idle => {
                    publisher.idle()?;
                    self.count(&mut rate, 0);
                    if idle_since.get_or_insert_with(Instant::now).elapsed() >= ttl {
                        tenure.progress();
                    }
                    continue;
                }
                Next::LeaseLost => return Err(RelayError::LeaseLost),
                Next::Shutdown => return Ok(()),
            };
            idle_since = None;
            self.ensure_topics(&mut topics, &batch)?;
            tenure.step();
            let record = record(&identity, &batch);
            let (started, spans) = (Instant::now(), trace::publishing(&batch.events));
            publisher.stage(&batch.events, &record)?;
            // The last look before the commit. A successor cannot have been seated before the lease ran out, and
            // one that was seated since has fenced this commit.
            if !tenure.lease.is_held() {
                return Err(RelayError::LeaseLost);
            }
            publisher.commit(&record)?;
            drop(spans);
            telemetry::relay::published(batch.events.len(), started);
            tenure.progress();
            published.notify_one();
            self.note(record.cursor(), batch.events.len() as u64);
            self.count(&mut rate, batch.events.len() as u64);
        }
    }

    async fn next(
        &self,
        incoming: &mut mpsc::Receiver<Result<Batch, RelayError>>,
        tenure: &Tenure,
    ) -> Next {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Next::Shutdown,
            () = tenure.lease.lost() => Next::LeaseLost,
            batch = incoming.recv() => match batch {
                Some(batch) => Next::Batch(batch),
                None => Next::Batch(Err(RelayError::Thread("the reader ended without a word".to_owned()))),
            },
            () = tokio::time::sleep(IDLE_TICK) => Next::Idle,
        }
    }

    /// A type that came into the journal since the term began gets its topic before its first event.
    fn ensure_topics(&self, known: &mut HashSet<String>, batch: &Batch) -> Result<(), RelayError> {
        let mut last = "";
        for event in &batch.events {
            let topic = event.kind.topic.as_str();
            if topic != last && !known.contains(topic) {
                self.runtime
                    .block_on(topics::ensure(&self.kafka, &[self.topic(topic)]))?;
                known.insert(topic.to_owned());
            }
            last = topic;
        }
        Ok(())
    }

    fn note(&self, position: JournalPosition, events: u64) {
        self.status.send_modify(|status| {
            status.position = Some(position);
            status.published += events;
            status.published_at = Some(Utc::now());
        });
    }

    fn count(&self, rate: &mut Rate, events: u64) {
        if let Some(rate) = rate.count(events) {
            self.status.send_modify(|status| status.events_per_s = rate);
        }
    }

    /// Sleeps, but not beyond shutdown.
    fn sleep(&self, pause: Duration) {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        });
    }
}

enum Next {
    Batch(Result<Batch, RelayError>),
    Idle,
    LeaseLost,
    Shutdown,
}

/// The position after a batch.
pub(super) fn record(identity: &JournalIdentity, batch: &Batch) -> PositionRecord {
    let last = batch
        .events
        .last()
        .expect("a batch that is handed over is not empty");
    PositionRecord {
        journal: identity.journal,
        generation: last.position.generation,
        xid: last.position.xid,
        position: last.position.position,
        event_id: last.event_id,
        system: identity.system.clone(),
        timeline: batch.gate.timeline,
        wal_bytes: batch.gate.wal_bytes,
    }
}

/// For the crash test, which must be able to fail: no gate at all.
fn gate_rule() -> GateRule {
    fail::fail_point!("sabotage.relay.gate", |_| GateRule::None);
    GateRule::JournalWriters
}
