//! The view `workspace_members`: who belongs to which workspace.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Rows, Start};
use schemas::identity::workspace::WorkspaceEvent;

millrace::view_row! {
    /// A member of a workspace.
    pub struct MemberRow in "workspace_members" {
        key {
            /// Which user.
            user_id: String,
        }
        /// `member`, `admin` or `owner`.
        role: String,
        /// Since when.
        added_at: DateTime<Utc>,
        /// When the role was given.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a workspace's events into a row for each member. Those of a deactivated workspace stay, as they were at its end.
pub struct WorkspaceMembers;

impl Fold for WorkspaceMembers {
    const NAME: &'static str = "workspace-members";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../../migrations/identity/workspace_members.sql");
    type Event = WorkspaceEvent;
    type Rows = Rows<MemberRow>;

    fn evolve(
        &self,
        rows: &mut Rows<MemberRow>,
        event: &Recorded<WorkspaceEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        match &event.event {
            WorkspaceEvent::WorkspaceMemberAdded(added) => rows.put(MemberRow {
                user_id: added.user_id.clone(),
                role: added.role.as_str().to_owned(),
                added_at: at,
                updated_at: at,
            }),
            WorkspaceEvent::WorkspaceMemberRemoved(removed) => {
                rows.remove(&(removed.user_id.clone(),));
            }
            WorkspaceEvent::WorkspaceMemberRoleChanged(changed) => {
                // No row: an operator skipped the event that added the member.
                if let Some(row) = rows.get_mut(&(changed.user_id.clone(),)) {
                    changed.role.as_str().clone_into(&mut row.role);
                    row.updated_at = at;
                }
            }
            WorkspaceEvent::WorkspaceCreated(_)
            | WorkspaceEvent::WorkspaceCreationRefused(_)
            | WorkspaceEvent::WorkspaceUpdated(_)
            | WorkspaceEvent::WorkspaceDeactivated(_) => {}
        }
        Ok(())
    }
}
