//! An address within a tenant: who has it.
//!
//! Invariant: at any moment an address of a tenant belongs to one registration, and so to one user, at most. It holds over
//! all users of a tenant, while an aggregate sees its own events alone; so the address is an aggregate itself, whose id is
//! computed from tenant and address, and whose compare-and-set is the rule.
//!
//! The schedules that would break it:
//! - Two registrations ask for the address at once and both find it free. Both decisions expect the same version, the
//!   journal takes one, the other is decided again and is refused.
//! - A registration is refused late and gives the address back while its user is there: another one claims it, and
//!   two users have it. So the address is given back after the user is known not to be there or to be deactivated, and
//!   never before (see [`registration`](super::registration)).
//! - A release arrives twice, the second time after another one's claim. It names the registration that it is for, and
//!   nothing of another one is released.

use millrace::aggregate::{Aggregate, Context};
use schemas::identity::email::*;
use serde::{Deserialize, Serialize};

use super::checks::{BadField, check_email, check_id, check_tenant_id};

/// What whoever was too late hears; it says nothing of who has the address.
const TAKEN: &str = "the e-mail address is taken in this tenant";

/// Why an address does not do what is asked of it. That it is taken is an event instead: the registration reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that cannot be.
    #[error(transparent)]
    Field(#[from] BadField),
    /// Sent to the aggregate of another address.
    #[error("the command is addressed to {found}, the address that it claims is {expected}")]
    OtherAddress {
        /// The aggregate's id.
        found: String,
        /// Computed from tenant and address.
        expected: String,
    },
}

/// An address within a tenant, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Email {
    /// The registration that claimed it.
    claimed_by: Option<String>,
}

impl Aggregate for Email {
    type Command = EmailCommand;
    type Event = EmailEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: EmailCommand,
        context: &Context,
    ) -> Result<Vec<EmailEvent>, Rejection> {
        match command {
            EmailCommand::ClaimEmail(command) => self.claim(command, context),
            EmailCommand::ReleaseEmail(ReleaseEmail { registration_id }) => {
                let claimed = self.claimed_by.as_ref() == Some(&registration_id);
                let released = claimed.then(|| EmailReleased { registration_id }.into());
                Ok(released.into_iter().collect())
            }
        }
    }

    fn evolve(&mut self, event: &EmailEvent) {
        match event {
            EmailEvent::EmailClaimed(claimed) => {
                self.claimed_by = Some(claimed.registration_id.clone());
            }
            EmailEvent::EmailClaimRefused(_) => {}
            EmailEvent::EmailReleased(_) => self.claimed_by = None,
        }
    }
}

impl Email {
    fn claim(&self, command: ClaimEmail, context: &Context) -> Result<Vec<EmailEvent>, Rejection> {
        let ClaimEmail {
            tenant_id,
            email,
            registration_id,
            user_id,
        } = command;
        let email = normalized_email(&email);
        check_tenant_id(&tenant_id)?;
        check_email(&email)?;
        check_id("registration_id", &registration_id)?;
        check_id("user_id", &user_id)?;
        let expected = email_id(&tenant_id, &email);
        if expected != context.aggregate_id {
            let found = context.aggregate_id.clone();
            return Err(Rejection::OtherAddress { found, expected });
        }
        Ok(match &self.claimed_by {
            None => vec![
                EmailClaimed {
                    tenant_id,
                    email,
                    registration_id,
                    user_id,
                }
                .into(),
            ],
            Some(by) if *by == registration_id => Vec::new(),
            Some(_) => vec![
                EmailClaimRefused {
                    registration_id,
                    reason: TAKEN.to_owned(),
                }
                .into(),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::testing::given;

    fn id() -> String {
        email_id("acme", "ada@example.com")
    }

    fn claim(registration: &str) -> ClaimEmail {
        ClaimEmail {
            tenant_id: "acme".into(),
            email: "ada@example.com".into(),
            registration_id: registration.into(),
            user_id: format!("user-of-{registration}"),
        }
    }

    fn claimed(registration: &str) -> EmailEvent {
        EmailClaimed {
            tenant_id: "acme".into(),
            email: "ada@example.com".into(),
            registration_id: registration.into(),
            user_id: format!("user-of-{registration}"),
        }
        .into()
    }

    fn release(registration: &str) -> ReleaseEmail {
        ReleaseEmail {
            registration_id: registration.into(),
        }
    }

    fn released(registration: &str) -> EmailEvent {
        EmailReleased {
            registration_id: registration.into(),
        }
        .into()
    }

    #[test]
    fn the_first_who_asks_has_the_address_and_whoever_comes_later_hears_that_it_is_taken() {
        given::<Email>([])
            .id(&id())
            .when(claim("r1"))
            .then([claimed("r1")]);
        given::<Email>([claimed("r1")])
            .id(&id())
            .when(claim("r2"))
            .then([EmailClaimRefused {
                registration_id: "r2".into(),
                reason: TAKEN.into(),
            }
            .into()]);
    }

    #[test]
    fn a_repeated_claim_changes_nothing() {
        given::<Email>([claimed("r1")])
            .id(&id())
            .when(claim("r1"))
            .then_nothing();
    }

    #[test]
    fn a_released_address_can_be_claimed_again() {
        given::<Email>([claimed("r1")])
            .id(&id())
            .when(release("r1"))
            .then([released("r1")]);
        given::<Email>([claimed("r1"), released("r1")])
            .id(&id())
            .when(claim("r2"))
            .then([claimed("r2")]);
    }

    #[test]
    fn nobody_releases_what_is_anothers_and_a_repeated_release_changes_nothing() {
        given::<Email>([claimed("r1")])
            .id(&id())
            .when(release("r2"))
            .then_nothing();
        given::<Email>([claimed("r1"), released("r1"), claimed("r2")])
            .id(&id())
            .when(release("r1"))
            .then_nothing();
        given::<Email>([])
            .id(&id())
            .when(release("r1"))
            .then_nothing();
    }

    #[test]
    fn the_same_address_in_other_letters_is_the_same_claim() {
        let written = ClaimEmail {
            email: " Ada@Example.COM".into(),
            ..claim("r1")
        };
        given::<Email>([])
            .id(&id())
            .when(written)
            .then([claimed("r1")]);
    }

    #[test]
    fn a_claim_that_was_sent_to_another_address_is_rejected() {
        let found = email_id("globex", "ada@example.com");
        given::<Email>([])
            .id(&found)
            .when(claim("r1"))
            .then_rejected(Rejection::OtherAddress {
                found: found.clone(),
                expected: id(),
            });
    }

    #[test]
    fn what_is_no_address_is_not_claimed() {
        let email = "ada".to_owned();
        given::<Email>([])
            .id(&id())
            .when(ClaimEmail {
                email,
                ..claim("r1")
            })
            .then_rejected(
                BadField::NotA {
                    field: "email",
                    expected: "an address such as ada@example.com, in ASCII",
                }
                .into(),
            );
    }

    /// All sequences of six claims and releases by three registrations.
    #[test]
    fn one_registration_at_most_has_the_address_after_whatever_is_asked_in_whatever_order() {
        let registrations = ["r1", "r2", "r3"];
        let commands: Vec<EmailCommand> = registrations
            .into_iter()
            .flat_map(|by| [EmailCommand::from(claim(by)), release(by).into()])
            .collect();
        let context = Context {
            aggregate_id: id(),
            now: chrono::DateTime::UNIX_EPOCH,
        };
        for number in 0..commands.len().pow(6) {
            let mut email = Email::default();
            let mut owners = std::collections::BTreeSet::new();
            let mut rest = number;
            for _ in 0..6 {
                let command = commands[rest % commands.len()].clone();
                rest /= commands.len();
                for event in email.decide(command, &context).unwrap() {
                    match &event {
                        EmailEvent::EmailClaimed(of) => {
                            owners.insert(of.registration_id.clone());
                        }
                        EmailEvent::EmailReleased(of) => {
                            assert!(owners.remove(&of.registration_id), "{number}");
                        }
                        EmailEvent::EmailClaimRefused(of) => {
                            assert!(!owners.contains(&of.registration_id), "{number}");
                        }
                    }
                    email.evolve(&event);
                }
                assert!(owners.len() <= 1, "{number}: {owners:?}");
            }
        }
    }
}
