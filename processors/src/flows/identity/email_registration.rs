//! What an address answers goes back to the registration that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::email::EmailEvent;
use schemas::identity::registration::RegistrationStep;

use super::{refused, taken};

/// Tells a registration whether the address is its own.
pub struct EmailRegistration;

impl Processor for EmailRegistration {
    const NAME: &'static str = "email-registration";
    const START: Start = Start::Earliest;
    type Event = EmailEvent;

    fn handle(
        &self,
        event: &Recorded<EmailEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let step = RegistrationStep::Email;
        match &event.event {
            EmailEvent::EmailClaimed(of) => taken(out, &of.registration_id, step),
            EmailEvent::EmailClaimRefused(of) => {
                refused(out, &of.registration_id, step, &of.reason);
            }
            EmailEvent::EmailReleased(_) => {}
        }
        Ok(())
    }
}
