//! What is decided about a command, and the state that it is decided on.

use chrono::TimeDelta;
use serde::Serialize;
use uuid::Uuid;

use crate::aggregate::{Aggregate, Context};
use crate::codec::{Codec, CodecError};
use crate::command::writer::Job;
use crate::command::{CommandError, CommandId, CommandSet, Envelope, EventRef};
use crate::event::Event;
use crate::journal::append::{Append, NewEvent, NewOutcome, NewTimer};
use crate::journal::load::{Loaded, Outcome, StoredEvent};
use crate::timer::{TimerChange, command_id, timer_id};

/// What was decided about one command, not yet answered.
pub(super) enum Decision {
    /// Its id stands for this outcome.
    Repeat(Outcome),
    /// It was appended on a connection that broke.
    Found(Vec<StoredEvent>),
    /// It brings about these events.
    Accept {
        events: Vec<EventRef>,
        /// Index of its last event among those that the round appends to the aggregate.
        last: usize,
    },
    /// It is accepted and brings about nothing.
    NoOp { version: i64 },
    /// It is refused, on this version; on none where the reason is durable itself.
    Refuse {
        version: Option<i64>,
        error: CommandError,
    },
    /// Another command of this round has the same id, or its aggregate lost: next round.
    Again,
    /// The round is full: next round, and no attempt of its own.
    Later,
}

impl Decision {
    /// The aggregate's code panicked: its author must look, and nothing was decided.
    pub(super) fn panicked(envelope: &Envelope) -> Self {
        tracing::error!(
            command = envelope.command_type,
            aggregate_id = envelope.aggregate_id,
            "decide or evolve panicked"
        );
        Self::Refuse {
            version: None,
            error: CommandError::Fault(format!(
                "{} could not be decided: a fault in the aggregate's code, see the log",
                envelope.command_type
            )),
        }
    }
}

/// An aggregate while its commands are decided.
pub(super) struct Work<A> {
    pub(super) loaded: Loaded<A>,
    pub(super) append: Append,
}

impl<A: Aggregate> Work<A> {
    pub(super) fn new(id: &str, loaded: Loaded<A>) -> Self {
        Self {
            append: Append {
                aggregate_id: id.to_owned(),
                expected: loaded.version,
                ..Append::default()
            },
            loaded,
        }
    }

    /// Bytes of the events that are to be appended.
    pub(super) fn staged_bytes(&self) -> usize {
        self.append
            .events
            .last()
            .map_or(0, |event| event.payload.len())
    }

    /// Decides one command on this state and, where it is accepted, moves the state on.
    pub(super) fn decide(
        &mut self,
        job: &mut Job<A::Command>,
        codec: &Codec,
        event_bytes_max: usize,
    ) -> Decision {
        let version = self.loaded.version;
        let refuse = |error| Decision::Refuse {
            version: Some(version),
            error,
        };
        if let Some(expected) = job.envelope.expected_version
            && expected != version
        {
            return refuse(CommandError::Conflict {
                aggregate: A::Event::AGGREGATE,
                id: job.envelope.aggregate_id.clone(),
                expected,
                actual: version,
            });
        }
        let context = Context {
            aggregate_id: job.envelope.aggregate_id.clone(),
            now: job.envelope.now,
        };
        let events = match self.loaded.state.decide(job.command.clone(), &context) {
            Ok(events) if events.is_empty() => return Decision::NoOp { version },
            Ok(events) => events,
            Err(rejection) => {
                return refuse(CommandError::Rejected {
                    // Postgres keeps no NUL in text.
                    reason: rejection.to_string().replace('\0', "\u{fffd}"),
                    version,
                    repeated: false,
                });
            }
        };
        let headers = headers(job);
        let mut new = Vec::with_capacity(events.len());
        let mut references = Vec::with_capacity(events.len());
        let mut timers = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let (schema_id, payload) = match encode::<A>(codec, event, event_bytes_max) {
                Ok(encoded) => encoded,
                Err(error) => return refuse(error),
            };
            let id = job.event_id(index);
            references.push(EventRef {
                id,
                event_type: event.event_type().to_owned(),
                sequence: version + 1 + index as i64,
            });
            for change in A::timers(event) {
                match timer::<A>(codec, job, id, change) {
                    Ok((name, timer)) => timers.push((name, timer)),
                    Err(error) => return refuse(error),
                }
            }
            new.push(NewEvent {
                id,
                event_type: event.event_type(),
                schema_id,
                payload,
                headers: headers.clone(),
                occurred_at: job.envelope.now,
            });
        }
        for event in &events {
            self.loaded.state.evolve(event);
        }
        self.loaded.version += events.len() as i64;
        self.append.events.extend(new);
        // Of several changes to one timer the last one stands.
        self.append.timers.extend(timers);
        if !matches!(job.envelope.id, CommandId::Made(_)) {
            self.append.outcomes.push(NewOutcome {
                events: references.len() as i32,
                ..outcome(job, self.loaded.version)
            });
        }
        Decision::Accept {
            events: references,
            last: self.append.events.len() - 1,
        }
    }
}

fn encode<A: Aggregate>(
    codec: &Codec,
    event: &A::Event,
    event_bytes_max: usize,
) -> Result<(u32, Vec<u8>), CommandError> {
    let fault = |error: CodecError| {
        CommandError::Fault(format!(
            "event {} could not be encoded: {error}",
            event.event_type()
        ))
    };
    let (schema_id, payload) = codec.encode(event).map_err(fault)?;
    if payload.len() > event_bytes_max {
        return Err(CommandError::TooLarge {
            event_type: event.event_type(),
            bytes: payload.len(),
            max: event_bytes_max,
        });
    }
    Ok((schema_id, payload))
}

/// What becomes of the timer of a name: it is set, or only ended.
fn timer<A: Aggregate>(
    codec: &Codec,
    job: &Job<A::Command>,
    event_id: Uuid,
    change: TimerChange<A::Command>,
) -> Result<(&'static str, Option<NewTimer>), CommandError> {
    let name = change.name();
    let TimerChange::Set { after, command, .. } = change else {
        return Ok((name, None));
    };
    let fault = |reason: String| CommandError::Fault(format!("timer {name}: {reason}"));
    let due_at = TimeDelta::from_std(after)
        .ok()
        .and_then(|after| job.envelope.now.checked_add_signed(after))
        .ok_or_else(|| fault(format!("it would be due in {} s", after.as_secs())))?;
    let (_, payload) = codec
        .encode_any_command(&command)
        .map_err(|error| fault(error.to_string()))?;
    let timer_id = timer_id(event_id, name);
    let timer = NewTimer {
        timer_id,
        due_at,
        command_type: command.command_type(),
        command_id: command_id(timer_id).to_string(),
        payload,
        headers: headers(job),
    };
    Ok((name, Some(timer)))
}

pub(super) fn repeat<A: Aggregate>(job: &Job<A::Command>, outcome: &Outcome) -> Decision {
    if outcome.data_hash == job.hash {
        return Decision::Repeat(outcome.clone());
    }
    let hex = |hash: &[u8]| {
        hash.iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    Decision::Refuse {
        version: None,
        error: CommandError::ReusedId {
            aggregate: A::Event::AGGREGATE,
            id: job.envelope.aggregate_id.clone(),
            command_id: job.envelope.id.as_str().to_owned(),
            kept: hex(&outcome.data_hash),
            given: hex(&job.hash),
        },
    }
}

fn outcome<C>(job: &Job<C>, version: i64) -> NewOutcome {
    NewOutcome {
        command_id: job.envelope.id.as_str().to_owned(),
        command_type: job.envelope.command_type.clone(),
        data_hash: job.hash.clone(),
        version,
        events: 0,
        rejection: None,
    }
}

/// A rejection is kept under an id that was given; a no-op under a derived one too; a conflict never.
pub(super) fn outcome_to_keep<C>(
    job: &Job<C>,
    version: i64,
    refused: Option<&CommandError>,
) -> Option<NewOutcome> {
    let rejection = match (refused, &job.envelope.id) {
        (None, CommandId::Given(_) | CommandId::Derived(_)) => None,
        (Some(CommandError::Rejected { reason, .. }), CommandId::Given(_)) => Some(reason.clone()),
        _ => return None,
    };
    Some(NewOutcome {
        rejection,
        ..outcome(job, version)
    })
}

/// The headers that the relay passes on with each event of a command.
fn headers<C>(job: &Job<C>) -> String {
    #[derive(Serialize)]
    struct Headers<'e> {
        correlationid: &'e str,
        causationid: &'e str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tenantid: Option<&'e str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        traceparent: Option<&'e str>,
    }
    let envelope = &job.envelope;
    let id = envelope.id.as_str();
    let headers = Headers {
        correlationid: envelope.correlation_id.as_deref().unwrap_or(id),
        causationid: id,
        tenantid: envelope.tenant_id.as_deref(),
        traceparent: envelope.traceparent.as_deref(),
    };
    serde_json::to_string(&headers).expect("plain texts always serialise")
}
