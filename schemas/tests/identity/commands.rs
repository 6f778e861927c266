//! What can be asked.

use millrace::testing::contract;
use schemas::identity::email::*;
use schemas::identity::registration::*;
use schemas::identity::tenant::*;
use schemas::identity::user::*;
use schemas::identity::workspace::*;

use super::{golden, some, text};

#[test]
fn the_commands_of_a_tenant_are_what_their_schema_files_say() {
    let samples: [TenantCommand; 6] = [
        CreateTenant {
            name: text("name"),
            plan: Plan::Enterprise,
        }
        .into(),
        UpdateTenant { name: text("name") }.into(),
        ChangeTenantPlan {
            plan: Plan::Enterprise,
        }
        .into(),
        DeactivateTenant {
            reason: text("reason"),
        }
        .into(),
        AdmitRegistration {
            registration_id: text("registration_id"),
            tenant_name: some("tenant_name"),
        }
        .into(),
        WithdrawAdmission {
            registration_id: text("registration_id"),
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("golden/commands"));
}

#[test]
fn the_commands_of_an_email_are_what_their_schema_files_say() {
    let samples: [EmailCommand; 2] = [
        ClaimEmail {
            tenant_id: text("tenant_id"),
            email: text("email"),
            registration_id: text("registration_id"),
            user_id: text("user_id"),
        }
        .into(),
        ReleaseEmail {
            registration_id: text("registration_id"),
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("golden/commands"));
}

#[test]
fn the_commands_of_a_user_are_what_their_schema_files_say() {
    let samples: [UserCommand; 7] = [
        CreateUser {
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
        WithdrawUser {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        VerifyUserEmail {}.into(),
        ActivateUser {}.into(),
        UpdateUser {
            first_name: some("first_name"),
            last_name: some("last_name"),
            avatar_url: some("avatar_url"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
        }
        .into(),
        ChangeUserRole {
            role: UserRole::Admin,
        }
        .into(),
        DeactivateUser {
            reason: text("reason"),
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("golden/commands"));
}

#[test]
fn the_commands_of_a_workspace_are_what_their_schema_files_say() {
    let samples: [WorkspaceCommand; 7] = [
        CreateWorkspace {
            tenant_id: text("tenant_id"),
            name: text("name"),
            owner_id: text("owner_id"),
            registration_id: some("registration_id"),
        }
        .into(),
        WithdrawWorkspace {
            registration_id: text("registration_id"),
            reason: text("reason"),
        }
        .into(),
        UpdateWorkspace {
            name: some("name"),
            description: some("description"),
        }
        .into(),
        DeactivateWorkspace {
            reason: text("reason"),
        }
        .into(),
        AddWorkspaceMember {
            user_id: text("user_id"),
            role: MemberRole::Owner,
        }
        .into(),
        RemoveWorkspaceMember {
            user_id: text("user_id"),
        }
        .into(),
        ChangeWorkspaceMemberRole {
            user_id: text("user_id"),
            role: MemberRole::Owner,
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("golden/commands"));
}

#[test]
fn the_commands_of_a_registration_are_what_their_schema_files_say() {
    let samples: [RegistrationCommand; 4] = [
        RegisterUser {
            tenant_id: text("tenant_id"),
            tenant_name: some("tenant_name"),
            email: text("email"),
            user_id: some("user_id"),
            first_name: text("first_name"),
            last_name: text("last_name"),
            phone: some("phone"),
            timezone: some("timezone"),
            language: some("language"),
            workspace_name: some("workspace_name"),
            credential_id: some("credential_id"),
        }
        .into(),
        RecordStep {
            step: RegistrationStep::User,
            tenant_created: true,
        }
        .into(),
        RecordRefusal {
            step: RegistrationStep::User,
            reason: text("reason"),
        }
        .into(),
        ExpireRegistration {}.into(),
    ];
    contract::check_commands(&samples, &golden("golden/commands"));
}
