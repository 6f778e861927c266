//! A user: registered -> active -> deactivated; the user's id is the aggregate's.
//!
//! A user comes with a registration alone, which has claimed the address before: [`CreateUser`] is that one's last step.
//! The hash of a password is in none of these; `credential_id` names the row that holds it.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a user.
    pub enum UserEvent for "user" in "identity" {
        UserRegistered [1],
        UserRegistrationRefused [1],
        UserEmailVerified [1],
        UserActivated [1],
        UserUpdated [1],
        UserRoleChanged [1],
        UserDeactivated [1],
    }
}

millrace::commands! {
    /// What can be asked of a user.
    pub enum UserCommand for "user" in "identity" {
        CreateUser [1] sent_by ["registration-steps"],
        WithdrawUser [1] sent_by ["registration-steps"],
        VerifyUserEmail [1],
        ActivateUser [1],
        UpdateUser [1],
        ChangeUserRole [1],
        DeactivateUser [1],
    }
}

/// What a user may do in the tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserRole {
    /// Act for themselves.
    #[default]
    Member,
    /// Act for the tenant too; whoever brought it does.
    Admin,
}

impl UserRole {
    /// Its name in schemas and views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

/// There is a user of this id from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRegistered {
    /// Which tenant.
    pub tenant_id: String,
    /// Which registration.
    pub registration_id: String,
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

/// A registration does not get its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRegistrationRefused {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// The user has shown that the address is theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserEmailVerified {
    /// Address, normalized.
    pub email: String,
}

/// The user may act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserActivated {
    /// Which tenant.
    pub tenant_id: String,
}

/// The profile of the user, as it is from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserUpdated {
    /// Given name.
    pub first_name: String,
    /// Family name; may be empty.
    pub last_name: String,
    /// Where the picture is.
    #[serde(default)]
    pub avatar_url: Option<String>,
    /// E.164, such as `+4930123456`.
    #[serde(default)]
    pub phone: Option<String>,
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// BCP 47 tag, such as `de-AT`.
    #[serde(default)]
    pub language: Option<String>,
}

/// The user may do other things in the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRoleChanged {
    /// What the user may do in the tenant now.
    pub role: UserRole,
}

/// Nothing more happens to the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserDeactivated {
    /// Why, for a person to read.
    pub reason: String,
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// The one that claimed the address.
    pub registration_id: String,
}

/// Brings the user of a registration, as its last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Which tenant.
    pub tenant_id: String,
    /// Which registration.
    pub registration_id: String,
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
    #[serde(default)]
    pub role: UserRole,
}

/// Takes back the user of a registration that is not to be completed any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawUser {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// The address is the user's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyUserEmail {}

/// Lets the user act; needs a verified address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateUser {}

/// Changes what is given of the profile; an empty text clears what may be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateUser {
    /// Given name.
    #[serde(default)]
    pub first_name: Option<String>,
    /// Family name; may be empty.
    #[serde(default)]
    pub last_name: Option<String>,
    /// Where the picture is: https.
    #[serde(default)]
    pub avatar_url: Option<String>,
    /// E.164, such as `+4930123456`.
    #[serde(default)]
    pub phone: Option<String>,
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// BCP 47 tag, such as `de-AT`.
    #[serde(default)]
    pub language: Option<String>,
}

/// Lets the user do other things in the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeUserRole {
    /// What the user may do from now on.
    pub role: UserRole,
}

/// Ends the user, for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeactivateUser {
    /// Why, for a person to read.
    pub reason: String,
}
