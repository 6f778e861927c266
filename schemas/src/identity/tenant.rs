//! A tenant: the customer that users and workspaces belong to; its id is the aggregate's.
//!
//! A tenant comes by [`CreateTenant`] or with the first registration that names it. It answers a registration by an
//! event, [`TenantAdmittedRegistration`] or [`TenantRefusedRegistration`]: who registers reads events, not replies.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a tenant.
    pub enum TenantEvent for "tenant" in "identity" {
        TenantCreated [1],
        TenantUpdated [1],
        TenantPlanChanged [1],
        TenantDeactivated [1],
        TenantAdmittedRegistration [1],
        TenantRefusedRegistration [1],
        TenantWithdrawn [1],
    }
}

millrace::commands! {
    /// What can be asked of a tenant.
    pub enum TenantCommand for "tenant" in "identity" {
        CreateTenant [1],
        UpdateTenant [1],
        ChangeTenantPlan [1],
        DeactivateTenant [1],
        AdmitRegistration [1] sent_by ["registration-steps"],
        WithdrawAdmission [1] sent_by ["registration-steps"],
    }
}

/// What a tenant pays for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Nothing.
    #[default]
    Free,
    /// The standard plan.
    Standard,
    /// The plan of large customers.
    Enterprise,
}

impl Plan {
    /// Its name in schemas and views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Standard => "standard",
            Self::Enterprise => "enterprise",
        }
    }
}

/// There is a tenant of this id from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantCreated {
    /// What people call it.
    pub name: String,
    /// What it pays for.
    pub plan: Plan,
    /// The registration that brought it, where one did.
    #[serde(default)]
    pub registration_id: Option<String>,
}

/// The tenant has another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantUpdated {
    /// What people call it.
    pub name: String,
}

/// The tenant pays for something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantPlanChanged {
    /// What it pays for now.
    pub plan: Plan,
}

/// Nothing more happens in the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantDeactivated {
    /// Why, for a person to read.
    pub reason: String,
}

/// A registration may bring its user into the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantAdmittedRegistration {
    /// Which registration.
    pub registration_id: String,
    /// The tenant was new, and came with this registration.
    pub tenant_created: bool,
}

/// A registration may not bring a user into the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantRefusedRegistration {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// The tenant goes with the registration that brought it: its id is free again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantWithdrawn {
    /// Which registration.
    pub registration_id: String,
}

/// Brings a tenant without a registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// What people call it.
    pub name: String,
    /// What it pays for.
    #[serde(default)]
    pub plan: Plan,
}

/// Gives the tenant another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTenant {
    /// What people call it.
    pub name: String,
}

/// Lets the tenant pay for something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTenantPlan {
    /// What it pays for from now on.
    pub plan: Plan,
}

/// Ends the tenant, for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeactivateTenant {
    /// Why, for a person to read.
    pub reason: String,
}

/// Asks for a registration's place in the tenant, which is created where it is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmitRegistration {
    /// Which registration.
    pub registration_id: String,
    /// Name of a tenant that is new; its id where there is none.
    #[serde(default)]
    pub tenant_name: Option<String>,
}

/// Takes back what a registration asked for that was refused elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawAdmission {
    /// Which registration.
    pub registration_id: String,
}
