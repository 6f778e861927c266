//! The handler of one aggregate type: reads a command, hands it to the writer that owns its aggregate, waits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::aggregate::Aggregate;
use crate::command::writer::{Job, Writer};
use crate::command::{Accepted, CommandError, CommandSet, Envelope};
use crate::event::Event;
use crate::journal::Journal;
use crate::json;
use crate::registry::Registry;

/// Bounds of the write side.
#[derive(Debug, Clone, clap::Args)]
pub struct WriteConfig {
    /// Connections that append, for each aggregate type; aggregates are hashed to them.
    #[arg(long, env = "JOURNAL_WRITERS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub journal_writers: u8,
    /// Commands that may wait for each writer; one more is answered 503.
    #[arg(long, env = "COMMAND_QUEUE_MAX", default_value_t = 8192)]
    pub command_queue_max: usize,
    /// Most commands that share a transaction.
    #[arg(long, env = "COMMAND_BATCH_MAX", default_value_t = 1024)]
    pub command_batch_max: usize,
    /// Aggregates of each writer that stay in memory.
    #[arg(long, env = "AGGREGATE_CACHE_MAX", default_value_t = 20_000)]
    pub aggregate_cache_max: usize,
    /// Events after which an aggregate's state is stored.
    #[arg(long, env = "SNAPSHOT_EVENTS", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    pub snapshot_events: i64,
    /// Largest encoded event; the topic's own limit is about 1 MB.
    #[arg(long, env = "EVENT_BYTES_MAX", default_value_t = 900_000, value_parser = clap::value_parser!(u32).range(1..=950_000))]
    pub event_bytes_max: u32,
    /// How long a command waits for a journal that is away.
    #[arg(long, env = "COMMAND_TIMEOUT_MS", default_value_t = 5_000)]
    pub command_timeout_ms: u64,
}

impl Default for WriteConfig {
    fn default() -> Self {
        Self {
            journal_writers: 1,
            command_queue_max: 8192,
            command_batch_max: 1024,
            aggregate_cache_max: 20_000,
            snapshot_events: 100,
            event_bytes_max: 900_000,
            command_timeout_ms: 5_000,
        }
    }
}

/// What the writers of all aggregate types share.
#[derive(Clone)]
pub(crate) struct WriteSide {
    pub(crate) journal: Journal,
    pub(crate) registry: Registry,
    pub(crate) config: WriteConfig,
    /// Partitions of the event topics, for tokens.
    pub(crate) topic_partitions: i32,
    /// Wakes the relay of this process after an append.
    pub(crate) appended: Arc<Notify>,
}

/// Takes the commands of one aggregate type.
///
/// Aggregates are hashed to writers, each with a connection of its own whose statements never overlap; so
/// within a process the commands of one aggregate are decided one after another, on committed state.
pub struct CommandHandler<A: Aggregate> {
    writers: Vec<mpsc::Sender<Job<A::Command>>>,
    timeout: Duration,
}

impl<A: Aggregate> CommandHandler<A> {
    pub(crate) fn start(side: &WriteSide) -> Self {
        let writers = (0..side.config.journal_writers)
            .map(|_| {
                let (sender, queue) = mpsc::channel(side.config.command_queue_max.max(1));
                tokio::spawn(Writer::<A>::new(side.clone()).run(queue));
                sender
            })
            .collect();
        Self {
            writers,
            timeout: Duration::from_millis(side.config.command_timeout_ms),
        }
    }

    /// Decides a command and makes its events durable.
    pub async fn handle(&self, envelope: Envelope) -> Result<Accepted, CommandError> {
        envelope.check()?;
        let command = A::Command::from_json(&envelope.command_type, &envelope.data)?;
        let hash = data_hash::<A>(&envelope)?;
        let (answer, answered) = oneshot::channel();
        let mut hasher = DefaultHasher::new();
        envelope.aggregate_id.hash(&mut hasher);
        let writer = &self.writers[hasher.finish() as usize % self.writers.len()];
        let job = Job {
            envelope,
            command,
            hash,
            event_ids: Vec::new(),
            attempts: 0,
            doubt: None,
            deadline: Instant::now() + self.timeout,
            answer,
        };
        writer.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandError::Overloaded(format!(
                "too many commands wait for aggregate {}",
                A::Event::AGGREGATE
            )),
            mpsc::error::TrySendError::Closed(_) => {
                CommandError::Unavailable("the producer is shutting down".to_owned())
            }
        })?;
        answered.await.unwrap_or_else(|_| {
            Err(CommandError::InDoubt(
                "the writer stopped before it answered".to_owned(),
            ))
        })
    }
}

/// SHA-256 of type and canonical data, secrets left out; only needed where an outcome is kept.
fn data_hash<A: Aggregate>(envelope: &Envelope) -> Result<Vec<u8>, CommandError> {
    use crate::command::CommandId;
    let secrets = A::Command::secret_fields(&envelope.command_type);
    match envelope.id {
        CommandId::Made(_) if secrets.is_empty() => return Ok(Vec::new()),
        CommandId::Made(_) | CommandId::Derived(_) if !secrets.is_empty() => {
            return Err(CommandError::Malformed(format!(
                "{} holds a secret field ({}): give it an Idempotency-Key of your own",
                envelope.command_type,
                secrets.join(", ")
            )));
        }
        _ => {}
    }
    let data = serde_json::from_str(&envelope.data)
        .map_err(|error| CommandError::Malformed(format!("data is not JSON: {error}")))?;
    let mut hash = Sha256::new();
    hash.update(envelope.command_type.as_bytes());
    hash.update([0]);
    hash.update(json::canonical(&data, secrets).as_bytes());
    Ok(hash.finalize().to_vec())
}
