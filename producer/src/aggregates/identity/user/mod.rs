//! A user: registered -> active -> deactivated, the last for ever.
//!
//! Invariant: a user is one registration's, and a registration that is taken back leaves none that is not deactivated.
//!
//! The schedules that would break it:
//! - Two registrations name the same user id. Both are decided on none; the journal takes one, the other is decided
//!   again and hears [`UserRegistrationRefused`].
//! - A registration is out of time while its user is on the way, and counts as refused, and then the user comes. So it asks
//!   for its user back ([`WithdrawUser`], on the same key and so behind the creation) and ends when the user has answered.
//!   Until then the address stays claimed.
//!
//! What comes out of order is settled by the status: nothing happens to a user that is not there, only one whose
//! address is verified is activated, and nothing but a repeated deactivation is taken by one that is deactivated. What
//! comes again changes nothing.

mod profile;

use millrace::aggregate::{Aggregate, Context};
use schemas::identity::user::*;
use serde::{Deserialize, Serialize};

use super::checks::{BadField, check_email, check_id, check_line, check_tenant_id};
use profile::Profile;

/// Why a user does not do what is asked. That a registration does not get its user is an event instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that cannot be.
    #[error(transparent)]
    Field(#[from] BadField),
    /// There is none.
    #[error("there is no such user")]
    Unknown,
    /// Too early.
    #[error("the user's e-mail address is not verified; verify it before activating the user")]
    NotVerified,
    /// It has ended.
    #[error("the user is deactivated")]
    Deactivated,
}

/// Where a user is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such user.
    #[default]
    New,
    /// There is one, who does not act yet.
    Registered,
    /// May act.
    Active,
    /// Nothing more happens.
    Deactivated,
}

/// A user, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    status: Status,
    tenant_id: String,
    registration_id: String,
    email: String,
    email_verified: bool,
    credential_id: Option<String>,
    role: UserRole,
    profile: Profile,
}

impl Aggregate for User {
    type Command = UserCommand;
    type Event = UserEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: UserCommand, _: &Context) -> Result<Vec<UserEvent>, Rejection> {
        match command {
            UserCommand::CreateUser(command) => self.create(command),
            UserCommand::WithdrawUser(command) => self.withdraw(command),
            UserCommand::VerifyUserEmail(VerifyUserEmail {}) => {
                self.must_be_there()?;
                let email = self.email.clone();
                Ok(only_if(!self.email_verified, UserEmailVerified { email }))
            }
            UserCommand::ActivateUser(ActivateUser {}) => {
                self.must_be_there()?;
                if !self.email_verified {
                    return Err(Rejection::NotVerified);
                }
                let tenant_id = self.tenant_id.clone();
                let inactive = self.status != Status::Active;
                Ok(only_if(inactive, UserActivated { tenant_id }))
            }
            UserCommand::UpdateUser(command) => {
                self.must_be_there()?;
                let profile = self.profile.with(command)?;
                Ok(only_if(profile != self.profile, UserUpdated::from(profile)))
            }
            UserCommand::ChangeUserRole(ChangeUserRole { role }) => {
                self.must_be_there()?;
                Ok(only_if(self.role != role, UserRoleChanged { role }))
            }
            UserCommand::DeactivateUser(DeactivateUser { reason }) => {
                check_line("reason", &reason)?;
                match self.status {
                    Status::New => Err(Rejection::Unknown),
                    Status::Registered | Status::Active => Ok(vec![self.deactivated(reason)]),
                    Status::Deactivated => Ok(Vec::new()),
                }
            }
        }
    }

    fn evolve(&mut self, event: &UserEvent) {
        match event {
            UserEvent::UserRegistered(registered) => {
                self.status = Status::Registered;
                self.tenant_id.clone_from(&registered.tenant_id);
                self.registration_id.clone_from(&registered.registration_id);
                self.email.clone_from(&registered.email);
                self.credential_id.clone_from(&registered.credential_id);
                self.role = registered.role;
                self.profile = Profile::of(registered);
            }
            UserEvent::UserRegistrationRefused(_) => {}
            UserEvent::UserEmailVerified(_) => self.email_verified = true,
            UserEvent::UserActivated(_) => self.status = Status::Active,
            UserEvent::UserUpdated(updated) => self.profile = updated.clone().into(),
            UserEvent::UserRoleChanged(changed) => self.role = changed.role,
            UserEvent::UserDeactivated(_) => self.status = Status::Deactivated,
        }
    }
}

/// The event where there is something to tell, and otherwise none: a repeated command changes nothing.
fn only_if(changed: bool, event: impl Into<UserEvent>) -> Vec<UserEvent> {
    changed.then(|| event.into()).into_iter().collect()
}

impl User {
    /// The row of the password's hash, of a user who is there and has one.
    pub fn credential_id(&self) -> Option<&str> {
        self.must_be_there().ok()?;
        self.credential_id.as_deref()
    }

    fn create(&self, command: CreateUser) -> Result<Vec<UserEvent>, Rejection> {
        check_id("registration_id", &command.registration_id)?;
        if self.status != Status::New {
            if self.registration_id == command.registration_id {
                return Ok(Vec::new());
            }
            let reason = "the user id is another user's".to_owned();
            return Ok(vec![refused(command.registration_id, reason)]);
        }
        check_tenant_id(&command.tenant_id)?;
        check_email(&command.email)?;
        let registered = UserRegistered {
            tenant_id: command.tenant_id,
            registration_id: command.registration_id,
            email: command.email,
            first_name: command.first_name,
            last_name: command.last_name,
            phone: command.phone,
            timezone: command.timezone,
            language: command.language,
            credential_id: command.credential_id,
            role: command.role,
        };
        Profile::of(&registered).check()?;
        Ok(vec![registered.into()])
    }

    /// Answers always, so that the registration hears that there is no user of its own any more.
    fn withdraw(&self, command: WithdrawUser) -> Result<Vec<UserEvent>, Rejection> {
        let WithdrawUser {
            registration_id,
            reason,
        } = command;
        check_line("reason", &reason)?;
        let theirs = self.registration_id == registration_id;
        let mut events = Vec::new();
        if theirs && matches!(self.status, Status::Registered | Status::Active) {
            events.push(self.deactivated(reason.clone()));
        }
        events.push(refused(registration_id, reason));
        Ok(events)
    }

    fn deactivated(&self, reason: String) -> UserEvent {
        UserDeactivated {
            reason,
            tenant_id: self.tenant_id.clone(),
            email: self.email.clone(),
            registration_id: self.registration_id.clone(),
        }
        .into()
    }

    fn must_be_there(&self) -> Result<(), Rejection> {
        match self.status {
            Status::New => Err(Rejection::Unknown),
            Status::Registered | Status::Active => Ok(()),
            Status::Deactivated => Err(Rejection::Deactivated),
        }
    }
}

fn refused(registration_id: String, reason: String) -> UserEvent {
    UserRegistrationRefused {
        registration_id,
        reason,
    }
    .into()
}

#[cfg(test)]
mod tests;
