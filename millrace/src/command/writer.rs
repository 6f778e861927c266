//! A writer: one connection, one queue, one cache of states.
//!
//! Each round takes whatever queued up while the last commit was in flight and never waits for more. A
//! round that lost against another process goes on with the commands that lost, on reloaded state.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use sqlx::PgConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::command::handler::WriteSide;
use crate::command::round::Round;
use crate::command::{Accepted, CommandError, Envelope};
use crate::journal::load::{LoadError, Loaded};

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
    /// True after an append of it was sent and no answer came.
    pub(crate) in_doubt: bool,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<Accepted, CommandError>>,
}

impl<C> Job<C> {
    pub(crate) fn answer(self, result: Result<Accepted, CommandError>) {
        // A caller that went away has its outcome under the command's id.
        let _ = self.answer.send(result);
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
    connection: Option<PgConnection>,
}

impl<A: Aggregate> Writer<A> {
    pub(crate) fn new(side: WriteSide) -> Self {
        let size = NonZeroUsize::new(side.config.aggregate_cache_max).unwrap_or(NonZeroUsize::MIN);
        Self {
            side,
            cache: LruCache::new(size),
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
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return self.journal_away(jobs, &error.to_string()).await,
        };
        let mut round = Round::new(self, jobs);
        let result = round.run(&mut connection).await;
        let again = round.into_unanswered();
        match result {
            Ok(()) => {
                self.connection = Some(connection);
                give_up_on_losers(again)
            }
            Err(LoadError::Postgres(error)) if !is_about_data(&error) => {
                // The connection is dropped: what it still does is decided when the commands come again.
                self.journal_away(again, &error.to_string()).await
            }
            Err(error) => {
                self.connection = Some(connection);
                // One command that cannot be carried out must not stop its batch mates: each goes alone.
                self.singly(again, &error).await
            }
        }
    }

    /// Runs each command in a round of its own, so that only the one at fault fails.
    async fn singly(
        &mut self,
        jobs: Vec<Job<A::Command>>,
        error: &LoadError,
    ) -> Vec<Job<A::Command>> {
        if jobs.len() == 1 {
            // An outcome that another process kept under the same id is found on the next try.
            if is_duplicate(error) {
                return give_up_on_losers(jobs);
            }
            for job in jobs {
                job.answer(Err(CommandError::Fault(error.to_string())));
            }
            return Vec::new();
        }
        let mut again = Vec::new();
        for job in jobs {
            again.extend(Box::pin(self.round(vec![job])).await);
        }
        again
    }

    async fn connect(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.side.journal.writer().await,
        }
    }

    /// Keeps the commands whose time is not up, after a pause, so that a restart of Postgres passes unseen.
    async fn journal_away(
        &mut self,
        jobs: Vec<Job<A::Command>>,
        error: &str,
    ) -> Vec<Job<A::Command>> {
        tracing::warn!(error, waiting = jobs.len(), "the journal does not answer");
        let now = Instant::now();
        let mut again = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.deadline > now {
                again.push(job);
            } else if job.in_doubt {
                job.answer(Err(CommandError::InDoubt(format!("journal: {error}"))));
            } else {
                job.answer(Err(CommandError::Unavailable(format!("journal: {error}"))));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        again
    }
}

fn give_up_on_losers<C>(jobs: Vec<Job<C>>) -> Vec<Job<C>> {
    let (again, lost): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|job| job.attempts < ATTEMPTS_MAX);
    for job in lost {
        let reason = format!(
            "others wrote to {} first, {ATTEMPTS_MAX} times in a row",
            job.envelope.aggregate_id
        );
        job.answer(Err(CommandError::Overloaded(reason)));
    }
    again
}

/// True where Postgres answered, and the answer is about the values: another try says the same.
fn is_about_data(error: &sqlx::Error) -> bool {
    // Classes 22 data exception, 23 integrity constraint violation, 54 program limit exceeded.
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["22", "23", "54"]
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
