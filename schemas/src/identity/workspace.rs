//! A workspace of a tenant and its members; the workspace's id is the aggregate's.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a workspace.
    pub enum WorkspaceEvent for "workspace" in "identity" {
        WorkspaceCreated [1],
        WorkspaceCreationRefused [1],
        WorkspaceUpdated [1],
        WorkspaceDeactivated [1],
        WorkspaceMemberAdded [1],
        WorkspaceMemberRemoved [1],
        WorkspaceMemberRoleChanged [1],
    }
}

millrace::commands! {
    /// What can be asked of a workspace.
    pub enum WorkspaceCommand for "workspace" in "identity" {
        CreateWorkspace [1],
        WithdrawWorkspace [1] sent_by ["registration-steps"],
        UpdateWorkspace [1],
        DeactivateWorkspace [1],
        AddWorkspaceMember [1],
        RemoveWorkspaceMember [1],
        ChangeWorkspaceMemberRole [1],
    }
}

/// What a member of a workspace may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Work in it.
    #[default]
    Member,
    /// Look after its members too.
    Admin,
    /// Everything; a workspace has one at any time.
    Owner,
}

impl MemberRole {
    /// Its name in schemas and views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// There is a workspace of this id from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceCreated {
    /// Which tenant.
    pub tenant_id: String,
    /// What people call it.
    pub name: String,
    /// The registration whose first workspace it is, where it is one's.
    #[serde(default)]
    pub registration_id: Option<String>,
}

/// A registration does not get its workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceCreationRefused {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// Name and description of the workspace, as they are from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceUpdated {
    /// What people call it.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// Nothing more happens in the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceDeactivated {
    /// Why, for a person to read.
    pub reason: String,
}

/// A user belongs to the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceMemberAdded {
    /// Which user.
    pub user_id: String,
    /// What the member may do.
    pub role: MemberRole,
}

/// A user belongs to the workspace no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceMemberRemoved {
    /// Which user.
    pub user_id: String,
}

/// A member may do other things in the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceMemberRoleChanged {
    /// Which user.
    pub user_id: String,
    /// What the member may do now.
    pub role: MemberRole,
}

/// Brings a workspace with its first owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// Which tenant.
    pub tenant_id: String,
    /// What people call it.
    pub name: String,
    /// Its first owner, a user.
    pub owner_id: String,
    /// The registration whose first workspace it is; that one hears of a refusal.
    #[serde(default)]
    pub registration_id: Option<String>,
}

/// Ends the workspace, if it is this registration's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawWorkspace {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// Changes what is given; an empty description clears it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWorkspace {
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// Ends the workspace, for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeactivateWorkspace {
    /// Why, for a person to read.
    pub reason: String,
}

/// Lets a user belong to the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddWorkspaceMember {
    /// Which user.
    pub user_id: String,
    /// What the member may do.
    #[serde(default)]
    pub role: MemberRole,
}

/// Lets a user belong to the workspace no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveWorkspaceMember {
    /// Which user.
    pub user_id: String,
}

/// Lets a member do other things in the workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeWorkspaceMemberRole {
    /// Which user.
    pub user_id: String,
    /// What the member may do from now on.
    pub role: MemberRole,
}
