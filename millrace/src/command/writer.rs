//! A writer: one connection, one queue, one cache of states.
//!
//! Each round takes whatever queued up while the last commit was in flight and never waits for more. A
//! round that lost against another process goes on with the commands that lost, on reloaded state.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::command::handler::WriteSide;
use crate::command::round::Round;
use crate::command::{Accepted, CommandError, Envelope};
use crate::event::Event;
use crate::journal::load::{LoadError, Loaded};
use crate::telemetry::journal::Observed;

/// Longest that a round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(15);

/// Tries after which a command that keeps losing is answered 503.
const ATTEMPTS_MAX: u32 = 16;

/// A command that waits for its answer.
pub(crate) struct Job<C> {
    pub(crate) envelope: Envelope,
    pub(crate) command: C,
    pub(crate) hash: Vec<u8>,
    /// Given to its events on every try, so that an append whose answer was lost can be recognised.
    pub(crate) event_ids: Vec<Uuid>,
    pub(crate) attempts: u32,
    /// After an append of it was sent and no answer came: its events, if they were written, stand above this version.
    pub(crate) doubt: Option<i64>,
    /// When it is given up; none for one that waits as long as it takes.
    pub(crate) deadline: Option<Instant>,
    pub(crate) answer: oneshot::Sender<Result<Accepted, CommandError>>,
    /// Its share of the queue's bytes, given back when it is answered.
    pub(crate) _room: OwnedSemaphorePermit,
}

impl<C> Job<C> {
    pub(crate) fn answer(self, result: Result<Accepted, CommandError>) {
        // A caller that went away has its outcome under the command's id.
        let _ = self.answer.send(result);
    }

    /// Answers with a failure, which is never called certain where the command may have been written.
    pub(crate) fn fail(self, error: CommandError) {
        let error = match self.doubt {
            Some(_) => CommandError::InDoubt(error.to_string()),
            None => error,
        };
        self.answer(Err(error));
    }

    /// The id of its n-th event.
    pub(crate) fn event_id(&mut self, index: usize) -> Uuid {
        while self.event_ids.len() <= index {
            self.event_ids.push(Uuid::now_v7());
        }
        self.event_ids[index]
    }
}

pub(crate) struct Writer<A: Aggregate> {
    pub(crate) side: WriteSide,
    pub(crate) cache: LruCache<String, Loaded<A>>,
    pub(crate) observed: Observed,
    connection: Option<PgConnection>,
}

impl<A: Aggregate> Writer<A> {
    pub(crate) fn new(side: WriteSide) -> Self {
        let size = NonZeroUsize::new(side.config.aggregate_cache_max).unwrap_or(NonZeroUsize::MIN);
        Self {
            side,
            cache: LruCache::new(size),
            observed: Observed::of(A::Event::AGGREGATE),
            connection: None,
        }
    }

    /// Runs until every sender is gone and the queue is empty.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Job<A::Command>>) {
        let max = self.side.config.command_batch_max.max(1);
        let mut jobs: Vec<Job<A::Command>> = Vec::new();
        loop {
            if jobs.is_empty() {
                if queue.recv_many(&mut jobs, max).await == 0 {
                    return;
                }
            } else {
                while jobs.len() < max
                    && let Ok(job) = queue.try_recv()
                {
                    jobs.push(job);
                }
            }
            jobs = self.round(jobs).await;
        }
    }

    /// One round; returns the commands that must be tried again, in order.
    async fn round(&mut self, jobs: Vec<Job<A::Command>>) -> Vec<Job<A::Command>> {
        match self.attempt(jobs).await {
            (again, None) => give_up_on_losers(again),
            (again, Some(Trouble::Away(error))) => self.journal_away(again, &error).await,
            (again, Some(Trouble::OneOfThem(error))) => self.singly(again, &error).await,
        }
    }

    /// Runs a round once; returns what is not answered and what went wrong.
    async fn attempt(
        &mut self,
        jobs: Vec<Job<A::Command>>,
    ) -> (Vec<Job<A::Command>>, Option<Trouble>) {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return (jobs, Some(Trouble::Away(error.to_string()))),
        };
        let mut round = Round::new(self, jobs);
        // A host that is lost sends no reset: without a limit of our own the writer would wait for ever.
        let result = tokio::time::timeout(ROUND_TIMEOUT, round.run(&mut connection)).await;
        let again = round.into_unanswered();
        let error = match result {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                return (again, None);
            }
            Ok(Err(error)) => error,
            // The connection is dropped: what it still does is decided when the commands come again.
            Err(_) => return (again, Some(Trouble::Away("no answer in time".to_owned()))),
        };
        match error {
            LoadError::Postgres(error) if !is_about_data(&error) => {
                (again, Some(Trouble::Away(error.to_string())))
            }
            error => {
                self.connection = Some(connection);
                if let Some(schema_id) = error.unknown_schema() {
                    return match self.side.registry.learn(schema_id).await {
                        Ok(()) => (again, None),
                        Err(away) if away.is_transient() => {
                            (again, Some(Trouble::Away(away.to_string())))
                        }
                        Err(_) => (again, Some(Trouble::OneOfThem(error))),
                    };
                }
                (again, Some(Trouble::OneOfThem(error)))
            }
        }
    }

    /// One command that cannot be carried out must not stop its batch mates: each goes alone, once.
    async fn singly(
        &mut self,
        jobs: Vec<Job<A::Command>>,
        error: &LoadError,
    ) -> Vec<Job<A::Command>> {
        if jobs.len() == 1 {
            return settle_alone(jobs, error);
        }
        let mut again = Vec::new();
        let mut rest = jobs.into_iter();
        while let Some(job) = rest.next() {
            // One that follows another to the same aggregate must not overtake it.
            let follows =
                |one: &Job<A::Command>| one.envelope.aggregate_id == job.envelope.aggregate_id;
            if again.iter().any(follows) {
                again.push(job);
                continue;
            }
            match self.attempt(vec![job]).await {
                (unanswered, None) => again.extend(give_up_on_losers(unanswered)),
                (unanswered, Some(Trouble::OneOfThem(error))) => {
                    again.extend(settle_alone(unanswered, &error));
                }
                (unanswered, Some(Trouble::Away(error))) => {
                    again.extend(unanswered);
                    again.extend(rest);
                    return self.journal_away(again, &error).await;
                }
            }
        }
        again
    }

    /// A new connection may lead to a server that knows less than the last one, so nothing cached is believed.
    async fn connect(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                self.cache.clear();
                self.side.journal.writer().await
            }
        }
    }

    /// Keeps the commands whose time is not up, after a pause, so that a restart of Postgres passes unseen.
    async fn journal_away(
        &mut self,
        jobs: Vec<Job<A::Command>>,
        error: &str,
    ) -> Vec<Job<A::Command>> {
        tracing::warn!(error, waiting = jobs.len(), "commands wait for the journal");
        let now = Instant::now();
        let (again, late): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| job.deadline.is_none_or(|deadline| deadline > now));
        for job in late {
            job.fail(CommandError::Unavailable(format!("journal: {error}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        again
    }
}

/// Why a round did not end.
enum Trouble {
    /// A server does not answer: nobody's fault, all try again.
    Away(String),
    /// One of the commands cannot be carried out, which one is not known.
    OneOfThem(LoadError),
}

/// What becomes of a command that failed in a round of its own.
fn settle_alone<C>(jobs: Vec<Job<C>>, error: &LoadError) -> Vec<Job<C>> {
    let mut again = Vec::new();
    for mut job in jobs {
        // An outcome that another process kept under the same id is found on the next try.
        if is_duplicate(error) && job.attempts < ATTEMPTS_MAX {
            job.attempts += 1;
            again.push(job);
        } else {
            job.fail(CommandError::Fault(error.to_string()));
        }
    }
    again
}

fn give_up_on_losers<C>(jobs: Vec<Job<C>>) -> Vec<Job<C>> {
    let (again, lost): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|job| job.attempts < ATTEMPTS_MAX || job.deadline.is_none());
    for job in lost {
        let reason = format!(
            "others wrote to {} first, {ATTEMPTS_MAX} times in a row",
            job.envelope.aggregate_id
        );
        job.fail(CommandError::Overloaded(reason));
    }
    again
}

/// True where Postgres answered, and the answer is about the values: another try says the same.
fn is_about_data(error: &sqlx::Error) -> bool {
    // Classes 22 data exception, 23 integrity constraint violation, 54 program limit exceeded; 57014 is a statement that
    // took too long, which one aggregate with a long history can do to all.
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["22", "23", "54", "57014"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

fn is_duplicate(error: &LoadError) -> bool {
    matches!(error, LoadError::Postgres(sqlx::Error::Database(error)) if error.is_unique_violation())
}
