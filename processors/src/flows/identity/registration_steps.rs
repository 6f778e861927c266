//! What happens to a registration asks the other aggregates for its next step, or gives back what it took.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::email::{ClaimEmail, ReleaseEmail, email_id};
use schemas::identity::registration::*;
use schemas::identity::tenant::{AdmitRegistration, WithdrawAdmission};
use schemas::identity::user::{CreateUser, WithdrawUser};
use schemas::identity::workspace::{CreateWorkspace, WithdrawWorkspace};

/// Asks for the address, the tenant, the workspace and the user, one after another, and for what is taken back.
pub struct RegistrationSteps;

impl Processor for RegistrationSteps {
    const NAME: &'static str = "registration-steps";
    const START: Start = Start::Earliest;
    type Event = RegistrationEvent;

    fn handle(
        &self,
        event: &Recorded<RegistrationEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let registration_id = event.aggregate_id.clone();
        match &event.event {
            RegistrationEvent::RegistrationStarted(started) => {
                let claim = ClaimEmail {
                    tenant_id: started.tenant_id.clone(),
                    email: started.email.clone(),
                    registration_id,
                    user_id: started.user_id.clone(),
                };
                out.send(&email_id(&started.tenant_id, &started.email), &claim);
            }
            RegistrationEvent::RegistrationEmailClaimed(claimed) => {
                let admit = AdmitRegistration {
                    registration_id,
                    tenant_name: claimed.tenant_name.clone(),
                };
                out.send(&claimed.tenant_id, &admit);
            }
            RegistrationEvent::RegistrationAdmitted(admitted) => {
                let create = CreateWorkspace {
                    tenant_id: admitted.tenant_id.clone(),
                    name: admitted.workspace_name.clone(),
                    owner_id: admitted.user_id.clone(),
                    registration_id: Some(registration_id),
                };
                out.send(&admitted.workspace_id, &create);
            }
            RegistrationEvent::RegistrationWorkspaceCreated(of) => {
                out.send(&of.user_id, &user(of, registration_id));
            }
            RegistrationEvent::RegistrationOverdue(overdue) => {
                let withdraw = WithdrawUser {
                    registration_id,
                    reason: overdue.reason.clone(),
                };
                out.send(&overdue.user_id, &withdraw);
            }
            RegistrationEvent::RegistrationRefused(refused) => give_back(refused, event, out),
            RegistrationEvent::RegistrationCompleted(_) => {}
        }
        Ok(())
    }
}

fn user(of: &RegistrationWorkspaceCreated, registration_id: String) -> CreateUser {
    CreateUser {
        tenant_id: of.tenant_id.clone(),
        registration_id,
        email: of.email.clone(),
        first_name: of.first_name.clone(),
        last_name: of.last_name.clone(),
        phone: of.phone.clone(),
        timezone: of.timezone.clone(),
        language: of.language.clone(),
        credential_id: of.credential_id.clone(),
        role: of.role,
    }
}

fn give_back(
    refused: &RegistrationRefused,
    event: &Recorded<RegistrationEvent>,
    out: &mut Outbox<'_>,
) {
    let registration_id = || event.aggregate_id.clone();
    for holding in &refused.give_back {
        match holding {
            Holding::Workspace => {
                let withdraw = WithdrawWorkspace {
                    registration_id: registration_id(),
                    reason: refused.reason.clone(),
                };
                out.send(&refused.workspace_id, &withdraw);
            }
            Holding::Tenant => {
                let registration_id = registration_id();
                out.send(&refused.tenant_id, &WithdrawAdmission { registration_id });
            }
            Holding::Email => {
                let registration_id = registration_id();
                let address = email_id(&refused.tenant_id, &refused.email);
                out.send(&address, &ReleaseEmail { registration_id });
            }
        }
    }
}
