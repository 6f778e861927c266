//! A workspace of a tenant and its members.
//!
//! Invariant: a workspace has at least one owner from its first event on, until it is deactivated.
//!
//! The schedule that would break it: a workspace has two owners, and each is removed (or made a member) at the same time by
//! a command that sees the other one. Both decisions expect the same version, the journal takes one, the other is
//! decided again and is rejected.

use std::collections::BTreeMap;

use millrace::aggregate::{Aggregate, Context};
use schemas::identity::workspace::*;
use serde::{Deserialize, Serialize};

use super::checks::{BadField, check_id, check_line, check_tenant_id};

/// Most members of a workspace: all are in its state and in its snapshots.
const MEMBERS_MAX: usize = 1000;

/// Why a workspace does not do what is asked. That a registration does not get its workspace is an event instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that cannot be.
    #[error(transparent)]
    Field(#[from] BadField),
    /// There is none.
    #[error("there is no such workspace")]
    Unknown,
    /// There is another one.
    #[error("the workspace exists, of another tenant, name or registration")]
    Exists,
    /// It has ended.
    #[error("the workspace is deactivated")]
    Deactivated,
    /// Nobody would look after it.
    #[error("{user_id} is the workspace's last owner; make another member an owner first")]
    LastOwner {
        /// Who.
        user_id: String,
    },
    /// Who is a member already.
    #[error("{user_id} is a member with role {role}; change the role instead")]
    OtherRole {
        /// Who.
        user_id: String,
        /// What they may do.
        role: &'static str,
    },
    /// Who is no member.
    #[error("{user_id} is not a member of the workspace")]
    NotAMember {
        /// Who.
        user_id: String,
    },
    /// More than is handled.
    #[error("a workspace has at most {MEMBERS_MAX} members")]
    TooManyMembers,
}

/// Where a workspace is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such workspace.
    #[default]
    New,
    /// It can be worked in.
    Active,
    /// Nothing more happens.
    Deactivated,
}

/// A workspace, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Workspace {
    status: Status,
    tenant_id: String,
    name: String,
    description: Option<String>,
    registration_id: Option<String>,
    members: BTreeMap<String, MemberRole>,
}

impl Aggregate for Workspace {
    type Command = WorkspaceCommand;
    type Event = WorkspaceEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: WorkspaceCommand,
        _: &Context,
    ) -> Result<Vec<WorkspaceEvent>, Rejection> {
        match command {
            WorkspaceCommand::CreateWorkspace(command) => self.create(command),
            WorkspaceCommand::WithdrawWorkspace(command) => {
                let WithdrawWorkspace {
                    registration_id,
                    reason,
                } = command;
                let theirs = self.registration_id == Some(registration_id);
                let open = theirs && self.status == Status::Active;
                Ok(only_if(open, WorkspaceDeactivated { reason }))
            }
            WorkspaceCommand::UpdateWorkspace(command) => self.update(command),
            WorkspaceCommand::DeactivateWorkspace(DeactivateWorkspace { reason }) => {
                check_line("reason", &reason)?;
                match self.status {
                    Status::New => Err(Rejection::Unknown),
                    Status::Active => Ok(vec![WorkspaceDeactivated { reason }.into()]),
                    Status::Deactivated => Ok(Vec::new()),
                }
            }
            WorkspaceCommand::AddWorkspaceMember(AddWorkspaceMember { user_id, role }) => {
                self.add_member(user_id, role)
            }
            WorkspaceCommand::RemoveWorkspaceMember(RemoveWorkspaceMember { user_id }) => {
                self.remove_member(user_id)
            }
            WorkspaceCommand::ChangeWorkspaceMemberRole(command) => {
                let ChangeWorkspaceMemberRole { user_id, role } = command;
                self.change_role(user_id, role)
            }
        }
    }

    fn evolve(&mut self, event: &WorkspaceEvent) {
        match event {
            WorkspaceEvent::WorkspaceCreated(created) => {
                self.status = Status::Active;
                self.tenant_id.clone_from(&created.tenant_id);
                self.name.clone_from(&created.name);
                self.registration_id.clone_from(&created.registration_id);
            }
            WorkspaceEvent::WorkspaceCreationRefused(_) => {}
            WorkspaceEvent::WorkspaceUpdated(updated) => {
                self.name.clone_from(&updated.name);
                self.description.clone_from(&updated.description);
            }
            WorkspaceEvent::WorkspaceDeactivated(_) => self.status = Status::Deactivated,
            WorkspaceEvent::WorkspaceMemberAdded(added) => {
                self.members.insert(added.user_id.clone(), added.role);
            }
            WorkspaceEvent::WorkspaceMemberRemoved(removed) => {
                self.members.remove(&removed.user_id);
            }
            WorkspaceEvent::WorkspaceMemberRoleChanged(changed) => {
                self.members.insert(changed.user_id.clone(), changed.role);
            }
        }
    }
}

/// The event where there is something to tell, and otherwise none: a repeated command changes nothing.
fn only_if(changed: bool, event: impl Into<WorkspaceEvent>) -> Vec<WorkspaceEvent> {
    changed.then(|| event.into()).into_iter().collect()
}

impl Workspace {
    fn create(&self, command: CreateWorkspace) -> Result<Vec<WorkspaceEvent>, Rejection> {
        let CreateWorkspace {
            tenant_id,
            name,
            owner_id: user_id,
            registration_id,
        } = command;
        check_tenant_id(&tenant_id)?;
        check_line("name", &name)?;
        check_id("owner_id", &user_id)?;
        if self.status == Status::New {
            let created = WorkspaceCreated {
                tenant_id,
                name,
                registration_id,
            };
            let role = MemberRole::Owner;
            let owner = WorkspaceMemberAdded { user_id, role };
            return Ok(vec![created.into(), owner.into()]);
        }
        let same = self.registration_id == registration_id
            && (registration_id.is_some() || (self.tenant_id == tenant_id && self.name == name));
        match registration_id {
            _ if same => Ok(Vec::new()),
            Some(registration_id) => Ok(vec![
                WorkspaceCreationRefused {
                    registration_id,
                    reason: "the workspace id is another workspace's".to_owned(),
                }
                .into(),
            ]),
            None => Err(Rejection::Exists),
        }
    }

    fn update(&self, command: UpdateWorkspace) -> Result<Vec<WorkspaceEvent>, Rejection> {
        self.must_be_active()?;
        let name = command.name.unwrap_or_else(|| self.name.clone());
        check_line("name", &name)?;
        let description = match command.description {
            None => self.description.clone(),
            Some(cleared) if cleared.is_empty() => None,
            Some(given) => {
                check_line("description", &given)?;
                Some(given)
            }
        };
        let changed = name != self.name || description != self.description;
        Ok(only_if(changed, WorkspaceUpdated { name, description }))
    }

    fn add_member(
        &self,
        user_id: String,
        role: MemberRole,
    ) -> Result<Vec<WorkspaceEvent>, Rejection> {
        self.must_be_active()?;
        check_id("user_id", &user_id)?;
        match self.members.get(&user_id) {
            Some(has) if *has == role => Ok(Vec::new()),
            Some(has) => Err(Rejection::OtherRole {
                role: has.as_str(),
                user_id,
            }),
            None if self.members.len() >= MEMBERS_MAX => Err(Rejection::TooManyMembers),
            None => Ok(vec![WorkspaceMemberAdded { user_id, role }.into()]),
        }
    }

    fn remove_member(&self, user_id: String) -> Result<Vec<WorkspaceEvent>, Rejection> {
        self.must_be_active()?;
        self.must_leave_an_owner(&user_id)?;
        let member = self.members.contains_key(&user_id);
        Ok(only_if(member, WorkspaceMemberRemoved { user_id }))
    }

    fn change_role(
        &self,
        user_id: String,
        role: MemberRole,
    ) -> Result<Vec<WorkspaceEvent>, Rejection> {
        self.must_be_active()?;
        let Some(has) = self.members.get(&user_id) else {
            return Err(Rejection::NotAMember { user_id });
        };
        if *has == role {
            return Ok(Vec::new());
        }
        self.must_leave_an_owner(&user_id)?;
        Ok(vec![WorkspaceMemberRoleChanged { user_id, role }.into()])
    }

    /// That there is an owner also without this member as one.
    fn must_leave_an_owner(&self, user_id: &str) -> Result<(), Rejection> {
        let owner = |(_, role): &(&String, &MemberRole)| **role == MemberRole::Owner;
        let mut others = self.members.iter().filter(owner);
        match others.any(|(other, _)| other != user_id) {
            true => Ok(()),
            false => Err(Rejection::LastOwner {
                user_id: user_id.to_owned(),
            }),
        }
    }

    fn must_be_active(&self) -> Result<(), Rejection> {
        match self.status {
            Status::New => Err(Rejection::Unknown),
            Status::Active => Ok(()),
            Status::Deactivated => Err(Rejection::Deactivated),
        }
    }
}

#[cfg(test)]
mod tests;
