//! How somebody becomes a user, as one business act: the address, the tenant, the first workspace, the user.
//!
//! ```text
//! started -> email claimed -> admitted -> workspace created -> completed
//!    \____________\____________\___________\____________________> refused
//! ```
//!
//! Each event holds what is needed to ask for the next step, for whoever asks remembers nothing.

use serde::{Deserialize, Serialize};

use super::user::UserRole;

millrace::events! {
    /// What can happen to a registration.
    pub enum RegistrationEvent for "registration" in "identity" {
        RegistrationStarted [1],
        RegistrationEmailClaimed [1],
        RegistrationAdmitted [1],
        RegistrationWorkspaceCreated [1],
        RegistrationOverdue [1],
        RegistrationCompleted [1],
        RegistrationRefused [1],
    }
}

millrace::commands! {
    /// What can be asked of a registration.
    pub enum RegistrationCommand for "registration" in "identity" {
        RegisterUser [1],
        RecordStep [1]
            sent_by ["email-registration", "tenant-registration", "workspace-registration", "user-registration"],
        RecordRefusal [1]
            sent_by ["email-registration", "tenant-registration", "workspace-registration", "user-registration"],
        ExpireRegistration [1] sent_by ["limit"],
    }
}

/// A step of a registration, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationStep {
    /// The address is claimed.
    #[default]
    Email,
    /// The tenant admits it.
    Tenant,
    /// The first workspace is created.
    Workspace,
    /// The user is created.
    User,
}

impl RegistrationStep {
    /// Its name in schemas and views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Tenant => "tenant",
            Self::Workspace => "workspace",
            Self::User => "user",
        }
    }
}

/// What a registration has of others until it is completed; the user is no holding, but its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// The claim on the address.
    #[default]
    Email,
    /// Its place in the tenant, and the tenant where that came with it.
    Tenant,
    /// The first workspace.
    Workspace,
}

/// Somebody wants to be a user of a tenant. The address is to be claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationStarted {
    /// Which tenant.
    pub tenant_id: String,
    /// Name of a tenant that is new.
    #[serde(default)]
    pub tenant_name: Option<String>,
    /// Address, normalized.
    pub email: String,
    /// Id of the user to be.
    pub user_id: String,
    /// Given name.
    pub first_name: String,
    /// Family name; may be empty.
    pub last_name: String,
    /// E.164, such as `+4930123456`.
    #[serde(default)]
    pub phone: Option<String>,
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// BCP 47 tag, such as `de-AT`.
    #[serde(default)]
    pub language: Option<String>,
    /// Id of the first workspace to be.
    pub workspace_id: String,
    /// Name of the first workspace.
    pub workspace_name: String,
    /// Row of `identity.credentials` that holds the hash of the password.
    #[serde(default)]
    pub credential_id: Option<String>,
}

/// The address is the registration's. The tenant is to be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationEmailClaimed {
    /// Which tenant.
    pub tenant_id: String,
    /// Name of a tenant that is new.
    #[serde(default)]
    pub tenant_name: Option<String>,
}

/// The tenant admits the registration. The workspace is to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationAdmitted {
    /// Which tenant.
    pub tenant_id: String,
    /// The tenant came with this registration.
    pub tenant_created: bool,
    /// Which user.
    pub user_id: String,
    /// Which workspace.
    pub workspace_id: String,
    /// Name of the first workspace.
    pub workspace_name: String,
}

/// The workspace is there. The user, who is the last step, is to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationWorkspaceCreated {
    /// Which tenant.
    pub tenant_id: String,
    /// Which user.
    pub user_id: String,
    /// Address, normalized.
    pub email: String,
    /// Given name.
    pub first_name: String,
    /// Family name; may be empty.
    pub last_name: String,
    /// E.164, such as `+4930123456`.
    #[serde(default)]
    pub phone: Option<String>,
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// BCP 47 tag, such as `de-AT`.
    #[serde(default)]
    pub language: Option<String>,
    /// Row of `identity.credentials` that holds the hash of the password.
    #[serde(default)]
    pub credential_id: Option<String>,
    /// What the user may do in the tenant.
    pub role: UserRole,
}

/// Too much time went by, and the user may be there or not. The user is to be taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationOverdue {
    /// Which user.
    pub user_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// The user is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationCompleted {
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Which user.
    pub user_id: String,
    /// Which workspace.
    pub workspace_id: String,
}

/// The registration has ended without a user. What it took is to be given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationRefused {
    /// Where it ended.
    pub step: RegistrationStep,
    /// Why, for a person to read.
    pub reason: String,
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Which workspace.
    pub workspace_id: String,
    /// What it took or may have taken, in the order to give it back.
    #[serde(default)]
    pub give_back: Vec<Holding>,
}

/// Brings a user, with a first workspace and with the tenant where that one is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterUser {
    /// Which tenant.
    pub tenant_id: String,
    /// Name of a tenant that is new; its id where there is none.
    #[serde(default)]
    pub tenant_name: Option<String>,
    /// Address, as the user writes it.
    pub email: String,
    /// The registration's id where there is none.
    #[serde(default)]
    pub user_id: Option<String>,
    /// Given name.
    pub first_name: String,
    /// Family name; may be empty.
    pub last_name: String,
    /// E.164, such as `+4930123456`.
    #[serde(default)]
    pub phone: Option<String>,
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// BCP 47 tag, such as `de-AT`.
    #[serde(default)]
    pub language: Option<String>,
    /// The user's name where there is none.
    #[serde(default)]
    pub workspace_name: Option<String>,
    /// Row of `identity.credentials` that holds the hash of the password.
    #[serde(default)]
    pub credential_id: Option<String>,
}

/// A step of the registration was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordStep {
    /// Which one.
    pub step: RegistrationStep,
    /// Of the step tenant: it came with this registration.
    #[serde(default)]
    pub tenant_created: bool,
}

/// A step of the registration was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRefusal {
    /// Which one.
    pub step: RegistrationStep,
    /// Why, for a person to read.
    pub reason: String,
}

/// Ends a registration that did not end in time; one that has ended stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireRegistration {}
