//! What a tenant answers goes back to the registration that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::registration::{RecordStep, RegistrationStep};
use schemas::identity::tenant::TenantEvent;

use super::refused;

/// Tells a registration whether the tenant admits it, and whether it brought the tenant.
pub struct TenantRegistration;

impl Processor for TenantRegistration {
    const NAME: &'static str = "tenant-registration";
    const START: Start = Start::Earliest;
    type Event = TenantEvent;

    fn handle(
        &self,
        event: &Recorded<TenantEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let step = RegistrationStep::Tenant;
        match &event.event {
            TenantEvent::TenantAdmittedRegistration(of) => {
                let tenant_created = of.tenant_created;
                let taken = RecordStep {
                    step,
                    tenant_created,
                };
                out.send(&of.registration_id, &taken);
            }
            TenantEvent::TenantRefusedRegistration(of) => {
                refused(out, &of.registration_id, step, &of.reason);
            }
            TenantEvent::TenantCreated(_)
            | TenantEvent::TenantUpdated(_)
            | TenantEvent::TenantPlanChanged(_)
            | TenantEvent::TenantDeactivated(_)
            | TenantEvent::TenantWithdrawn(_) => {}
        }
        Ok(())
    }
}
