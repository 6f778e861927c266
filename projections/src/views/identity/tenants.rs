//! The view `tenants`: every tenant as it stands.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::identity::tenant::TenantEvent;

millrace::view_row! {
    /// A tenant.
    pub struct TenantRow in "tenants" {
        /// What people call it.
        name: String,
        /// `free`, `standard` or `enterprise`.
        plan: String,
        /// `active` or `deactivated`.
        status: String,
        /// The registration that brought it, where one did.
        registration_id: Option<String>,
        /// When it came.
        created_at: DateTime<Utc>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a tenant's events into its row; one that went with the registration that brought it has none.
pub struct Tenants;

impl Fold for Tenants {
    const NAME: &'static str = "tenants";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../../migrations/identity/tenants.sql");
    type Event = TenantEvent;
    type Rows = Option<TenantRow>;

    fn evolve(
        &self,
        row: &mut Option<TenantRow>,
        event: &Recorded<TenantEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        if let Some(row) = row {
            row.updated_at = at;
        }
        match (&event.event, row.as_mut()) {
            (TenantEvent::TenantCreated(created), _) => {
                *row = Some(TenantRow {
                    name: created.name.clone(),
                    plan: created.plan.as_str().to_owned(),
                    status: "active".to_owned(),
                    registration_id: created.registration_id.clone(),
                    created_at: at,
                    updated_at: at,
                });
            }
            (TenantEvent::TenantWithdrawn(_), _) => *row = None,
            (TenantEvent::TenantUpdated(updated), Some(row)) => row.name.clone_from(&updated.name),
            (TenantEvent::TenantPlanChanged(changed), Some(row)) => {
                changed.plan.as_str().clone_into(&mut row.plan);
            }
            (TenantEvent::TenantDeactivated(_), Some(row)) => {
                "deactivated".clone_into(&mut row.status);
            }
            // No row: an operator skipped the tenant's beginning.
            (
                TenantEvent::TenantUpdated(_)
                | TenantEvent::TenantPlanChanged(_)
                | TenantEvent::TenantDeactivated(_)
                | TenantEvent::TenantAdmittedRegistration(_)
                | TenantEvent::TenantRefusedRegistration(_),
                _,
            ) => {}
        }
        Ok(())
    }
}
