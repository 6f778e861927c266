//! Stateless processors: events in, commands and integration events out, in one Kafka transaction with the offsets.
//!
//! A processor is a pure function of one event. What must remember is an aggregate. The ids of what it emits are derived
//! from the event, so a redelivery, by a reset or after a crash, emits the same ids: the command side answers with the
//! first outcome, and a reader of integration events recognises the repeat.
//!
//! Invariants, with what breaks them and where that is tried:
//! - Commands, integration events, dead letters, blocks and the offset after their event commit together or not at all. A crash
//!   between producing and committing leaves an open transaction, which the next owner waits out before it reads
//!   the committed offset, so nothing of it is ever visible.
//! - An owner whose partition went to another member commits nothing: the transaction carries the group's
//!   generation, and the coordinator refuses an old one.
//! - Events of one key reach the handler in order. A dead letter blocks its key: later events of that key follow it
//!   until it is redriven, unless the processor says that order does not matter to it.

mod block;
mod engine;
mod handler;
mod health;
mod letter;
pub mod ops;
mod outbox;
mod run;
mod topology;

pub use block::Block;
pub use handler::{Handler, Outgoing, RunError};
pub use health::ProcessorReport;
pub use letter::{Cause, Letter, State};
pub use outbox::{Outbox, command_id};
pub use run::{ProcessorConfig, ProcessorError, ProcessorOptions, RunningProcessor};
pub use topology::Topology;

pub(crate) use block::{Request, blocked_topic, dlq_topic, redrive_request};
pub(crate) use engine::{Claim, Engine, Retries, Step};
pub(crate) use letter::fold as fold_letters;

use crate::event::{Event, Recorded};
use crate::log::topics::{Kind, Topic};
pub use crate::projection::Start;

/// Why an event was not handled. A server that is away is never the event's fault: say `Transient`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// It may work later: tried again with growing pauses, a bounded number of times.
    #[error("{0}")]
    Transient(String),
    /// It will never work as it is: the record becomes a dead letter at once.
    #[error("{0}")]
    Poison(String),
}

/// Whether a dead letter holds back the later events of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It does: they follow it to the dead letters, and are redriven after it.
    PerKey,
    /// Order does not matter: they are handled.
    Any,
}

/// A stateless stream processor over the events of one aggregate type.
pub trait Processor: Send + Sync + 'static {
    /// Its name in kebab case. It is its identity: group, transactions, topics and the ids of what it emits hang on it.
    const NAME: &'static str;
    /// Where it starts on a partition that it never read.
    const START: Start;
    /// Whether a dead letter blocks its key.
    const ORDER: Order = Order::PerKey;
    /// The events that it reads, from the topic of their aggregate type.
    type Event: Event;

    /// Says which commands and integration events an event leads to. Pure: no clock, no randomness, no I/O, or a replay would differ.
    fn handle(
        &self,
        event: &Recorded<Self::Event>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError>;
}

/// The consumer group of a processor.
pub fn group(name: &str) -> String {
    format!("millrace.processor.{name}")
}

/// The topics that a processor needs beside those that it reads and writes for others.
pub fn topics(handler: &dyn Handler) -> Vec<Topic> {
    let topic = |name, kind| Topic { name, kind };
    vec![
        topic(dlq_topic(&handler.group()), Kind::DeadLetters),
        topic(blocked_topic(&handler.group()), Kind::Compacted),
    ]
}

/// A named point between two durable steps, where the crash test ends the process or the thread.
fn crash_point(name: &str) {
    fail::fail_point!(name);
    let _ = name;
}

/// True where the crash test moves offsets outside the transaction, to see that it notices.
fn offsets_outside() -> bool {
    fail::fail_point!("sabotage.processor.offsets", |_| true);
    false
}
