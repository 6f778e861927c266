//! The view `registrations`: where each registration is, and why it was refused.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::identity::registration::{
    RegistrationEvent, RegistrationStarted, RegistrationStep as Step,
};

millrace::view_row! {
    /// A registration.
    pub struct RegistrationRow in "registrations" {
        /// Which tenant.
        tenant_id: String,
        /// Address, normalized.
        email: String,
        /// Id of the user that it is to bring.
        user_id: String,
        /// Id of the workspace that it is to bring.
        workspace_id: String,
        /// `in_progress`, `withdrawing`, `completed` or `refused`.
        status: String,
        /// The step that it is at or has ended at: `email`, `tenant`, `workspace` or `user`.
        step: String,
        /// Why it was refused or is withdrawn.
        reason: Option<String>,
        /// When it began.
        started_at: DateTime<Utc>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a registration's events into its row.
pub struct Registrations;

impl Fold for Registrations {
    const NAME: &'static str = "registrations";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../../migrations/identity/registrations.sql");
    type Event = RegistrationEvent;
    type Rows = Option<RegistrationRow>;

    fn evolve(
        &self,
        row: &mut Option<RegistrationRow>,
        event: &Recorded<RegistrationEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        if let RegistrationEvent::RegistrationStarted(started) = &event.event {
            *row = Some(started_row(started, at));
            return Ok(());
        }
        // No row: an operator skipped the registration's beginning.
        let Some(row) = row else {
            return Ok(());
        };
        row.updated_at = at;
        let (status, step, reason) = match &event.event {
            RegistrationEvent::RegistrationStarted(_) => ("in_progress", Step::Email, None),
            RegistrationEvent::RegistrationEmailClaimed(_) => ("in_progress", Step::Tenant, None),
            RegistrationEvent::RegistrationAdmitted(_) => ("in_progress", Step::Workspace, None),
            RegistrationEvent::RegistrationWorkspaceCreated(_) => ("in_progress", Step::User, None),
            RegistrationEvent::RegistrationOverdue(of) => {
                ("withdrawing", Step::User, Some(of.reason.clone()))
            }
            RegistrationEvent::RegistrationCompleted(_) => ("completed", Step::User, None),
            RegistrationEvent::RegistrationRefused(of) => {
                ("refused", of.step, Some(of.reason.clone()))
            }
        };
        status.clone_into(&mut row.status);
        step.as_str().clone_into(&mut row.step);
        row.reason = reason;
        Ok(())
    }
}

fn started_row(started: &RegistrationStarted, at: DateTime<Utc>) -> RegistrationRow {
    RegistrationRow {
        tenant_id: started.tenant_id.clone(),
        email: started.email.clone(),
        user_id: started.user_id.clone(),
        workspace_id: started.workspace_id.clone(),
        status: "in_progress".to_owned(),
        step: Step::Email.as_str().to_owned(),
        reason: None,
        started_at: at,
        updated_at: at,
    }
}
