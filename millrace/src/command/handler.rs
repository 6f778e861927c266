//! The handler of one aggregate type: reads a command, hands it to the writer that owns its aggregate, waits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::aggregate::Aggregate;
use crate::codec::Codec;
use crate::command::writer::{Job, Writer};
use crate::command::{Accepted, CommandData, CommandError, CommandId, CommandSet, Envelope};
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
    /// Bytes of commands that may wait for each writer; one more is answered 503.
    #[arg(long, env = "COMMAND_QUEUE_BYTES_MAX", default_value_t = 67_108_864, value_parser = clap::value_parser!(u32).range(1..=1_073_741_824))]
    pub command_queue_bytes_max: u32,
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
            command_queue_bytes_max: 67_108_864,
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
    writers: Vec<Queue<A::Command>>,
    codec: Codec,
    timeout: Duration,
}

/// What waits for one writer, bounded in number by the channel and in bytes by the room.
struct Queue<C> {
    sender: mpsc::Sender<Job<C>>,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// The answer to a command, once there is one; dropped without one where the writer stopped.
pub type Pending = Pin<Box<dyn Future<Output = Answered> + Send>>;
type Answered = Result<Result<Accepted, CommandError>, RecvError>;
type Queued = oneshot::Receiver<Result<Accepted, CommandError>>;

impl<A: Aggregate> CommandHandler<A> {
    pub(crate) fn start(side: &WriteSide) -> Self {
        let writers = (0..side.config.journal_writers)
            .map(|_| {
                let (sender, queue) = mpsc::channel(side.config.command_queue_max.max(1));
                tokio::spawn(Writer::<A>::new(side.clone()).run(queue));
                let room_bytes = side.config.command_queue_bytes_max;
                Queue {
                    sender,
                    room: Arc::new(Semaphore::new(room_bytes as usize)),
                    room_bytes,
                }
            })
            .collect();
        Self {
            writers,
            codec: side.registry.codec().clone(),
            timeout: Duration::from_millis(side.config.command_timeout_ms),
        }
    }

    /// Decides a command and makes its events durable.
    pub async fn handle(&self, envelope: Envelope) -> Result<Accepted, CommandError> {
        let answered = self.queue(envelope, Some(Instant::now() + self.timeout))?;
        answered.await.unwrap_or_else(|_| {
            Err(CommandError::InDoubt(
                "the writer stopped before it answered".to_owned(),
            ))
        })
    }

    /// Queues a command that waits for the journal as long as it takes, and however often others write first.
    ///
    /// Commands to one aggregate are decided in the order in which they are queued: none of them gives up, so none is
    /// overtaken. (Broken by a deadline: the journal is away, the first fails, the second is still in time and accepted,
    /// and the first comes again.) `Overloaded` is the only error that waiting helps against.
    pub(crate) fn submit(&self, envelope: Envelope) -> Result<Queued, CommandError> {
        self.queue(envelope, None)
    }

    fn queue(&self, envelope: Envelope, deadline: Option<Instant>) -> Result<Queued, CommandError> {
        envelope.check()?;
        let mut hasher = DefaultHasher::new();
        envelope.aggregate_id.hash(&mut hasher);
        let writer = &self.writers[hasher.finish() as usize % self.writers.len()];
        let full = |of: &str| {
            CommandError::Overloaded(format!(
                "too many {of} wait for aggregate {}",
                A::Event::AGGREGATE
            ))
        };
        // A command that is larger than the room takes all of it.
        let bytes = u32::try_from(envelope.data.bytes()).unwrap_or(u32::MAX);
        let room = Arc::clone(&writer.room)
            .try_acquire_many_owned(bytes.clamp(1, writer.room_bytes))
            .map_err(|_| full("bytes of commands"))?;
        let command = match &envelope.data {
            CommandData::Json(text) => A::Command::from_json(&envelope.command_type, text)?,
            CommandData::Avro(payload) => self.read(payload)?,
        };
        let hash = data_hash::<A>(&envelope, &self.codec)?;
        let (answer, answered) = oneshot::channel();
        let job = Job {
            envelope,
            command,
            hash,
            event_ids: Vec::new(),
            attempts: 0,
            doubt: None,
            deadline,
            answer,
            _room: room,
        };
        writer.sender.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full("commands"),
            mpsc::error::TrySendError::Closed(_) => {
                CommandError::Unavailable("the producer is shutting down".to_owned())
            }
        })?;
        Ok(answered)
    }

    fn read(&self, payload: &[u8]) -> Result<A::Command, CommandError> {
        self.codec
            .decode_command(payload)
            .map_err(|error| CommandError::Malformed(error.to_string()))
    }
}

/// SHA-256 of type and canonical data, secrets left out; only needed where an outcome is kept.
///
/// Of Avro it is the data in its writer's shape, so that the same bytes have the same hash for every later version of
/// the struct. The same command over HTTP has another one where it left out what is null or default.
fn data_hash<A: Aggregate>(envelope: &Envelope, codec: &Codec) -> Result<Vec<u8>, CommandError> {
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
    let data = match &envelope.data {
        CommandData::Json(text) => serde_json::from_str(text)
            .map_err(|error| CommandError::Malformed(format!("data is not JSON: {error}")))?,
        CommandData::Avro(payload) => codec
            .decode_json(payload)
            .map(|(_, data)| data)
            .map_err(|error| CommandError::Malformed(error.to_string()))?,
    };
    let mut hash = Sha256::new();
    hash.update(envelope.command_type.as_bytes());
    hash.update([0]);
    hash.update(json::canonical(&data, secrets).as_bytes());
    Ok(hash.finalize().to_vec())
}
