//! What a workspace answers goes back to the registration that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::registration::RegistrationStep;
use schemas::identity::workspace::WorkspaceEvent;

use super::{refused, taken};

/// Tells a registration whether its first workspace is there; other workspaces concern none.
pub struct WorkspaceRegistration;

impl Processor for WorkspaceRegistration {
    const NAME: &'static str = "workspace-registration";
    const START: Start = Start::Earliest;
    type Event = WorkspaceEvent;

    fn handle(
        &self,
        event: &Recorded<WorkspaceEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let step = RegistrationStep::Workspace;
        match &event.event {
            WorkspaceEvent::WorkspaceCreated(of) => {
                if let Some(registration_id) = &of.registration_id {
                    taken(out, registration_id, step);
                }
            }
            WorkspaceEvent::WorkspaceCreationRefused(of) => {
                refused(out, &of.registration_id, step, &of.reason);
            }
            WorkspaceEvent::WorkspaceUpdated(_)
            | WorkspaceEvent::WorkspaceDeactivated(_)
            | WorkspaceEvent::WorkspaceMemberAdded(_)
            | WorkspaceEvent::WorkspaceMemberRemoved(_)
            | WorkspaceEvent::WorkspaceMemberRoleChanged(_) => {}
        }
        Ok(())
    }
}
