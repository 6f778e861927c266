//! Effects: what an event makes happen outside, each thing called once.
//!
//! An effect reads event topics in a group of its own, `millrace.effect.<name>`, calls the outside world (a webhook, a
//! mail server, another company's API) and may return a command, by which the outcome comes back to an aggregate. An author
//! implements [`Effect`] and registers it with [`effect`]; [`Effects::start`] runs it.
//!
//! There is no transaction over Kafka and the outside. So every event that an effect acts on is a row in Postgres, and
//! the row says durably that a call begins before it does. What a crash leaves behind is then known to be in doubt, and
//! the effect's [`Rule`] says what to do about it: `docs/decisions/0008-effects.md` holds the states, the invariants and
//! the schedules that would break them.
//!
//! Guarantees: an event is claimed once, also after a replay; calls of one aggregate follow the order of its events;
//! no call begins while another one of the same row may be under way; an outcome command is produced at least once,
//! always under the same id. An aggregate may also hear that a call was given up or is in doubt ([`Effect::setback`]).

mod emit;
mod erased;
mod health;
mod intake;
pub mod ops;
mod policy;
mod run;
mod store;
pub mod webhook;
mod work;

use std::borrow::Cow;
use std::time::Duration;

use uuid::Uuid;

pub use erased::{Registered, effect};
pub use policy::{Backoff, Policy};
pub use run::{EffectError, EffectOptions, Effects, EffectsConfig, HealthReport};

use crate::codec::Codec;
use crate::command::{Command, CommandSet};
use crate::event::Recorded;
use crate::log::topics::{Kind, Topic};
pub use crate::projection::{BoxFuture, Payload, Start};

/// Largest value of a command; the broker's limit for a record with its headers is 1048588.
const COMMAND_BYTES_MAX: usize = 1_000_000;
/// Longest name of an effect.
const NAME_BYTES_MAX: usize = 40;
/// Namespace of the UUIDv5 ids that are made from event ids: keys of calls and ids of outcome commands.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_2e65_6666_6563_7473);

/// The consumer group of an effect.
pub fn group(name: &str) -> String {
    format!("millrace.effect.{name}")
}

/// The topic of an effect's dead letters.
pub fn dead_letters_topic(name: &str) -> String {
    format!("millrace.effect.{name}.dlq")
}

/// What one call needs to know.
#[derive(Clone)]
pub struct Call<'c, E> {
    /// The event that it is about.
    pub event: &'c Recorded<E>,
    /// What the outside is to tell a repeat by: the same for every call about this event by this effect.
    pub key: Uuid,
    /// How many calls were begun for this event, this one included. More than one says that an earlier one failed, or that
    /// nobody knows how it ended.
    pub number: u32,
    /// How long the call may take; it is dropped then.
    pub timeout: Duration,
    codec: &'c Codec,
}

impl<E> Call<'_, E> {
    /// The command that the outcome comes back as. An error means that its schema was not registered or that it is too
    /// large: the call was carried out, and an operator has to say the rest.
    pub fn command<C: Command>(
        &self,
        aggregate_id: &str,
        command: &C,
    ) -> Result<OutcomeCommand, CallError> {
        let fault = |reason: String| {
            let (aggregate, kind) = (C::Set::AGGREGATE, C::TYPE);
            CallError::Permanent(format!(
                "it was carried out, but its outcome, command {kind} to {aggregate} {aggregate_id}, cannot be sent: {reason}"
            ))
        };
        let writer = self.codec.writer(C::Set::AGGREGATE, C::TYPE);
        let schema_version = writer.map_err(|error| fault(error.to_string()))?.version;
        let encoded = self.codec.encode_command(command);
        let (_, payload) = encoded.map_err(|error| fault(error.to_string()))?;
        if payload.len() > COMMAND_BYTES_MAX {
            return Err(fault(format!(
                "it has {} bytes, the limit is {COMMAND_BYTES_MAX}",
                payload.len()
            )));
        }
        Ok(OutcomeCommand {
            aggregate: C::Set::AGGREGATE.into(),
            aggregate_id: aggregate_id.to_owned(),
            command_type: C::TYPE.into(),
            schema_version,
            payload,
        })
    }
}

/// A command that an outcome comes back as. Its id is made from the event's id and the effect's name, so a repeat
/// has the same one and the command side answers it with the first outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeCommand {
    /// Aggregate type, such as `counter`; the command goes to `counter.commands`.
    pub aggregate: Cow<'static, str>,
    /// Id of the aggregate, which is the record's key.
    pub aggregate_id: String,
    /// Command type, such as `RaiseCounter`.
    pub command_type: Cow<'static, str>,
    /// Number of the schema file that the payload is written with.
    pub schema_version: u32,
    /// The command in the registry's framing.
    pub payload: Vec<u8>,
}

/// Why a call did not work, and so what follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The outside says no, and would say so again: a dead letter at once.
    #[error("{0}")]
    Permanent(String),
    /// The outside asks for a pause: called again after it. Counts no attempt.
    #[error("{reason}; asked to wait {} ms", after.as_millis())]
    RetryAfter {
        /// How long to wait.
        after: Duration,
        /// What it said.
        reason: String,
    },
    /// The outside answered that it failed and did nothing: called again, an attempt less.
    #[error("{0}")]
    Transient(String),
    /// The call did not reach the outside: called again, and no attempt is counted.
    #[error("{0}")]
    Outage(String),
    /// The call was sent and no answer came: it may have been carried out. The effect's [`Rule`] decides.
    #[error("{0}")]
    Unknown(String),
}

/// What the outside says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was carried out; with the command that the call would have returned.
    Done(Option<OutcomeCommand>),
    /// It was not, and no call with this key is under way.
    NotDone,
}

/// Asks the outside whether a call was carried out.
pub trait AskByKey<E>: Send + Sync {
    /// Looks up the call's key. An error leaves the row uncertain; it is asked again after a pause.
    fn ask<'a>(&'a self, call: &'a Call<'a, E>) -> BoxFuture<'a, Result<Answer, CallError>>;
}

/// What to do where nobody knows whether a call was carried out, because its process died or no answer came.
#[derive(Clone, Copy)]
pub enum Rule<'a, E> {
    /// Ask the outside by the call's key, and call again only if it says that nothing was done.
    AskByKey(&'a dyn AskByKey<E>),
    /// Call again with the same key: the receiver carries it out once however often it comes.
    SafeToRepeat,
    /// Leave it to an operator: `millrace effects settle` or `retry`. The aggregate's later events wait.
    NeverRepeat,
}

/// The name of a [`Rule`], for `status` and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    /// [`Rule::AskByKey`].
    AskByKey,
    /// [`Rule::SafeToRepeat`].
    SafeToRepeat,
    /// [`Rule::NeverRepeat`].
    NeverRepeat,
}

impl<E> Rule<'_, E> {
    /// Its name.
    pub fn name(&self) -> RuleName {
        match self {
            Self::AskByKey(_) => RuleName::AskByKey,
            Self::SafeToRepeat => RuleName::SafeToRepeat,
            Self::NeverRepeat => RuleName::NeverRepeat,
        }
    }
}

/// Whether an aggregate's events wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other; a dead letter and an uncertain call hold the aggregate's later events back.
    PerAggregate,
    /// At any time, each for itself.
    Any,
}

/// How an effect is run; [`Registration::new`] sets what is usual.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Where its group starts on a partition that it never read. With `Now` nothing before is ever called for, also
    /// after a reset.
    pub start: Start,
    /// What follows a failure.
    pub policy: Policy,
    /// Whether an aggregate's events wait for one another.
    pub order: Order,
    /// Most calls under way in one process.
    pub concurrency: usize,
    /// Longest that a call may take. A process that dies in a call leaves the row in doubt for as long and
    /// [`grace`](Self::grace) on top.
    pub call_timeout: Duration,
    /// How much longer a call of another process is believed to be under way: more than the clocks' rates, the network
    /// and a stopped process between its last look at the clock and its send may add.
    pub grace: Duration,
}

impl Registration {
    /// The usual: events in order, 16 calls at once, 10 s for a call.
    pub fn new(start: Start) -> Self {
        Self {
            start,
            policy: Policy::default(),
            order: Order::PerAggregate,
            concurrency: 16,
            call_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(2),
        }
    }
}

/// How a call stands that was not carried out, as far as anybody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback<'r> {
    /// It has a dead letter, and an operator may still retry it.
    GivenUp {
        /// What was said last.
        reason: &'r str,
    },
    /// Nobody knows whether it was carried out, and by [`Rule::NeverRepeat`] nobody finds out by themselves.
    InDoubt {
        /// Why nobody knows.
        reason: &'r str,
    },
}

/// One kind of thing that happens outside because of an event.
pub trait Effect: Send + Sync + 'static {
    /// What it reads: an enum of [`events!`](crate::events).
    type Event: crate::event::Event;

    /// Its name in kebab case. It is its identity: group, rows and ids hang on it.
    fn name(&self) -> &str;

    /// The topics that it reads.
    fn topics(&self) -> Vec<String> {
        vec![<Self::Event as crate::event::Event>::topic()]
    }

    /// Whether it acts on this event; asked once, when the event is first read.
    fn applies(&self, event: &Recorded<Self::Event>) -> bool;

    /// What to do where nobody knows whether a call was carried out.
    fn rule(&self) -> Rule<'_, Self::Event>;

    /// Calls the outside once. It must pass [`Call::key`] on, if the outside takes one, and must not try again by itself.
    fn call<'a>(
        &'a self,
        call: &'a Call<'a, Self::Event>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>>;

    /// The command by which an aggregate hears of a setback; none by default. It is produced at least once, always under one id
    /// for one call and setback; the outcome of a later call may follow it, after an operator's retry, and so may that of this
    /// call, where its process only stood still. [`Call::number`] says which of them is the later.
    ///
    /// An error leaves the aggregate untold, and is logged.
    fn setback(
        &self,
        call: &Call<'_, Self::Event>,
        setback: Setback<'_>,
    ) -> Result<Option<OutcomeCommand>, CallError> {
        let _ = (call, setback);
        Ok(None)
    }
}

/// The key of the calls about an event.
fn call_key(effect: &str, event_id: Uuid) -> Uuid {
    Uuid::new_v5(&event_id, effect.as_bytes())
}

/// The id of the command that the outcome comes back as.
fn outcome_id(effect: &str, event_id: Uuid) -> Uuid {
    Uuid::new_v5(&call_key(effect, event_id), b"outcome")
}

/// The id of the command by which an aggregate hears that this call failed for good, or is in doubt.
fn setback_id(call_key: Uuid, state: &str, calls: i32) -> Uuid {
    Uuid::new_v5(&call_key, format!("{state} {calls}").as_bytes())
}

/// The id that stands for a record that is no event.
fn foreign_id(topic: &str, partition: i32, offset: i64) -> Uuid {
    Uuid::new_v5(
        &NAMESPACE,
        format!("{topic}/{partition}/{offset}").as_bytes(),
    )
}

/// A named point between two durable steps, where the crash test ends the process.
fn crash_point(name: &str) {
    fail::fail_point!(name);
    let _ = name;
}

/// The topics that effects add to those of events and commands.
pub fn topics<'r>(effects: impl IntoIterator<Item = &'r Registered>) -> Vec<Topic> {
    effects
        .into_iter()
        .map(|one| Topic {
            name: dead_letters_topic(one.name()),
            kind: Kind::DeadLetters,
        })
        .collect()
}
