//! How somebody becomes a user, by the events of the aggregates alone:
//!
//! ```text
//! RegistrationStarted ──────────[registration-steps]─> ClaimEmail
//!     EmailClaimed ─────────────[email-registration]─> RecordStep ─> RegistrationEmailClaimed
//! RegistrationEmailClaimed ─────[registration-steps]─> AdmitRegistration, which brings a tenant that is new
//!     TenantAdmittedRegistration ─[tenant-registration]─> RecordStep ─> RegistrationAdmitted
//! RegistrationAdmitted ─────────[registration-steps]─> CreateWorkspace with its owner
//!     WorkspaceCreated ─────────[workspace-registration]─> RecordStep ─> RegistrationWorkspaceCreated
//! RegistrationWorkspaceCreated ─[registration-steps]─> CreateUser
//!     UserRegistered ───────────[user-registration]─> RecordStep ─> RegistrationCompleted
//!
//! …Refused of any of the four ─> RecordRefusal ─> RegistrationRefused
//! RegistrationRefused ──────────[registration-steps]─> WithdrawWorkspace, WithdrawAdmission, ReleaseEmail: what it took
//! RegistrationOverdue ──────────[registration-steps]─> WithdrawUser, whose answer refuses the registration
//! UserDeactivated ──────────────[user-registration]─> ReleaseEmail
//! ```
//!
//! Per registration and other aggregate the commands follow the registration's events: these have one key, and so have
//! the commands. What is given back never overtakes what was asked for.

pub mod email_registration;
pub mod registration_steps;
pub mod tenant_registration;
pub mod user_registration;
pub mod workspace_registration;

use millrace::processor::Outbox;
use schemas::identity::registration::{RecordRefusal, RecordStep, RegistrationStep};

fn taken(out: &mut Outbox<'_>, registration_id: &str, step: RegistrationStep) {
    let tenant_created = false;
    let taken = RecordStep {
        step,
        tenant_created,
    };
    out.send(registration_id, &taken);
}

fn refused(out: &mut Outbox<'_>, registration_id: &str, step: RegistrationStep, reason: &str) {
    let reason = reason.to_owned();
    out.send(registration_id, &RecordRefusal { step, reason });
}
