//! How somebody becomes a user: one business act over four aggregates, as an event-sourced process.
//!
//! ```text
//! new ──> email ──> tenant ──> workspace ──> user ──> completed
//!           │          │           │         │  └─ out of time ─> withdrawing ─┐
//!           └──────────┴───────────┴─────────┴───> refused <───────────────────┘
//! ```
//!
//! Each step is asked for by a processor that reads this aggregate's events, and answered by an event of the other aggregate
//! that comes back as [`RecordStep`] or [`RecordRefusal`]. All that is in flight stands in a topic or in the journal, so
//! the act goes on after a crash of any role at any moment. What comes again, or after the end, changes nothing.
//!
//! Invariant: a registration ends, as completed with address, tenant, workspace and user, or as refused with a reason and
//! nothing left that it took; and an address is given back only when no user of the registration can act any more.
//!
//! The schedules that would break it:
//! - A step's answer never comes (its command was rejected, or is a dead letter). The timer ends the registration. Then the
//!   step may have been taken or not, so it is given back too; whoever is asked to give back what was not taken does nothing.
//! - A step is still on its way when it is given back, and is taken after that. Not so: both commands have the other
//!   aggregate's key and come from events of one key in order, so the step comes first.
//! - The time is up while the user is on the way: with the address given back at once another registration could have it
//!   while the user is there. So the user, the last step, is taken back first, and its answer ends the registration.
//! - The user's `registered` answer arrives after the time was up. The registration waits for the answer to the withdrawal,
//!   which comes behind it.

mod limit;

use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use schemas::identity::email::normalized_email;
use schemas::identity::registration::*;
use schemas::identity::user::UserRole;
use serde::{Deserialize, Serialize};

use super::checks::{BadField, Person, check_email, check_id, check_line, check_tenant_id};
pub use limit::RegistrationOptions;

/// The reason of a registration that ran out of time.
const OVERDUE: &str = "not completed in time";

/// What each step but the last takes, in the order of the steps.
const TAKEN: [(RegistrationStep, Holding); 3] = [
    (RegistrationStep::Email, Holding::Email),
    (RegistrationStep::Tenant, Holding::Tenant),
    (RegistrationStep::Workspace, Holding::Workspace),
];

/// Why a registration does not do what is asked of it. That a step was refused is an event instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that cannot be.
    #[error(transparent)]
    Field(#[from] BadField),
    /// There is none.
    #[error("there is no such registration")]
    Unknown,
    /// There is another one.
    #[error("the registration was begun with other data; register under another id")]
    Other,
    /// An answer before its question.
    #[error("the registration has not come to the step {}", .0.as_str())]
    NotAsked(RegistrationStep),
}

/// Where a registration is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such registration.
    #[default]
    New,
    /// The answer to this step is awaited.
    Awaits(RegistrationStep),
    /// Out of time; that the user is taken back is awaited.
    Withdrawing,
    /// The user is there.
    Completed,
    /// There is none.
    Refused,
}

/// A registration, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    status: Status,
    /// What was asked for; none before it was.
    started: Option<RegistrationStarted>,
    /// The tenant came with it.
    tenant_created: bool,
}

impl Aggregate for Registration {
    type Command = RegistrationCommand;
    type Event = RegistrationEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: RegistrationCommand,
        context: &Context,
    ) -> Result<Vec<RegistrationEvent>, Rejection> {
        let started = || self.started.as_ref().ok_or(Rejection::Unknown);
        let event = match command {
            RegistrationCommand::RegisterUser(command) => self.register(command, context)?,
            RegistrationCommand::RecordStep(answer) => self.record_step(started()?, &answer)?,
            RegistrationCommand::RecordRefusal(RecordRefusal { step, reason }) => {
                self.record_refusal(started()?, step, reason)?
            }
            RegistrationCommand::ExpireRegistration(ExpireRegistration {}) => {
                self.expire(started()?)
            }
        };
        Ok(event.into_iter().collect())
    }

    fn evolve(&mut self, event: &RegistrationEvent) {
        self.status = match event {
            RegistrationEvent::RegistrationStarted(started) => {
                self.started = Some(started.clone());
                Status::Awaits(RegistrationStep::Email)
            }
            RegistrationEvent::RegistrationEmailClaimed(_) => {
                Status::Awaits(RegistrationStep::Tenant)
            }
            RegistrationEvent::RegistrationAdmitted(admitted) => {
                self.tenant_created = admitted.tenant_created;
                Status::Awaits(RegistrationStep::Workspace)
            }
            RegistrationEvent::RegistrationWorkspaceCreated(_) => {
                Status::Awaits(RegistrationStep::User)
            }
            RegistrationEvent::RegistrationOverdue(_) => Status::Withdrawing,
            RegistrationEvent::RegistrationCompleted(_) => Status::Completed,
            RegistrationEvent::RegistrationRefused(_) => Status::Refused,
        };
    }

    fn timers(event: &RegistrationEvent) -> Vec<TimerChange<RegistrationCommand>> {
        limit::timers(event)
    }
}

impl Registration {
    /// Where it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The row of the hash that counts, where a password was given.
    pub fn credential_id(&self) -> Option<&str> {
        self.started.as_ref()?.credential_id.as_deref()
    }

    fn register(
        &self,
        command: RegisterUser,
        context: &Context,
    ) -> Result<Option<RegistrationEvent>, Rejection> {
        let asked = started(command, &context.aggregate_id)?;
        let Some(started) = &self.started else {
            return Ok(Some(asked.into()));
        };
        // Whoever repeats it hashes the password anew; the first one's credential counts.
        let again = RegistrationStarted {
            credential_id: started.credential_id.clone(),
            ..asked
        };
        match again == *started {
            true => Ok(None),
            false => Err(Rejection::Other),
        }
    }

    /// True if the answer is the awaited one; an earlier step's, or one after the end, is a repeat.
    fn awaits(&self, step: RegistrationStep) -> Result<bool, Rejection> {
        match self.status {
            Status::Awaits(awaited) if step > awaited => Err(Rejection::NotAsked(step)),
            Status::Awaits(awaited) => Ok(step == awaited),
            Status::New | Status::Withdrawing | Status::Completed | Status::Refused => Ok(false),
        }
    }

    fn record_step(
        &self,
        started: &RegistrationStarted,
        answer: &RecordStep,
    ) -> Result<Option<RegistrationEvent>, Rejection> {
        if !self.awaits(answer.step)? {
            return Ok(None);
        }
        let started = started.clone();
        Ok(Some(match answer.step {
            RegistrationStep::Email => RegistrationEmailClaimed {
                tenant_id: started.tenant_id,
                tenant_name: started.tenant_name,
            }
            .into(),
            RegistrationStep::Tenant => RegistrationAdmitted {
                tenant_id: started.tenant_id,
                tenant_created: answer.tenant_created,
                user_id: started.user_id,
                workspace_id: started.workspace_id,
                workspace_name: started.workspace_name,
            }
            .into(),
            RegistrationStep::Workspace => RegistrationWorkspaceCreated {
                tenant_id: started.tenant_id,
                user_id: started.user_id,
                email: started.email,
                first_name: started.first_name,
                last_name: started.last_name,
                phone: started.phone,
                timezone: started.timezone,
                language: started.language,
                credential_id: started.credential_id,
                role: match self.tenant_created {
                    true => UserRole::Admin,
                    false => UserRole::Member,
                },
            }
            .into(),
            RegistrationStep::User => RegistrationCompleted {
                tenant_id: started.tenant_id,
                email: started.email,
                user_id: started.user_id,
                workspace_id: started.workspace_id,
            }
            .into(),
        }))
    }

    fn record_refusal(
        &self,
        started: &RegistrationStarted,
        step: RegistrationStep,
        reason: String,
    ) -> Result<Option<RegistrationEvent>, Rejection> {
        let taken_back = self.status == Status::Withdrawing && step == RegistrationStep::User;
        let ends = taken_back || self.awaits(step)?;
        Ok(ends.then(|| refused(started, step, reason, |taken| taken < step)))
    }

    fn expire(&self, started: &RegistrationStarted) -> Option<RegistrationEvent> {
        match self.status {
            // Asked for once more also where it was before: the user answers always.
            Status::Awaits(RegistrationStep::User) | Status::Withdrawing => Some(
                RegistrationOverdue {
                    user_id: started.user_id.clone(),
                    reason: OVERDUE.to_owned(),
                }
                .into(),
            ),
            Status::Awaits(step) => {
                let reason = OVERDUE.to_owned();
                Some(refused(started, step, reason, |taken| taken <= step))
            }
            Status::New | Status::Completed | Status::Refused => None,
        }
    }
}

/// What the command asks for, if it can be had: no later step rejects a field.
fn started(command: RegisterUser, id: &str) -> Result<RegistrationStarted, BadField> {
    let name = format!("{} {}", command.first_name, command.last_name);
    let started = RegistrationStarted {
        tenant_id: command.tenant_id,
        tenant_name: command.tenant_name,
        email: normalized_email(&command.email),
        user_id: command.user_id.unwrap_or_else(|| id.to_owned()),
        first_name: command.first_name,
        last_name: command.last_name,
        phone: command.phone,
        timezone: command.timezone,
        language: command.language,
        workspace_id: id.to_owned(),
        workspace_name: command
            .workspace_name
            .unwrap_or_else(|| name.trim().to_owned()),
        credential_id: command.credential_id,
    };
    check_id("registration_id", id)?;
    check_tenant_id(&started.tenant_id)?;
    if let Some(name) = &started.tenant_name {
        check_line("tenant_name", name)?;
    }
    check_email(&started.email)?;
    check_id("user_id", &started.user_id)?;
    let person = Person {
        first_name: &started.first_name,
        last_name: &started.last_name,
        phone: started.phone.as_deref(),
        timezone: started.timezone.as_deref(),
        language: started.language.as_deref(),
    };
    person.check()?;
    check_line("workspace_name", &started.workspace_name)?;
    if let Some(credential) = &started.credential_id {
        check_id("credential_id", credential)?;
    }
    Ok(started)
}

/// The end without a user; what the steps have or may have taken is given back in the reverse order.
fn refused(
    started: &RegistrationStarted,
    step: RegistrationStep,
    reason: String,
    taken: impl Fn(RegistrationStep) -> bool,
) -> RegistrationEvent {
    let back = TAKEN.iter().rev().filter(|(step, _)| taken(*step));
    RegistrationRefused {
        step,
        reason,
        tenant_id: started.tenant_id.clone(),
        email: started.email.clone(),
        workspace_id: started.workspace_id.clone(),
        give_back: back.map(|(_, holding)| *holding).collect(),
    }
    .into()
}

#[cfg(test)]
mod tests;
