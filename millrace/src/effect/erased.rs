//! An effect with its type erased: what the loops run.

use std::sync::Arc;

use super::{
    Answer, BoxFuture, Call, CallError, Effect, NAME_BYTES_MAX, OutcomeCommand, Registration, Rule,
    RuleName, Setback,
};
use crate::event::Recorded;
use crate::projection::{Decoder, LearnError, Record};
use uuid::Uuid;

/// An effect and how it is run; made by [`effect`].
#[derive(Clone)]
pub struct Registered {
    pub(super) effect: Arc<dyn Erased>,
    pub(super) registration: Registration,
}

impl Registered {
    /// Its name.
    pub fn name(&self) -> &str {
        self.effect.name()
    }

    /// The topics that it reads.
    pub fn topics(&self) -> Vec<String> {
        self.effect.topics()
    }

    /// What is wrong with the name or the limits, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let name = self.name();
        let kebab = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if name.len() > NAME_BYTES_MAX || !name.split('-').all(kebab) {
            return Err(format!(
                "effect name {name:?} must be kebab case: letters a-z, digits and single hyphens, at most {NAME_BYTES_MAX}"
            ));
        }
        if self.registration.concurrency == 0 || self.registration.call_timeout.is_zero() {
            return Err(format!(
                "effect {name}: concurrency and call_timeout must be above zero"
            ));
        }
        Ok(())
    }
}

/// Registers an effect.
pub fn effect<E: Effect>(effect: E, registration: Registration) -> Registered {
    Registered {
        effect: Arc::new(Kind(effect)),
        registration,
    }
}

/// Whether an effect acts on a record.
pub(super) enum Selection {
    Yes,
    No,
    /// It cannot be read: a dead letter.
    Poison(String),
}

/// The part of a call that does not hang on the event's type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calling {
    pub(super) key: Uuid,
    pub(super) number: u32,
    pub(super) timeout: std::time::Duration,
}

pub(super) trait Erased: Send + Sync {
    fn name(&self) -> &str;
    fn topics(&self) -> Vec<String>;
    fn rule(&self) -> RuleName;
    fn select<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Selection, LearnError>>;
    fn call<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>>;
    fn ask<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
    ) -> BoxFuture<'a, Result<Answer, CallError>>;
    fn setback<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
        setback: Setback<'a>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>>;
}

struct Kind<E>(E);

/// Reads a record; the inner error says why it is none of the effect's events.
async fn read<P: crate::projection::Payload>(
    decoder: &Decoder,
    record: &Record,
) -> Result<Result<Recorded<P>, String>, LearnError> {
    let envelope = match &record.envelope {
        Ok(envelope) => envelope,
        Err(reason) => return Ok(Err(reason.to_string())),
    };
    let Some(payload) = &record.payload else {
        return Ok(Err("the record has no value".to_owned()));
    };
    Ok(match decoder.decode::<P>(payload).await? {
        Ok(event) => Ok(Recorded {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            aggregate_id: envelope.aggregate_id.clone(),
            sequence: envelope.sequence,
            event,
            metadata: envelope.metadata.clone(),
        }),
        Err(reason) => Err(reason.to_string()),
    })
}

/// The same for a call: the registry's absence is an outage, of our own side.
async fn read_for_call<P: crate::projection::Payload>(
    decoder: &Decoder,
    record: &Record,
) -> Result<Recorded<P>, CallError> {
    match read(decoder, record).await {
        Ok(Ok(event)) => Ok(event),
        Ok(Err(reason)) => Err(CallError::Permanent(reason)),
        Err(away) => Err(CallError::Outage(away.to_string())),
    }
}

impl<E: Effect> Erased for Kind<E> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn topics(&self) -> Vec<String> {
        self.0.topics()
    }

    fn rule(&self) -> RuleName {
        self.0.rule().name()
    }

    fn select<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Selection, LearnError>> {
        Box::pin(async move {
            Ok(match read::<E::Event>(decoder, record).await? {
                Ok(event) if self.0.applies(&event) => Selection::Yes,
                Ok(_) => Selection::No,
                Err(reason) => Selection::Poison(reason),
            })
        })
    }

    fn call<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            let event = read_for_call::<E::Event>(decoder, record).await?;
            self.0.call(&calling.of(&event, decoder)).await
        })
    }

    fn ask<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move {
            let event = read_for_call::<E::Event>(decoder, record).await?;
            match self.0.rule() {
                Rule::AskByKey(asker) => asker.ask(&calling.of(&event, decoder)).await,
                Rule::SafeToRepeat => Ok(Answer::NotDone),
                Rule::NeverRepeat => Err(CallError::Unknown("an operator decides".to_owned())),
            }
        })
    }

    fn setback<'a>(
        &'a self,
        decoder: &'a Decoder,
        record: &'a Record,
        calling: Calling,
        setback: Setback<'a>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            let event = read_for_call::<E::Event>(decoder, record).await?;
            self.0.setback(&calling.of(&event, decoder), setback)
        })
    }
}

impl Calling {
    fn of<'c, E>(&self, event: &'c Recorded<E>, decoder: &'c Decoder) -> Call<'c, E> {
        Call {
            codec: decoder.codec(),
            event,
            key: self.key,
            number: self.number,
            timeout: self.timeout,
        }
    }
}
