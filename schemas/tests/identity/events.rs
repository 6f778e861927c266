//! What happens.

use millrace::testing::contract;
use schemas::identity::email::*;
use schemas::identity::registration::*;
use schemas::identity::tenant::*;
use schemas::identity::user::*;
use schemas::identity::workspace::*;

use super::{golden, some, text};

#[test]
fn the_events_of_a_tenant_are_what_their_schema_files_say() {
    let samples: [TenantEvent; 7] = [
        TenantCreated {
            name: text("name"),
            plan: Plan::Enterprise,
            registration_id: some("registration_id"),
        }
        .into(),
        TenantUpdated { name: text("name") }.into(),
        TenantPlanChanged {
            plan: Plan::Enterprise,
        }
        .into(),
        TenantDeactivated {
            reason: text("reason"),
        }
        .into(),
        TenantAdmittedRegistration {
            registration_id: text("registration_id"),
            tenant_created: true,
        }
        .into(),
        TenantRefusedRegistration {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        TenantWithdrawn {
            registration_id: text("registration_id"),
        }
        .into(),
    ];
    contract::check(&samples, &golden("golden"));
}

#[test]
fn the_events_of_an_email_are_what_their_schema_files_say() {
    let samples: [EmailEvent; 3] = [
        EmailClaimed {
            tenant_id: text("tenant_id"),
            email: text("email"),
            registration_id: text("registration_id"),
            user_id: text("user_id"),
        }
        .into(),
        EmailClaimRefused {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        EmailReleased {
            registration_id: text("registration_id"),
        }
        .into(),
    ];
    contract::check(&samples, &golden("golden"));
}

#[test]
fn the_events_of_a_user_are_what_their_schema_files_say() {
    let samples: [UserEvent; 7] = [
        UserRegistered {
            tenant_id: text("tenant_id"),
            registration_id: text("registration_id"),
            email: text("email"),
            first_name: text("first_name"),
            last_name: text("last_name"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
            credential_id: some("credential_id"),
            role: UserRole::Admin,
        }
        .into(),
        UserRegistrationRefused {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        UserEmailVerified {
            email: "ada@example.com".into(),
        }
        .into(),
        UserActivated {
            tenant_id: "acme".into(),
        }
        .into(),
        UserUpdated {
            first_name: text("first_name"),
            last_name: text("last_name"),
            avatar_url: some("avatar_url"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
        }
        .into(),
        UserRoleChanged {
            role: UserRole::Admin,
        }
        .into(),
        UserDeactivated {
            reason: text("reason"),
            tenant_id: text("tenant_id"),
            email: text("email"),
            registration_id: text("registration_id"),
        }
        .into(),
    ];
    contract::check(&samples, &golden("golden"));
}

#[test]
fn the_events_of_a_workspace_are_what_their_schema_files_say() {
    let samples: [WorkspaceEvent; 7] = [
        WorkspaceCreated {
            tenant_id: text("tenant_id"),
            name: text("name"),
            registration_id: some("registration_id"),
        }
        .into(),
        WorkspaceCreationRefused {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        WorkspaceUpdated {
            name: text("name"),
            description: some("description"),
        }
        .into(),
        WorkspaceDeactivated {
            reason: text("reason"),
        }
        .into(),
        WorkspaceMemberAdded {
            user_id: text("user_id"),
            role: MemberRole::Owner,
        }
        .into(),
        WorkspaceMemberRemoved {
            user_id: text("user_id"),
        }
        .into(),
        WorkspaceMemberRoleChanged {
            user_id: text("user_id"),
            role: MemberRole::Owner,
        }
        .into(),
    ];
    contract::check(&samples, &golden("golden"));
}

#[test]
fn the_events_of_a_registration_are_what_their_schema_files_say() {
    let samples: [RegistrationEvent; 7] = [
        RegistrationStarted {
            tenant_id: text("tenant_id"),
            tenant_name: some("tenant_name"),
            email: text("email"),
            user_id: text("user_id"),
            first_name: text("first_name"),
            last_name: text("last_name"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
            workspace_id: text("workspace_id"),
            workspace_name: text("workspace_name"),
            credential_id: some("credential_id"),
        }
        .into(),
        RegistrationEmailClaimed {
            tenant_id: text("tenant_id"),
            tenant_name: some("tenant_name"),
        }
        .into(),
        RegistrationAdmitted {
            tenant_id: text("tenant_id"),
            tenant_created: true,
            user_id: text("user_id"),
            workspace_id: text("workspace_id"),
            workspace_name: text("workspace_name"),
        }
        .into(),
        RegistrationWorkspaceCreated {
            tenant_id: text("tenant_id"),
            user_id: text("user_id"),
            email: text("email"),
            first_name: text("first_name"),
            last_name: text("last_name"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
            credential_id: some("credential_id"),
            role: UserRole::Admin,
        }
        .into(),
        RegistrationOverdue {
            user_id: text("user_id"),
            reason: text("reason"),
        }
        .into(),
        RegistrationCompleted {
            tenant_id: text("tenant_id"),
            email: text("email"),
            user_id: text("user_id"),
            workspace_id: text("workspace_id"),
        }
        .into(),
        RegistrationRefused {
            step: RegistrationStep::User,
            reason: text("reason"),
            tenant_id: text("tenant_id"),
            email: text("email"),
            workspace_id: text("workspace_id"),
            give_back: vec![Holding::Workspace],
        }
        .into(),
    ];
    contract::check(&samples, &golden("golden"));
}
