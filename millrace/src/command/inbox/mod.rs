//! Commands from Kafka: `<aggregate>.commands` in, the handler, `<aggregate>.replies` out.
//!
//! Delivery is at least once, the effect is exactly once: a command's id is its `ce_id`, and the handler answers an id that
//! it knows with the first outcome. So the group `millrace.commands.<aggregate>` may be reset with the stock tool at will: every
//! command is answered again, with the same reply ids, and nothing happens twice.
//!
//! Invariants, and the schedules that would break them:
//! - An offset is committed only when every record below it has been answered and the broker has acknowledged the replies
//!   (or dead letters). (Broken by committing what was handed to the handler: the process ends, and a command that
//!   nobody decided is below the group's offset.)
//! - Commands of one key are decided in the order of their offsets: a partition's records are queued in order, and a queued one
//!   never gives up (see `CommandHandler::submit`).
//! - A member commits for a partition only while it holds it: what was under way when the partition was revoked carries the number
//!   of that claim and moves nothing under a later one. (Broken by counting offsets alone: a partition goes and comes
//!   back, the first claim's answer arrives, and the second claim commits over records that it has not answered.)
//! - A server that is away burns nothing: the journal is waited for in the writer's queue, the registry and a full queue with the
//!   record in hand, and Kafka by beginning again from the committed offsets.

mod progress;
mod record;
mod reply;
mod run;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::command::{Commands, Node};
use crate::config::KafkaConfig;
use crate::event::{commands_topic, replies_topic};
use crate::http::health::Component;
use crate::log::topics::{Kind, Topic};
use crate::registry::Registry;
use crate::telemetry::inbox::Observed;

pub use reply::{CommandOutcome, CommandReply, reply_id};

pub(crate) use reply::SCHEMAS as REPLY_SCHEMAS;

/// How much may be under way between a command's arrival and its reply.
#[derive(Debug, Clone, clap::Args)]
pub struct InboxOptions {
    /// Commands from Kafka that may be under way, for each aggregate type.
    #[arg(long, env = "INBOX_COMMANDS_MAX", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..))]
    pub inbox_commands_max: u32,
    /// Bytes of them; a single command may be larger.
    #[arg(long, env = "INBOX_BYTES_MAX", default_value_t = 33_554_432, value_parser = clap::value_parser!(u32).range(1..))]
    pub inbox_bytes_max: u32,
}

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            inbox_commands_max: 4_096,
            inbox_bytes_max: 33_554_432,
        }
    }
}

/// What an inbox needs.
pub struct InboxConfig {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Bounds.
    pub options: InboxOptions,
    /// The write side that decides.
    pub commands: Commands,
    /// For schemas that are met for the first time.
    pub registry: Registry,
    /// The journal's identity, as in `ce_source`.
    pub journal: Uuid,
}

/// The group that reads an aggregate type's commands.
pub fn group(aggregate: &str) -> String {
    format!("millrace.commands.{aggregate}")
}

/// The dead letters of that group.
pub fn dlq_topic(aggregate: &str) -> String {
    format!("{}.dlq", group(aggregate))
}

/// The topics that an aggregate type's commands need.
pub fn topics(aggregate: &str) -> Vec<Topic> {
    let topic = |name, kind| Topic { name, kind };
    vec![
        topic(commands_topic(aggregate), Kind::Queue),
        topic(replies_topic(aggregate), Kind::Queue),
        // A dead letter is nobody's to forget.
        topic(dlq_topic(aggregate), Kind::Events),
    ]
}

/// Why an inbox stopped.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The aggregate type is none of those that the write side was started with.
    #[error("commands of {0} cannot be read: there is no such aggregate")]
    UnknownAggregate(String),
    /// The thread died.
    #[error("the inbox of {0} ended with a panic")]
    Panicked(String),
}

/// What the thread, its callbacks and the answers share.
struct Shared {
    aggregate: &'static str,
    kafka: KafkaConfig,
    options: InboxOptions,
    node: Arc<dyn Node>,
    registry: Registry,
    source: String,
    runtime: Handle,
    component: Component,
    shutdown: CancellationToken,
    observed: Observed,
}

/// Reads the commands of one aggregate type until `shutdown`; then answers what is under way and leaves the group.
pub async fn run(
    config: InboxConfig,
    aggregate: &'static str,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), InboxError> {
    let node = config
        .commands
        .shared_node(aggregate)
        .ok_or_else(|| InboxError::UnknownAggregate(aggregate.to_owned()))?;
    let shared = Arc::new(Shared {
        aggregate,
        kafka: config.kafka,
        options: config.options,
        node,
        registry: config.registry,
        source: format!("/millrace/{}", config.journal),
        runtime: Handle::current(),
        component,
        shutdown,
        observed: Observed::of(aggregate, &group(aggregate)),
    });
    let (end, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name(format!("inbox {aggregate}"))
        .spawn(move || {
            // Dropped at the end of the thread, also by a panic: that is what wakes `ended`.
            let _end = end;
            run::run(&shared);
        })
        .expect("the system gives out threads");
    let _ = ended.await;
    thread
        .join()
        .map_err(|_| InboxError::Panicked(aggregate.to_owned()))
}
