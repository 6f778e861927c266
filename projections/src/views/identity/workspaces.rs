//! The view `workspaces`: every workspace as it stands.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::identity::workspace::WorkspaceEvent;

millrace::view_row! {
    /// A workspace; its members stand in `workspace_members`.
    pub struct WorkspaceRow in "workspaces" {
        /// Which tenant.
        tenant_id: String,
        /// What people call it.
        name: String,
        /// What it is for.
        description: Option<String>,
        /// `active` or `deactivated`.
        status: String,
        /// How many members it has.
        member_count: i64,
        /// When it came.
        created_at: DateTime<Utc>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a workspace's events into its row.
pub struct Workspaces;

impl Fold for Workspaces {
    const NAME: &'static str = "workspaces";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../../migrations/identity/workspaces.sql");
    type Event = WorkspaceEvent;
    type Rows = Option<WorkspaceRow>;

    fn evolve(
        &self,
        row: &mut Option<WorkspaceRow>,
        event: &Recorded<WorkspaceEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        if let WorkspaceEvent::WorkspaceCreated(created) = &event.event {
            *row = Some(WorkspaceRow {
                tenant_id: created.tenant_id.clone(),
                name: created.name.clone(),
                description: None,
                status: "active".to_owned(),
                member_count: 0,
                created_at: at,
                updated_at: at,
            });
            return Ok(());
        }
        // No row: an operator skipped the workspace's beginning.
        let Some(row) = row else {
            return Ok(());
        };
        row.updated_at = at;
        match &event.event {
            WorkspaceEvent::WorkspaceCreated(_) | WorkspaceEvent::WorkspaceCreationRefused(_) => {}
            WorkspaceEvent::WorkspaceUpdated(updated) => {
                row.name.clone_from(&updated.name);
                row.description.clone_from(&updated.description);
            }
            WorkspaceEvent::WorkspaceDeactivated(_) => "deactivated".clone_into(&mut row.status),
            WorkspaceEvent::WorkspaceMemberAdded(_) => row.member_count += 1,
            WorkspaceEvent::WorkspaceMemberRemoved(_) => row.member_count -= 1,
            WorkspaceEvent::WorkspaceMemberRoleChanged(_) => {}
        }
        Ok(())
    }
}
