//! What a user answers goes back to the registration that asked, and a deactivated user's address is free again.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::email::{ReleaseEmail, email_id};
use schemas::identity::registration::RegistrationStep;
use schemas::identity::user::UserEvent;

use super::{refused, taken};

/// Tells a registration whether its user is there. Releases an address after its user was deactivated, which is for ever.
pub struct UserRegistration;

impl Processor for UserRegistration {
    const NAME: &'static str = "user-registration";
    const START: Start = Start::Earliest;
    type Event = UserEvent;

    fn handle(&self, event: &Recorded<UserEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        let step = RegistrationStep::User;
        match &event.event {
            UserEvent::UserRegistered(of) => taken(out, &of.registration_id, step),
            UserEvent::UserRegistrationRefused(of) => {
                refused(out, &of.registration_id, step, &of.reason);
            }
            UserEvent::UserDeactivated(of) => {
                let registration_id = of.registration_id.clone();
                let address = email_id(&of.tenant_id, &of.email);
                out.send(&address, &ReleaseEmail { registration_id });
            }
            UserEvent::UserEmailVerified(_)
            | UserEvent::UserActivated(_)
            | UserEvent::UserUpdated(_)
            | UserEvent::UserRoleChanged(_) => {}
        }
        Ok(())
    }
}
