//! A tenant: created, by a registration or without one, and active until it is deactivated for ever.
//!
//! Invariant: a tenant that a registration brought goes with that registration where it is refused elsewhere, and only
//! while nobody else rests on it.
//!
//! The schedules that would break it:
//! - Two registrations bring the same new tenant. Both are decided on none; the journal takes one of them, and the other is
//!   decided again, on a tenant that is there, and is admitted to it.
//! - The first of them is refused and takes its tenant back while the second has been admitted. So whatever else happens
//!   in a tenant makes it everybody's: `brought_by` is forgotten, and nobody takes it back.
//! - A withdrawal arrives twice, the second time after another registration brought the tenant anew. It names the
//!   registration that it is for.
//!
//! A registration that was admitted before the tenant was deactivated still brings its user: it came first.

use millrace::aggregate::{Aggregate, Context};
use schemas::identity::tenant::*;
use serde::{Deserialize, Serialize};

use super::checks::{BadField, check_id, check_line, check_tenant_id};

/// Why a tenant does not do what is asked of it. That it admits nobody is an event instead: the registration reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that cannot be.
    #[error(transparent)]
    Field(#[from] BadField),
    /// There is none.
    #[error("there is no such tenant")]
    Unknown,
    /// There is another one.
    #[error("the tenant exists, as {name} with another plan or name")]
    Exists {
        /// What it is called.
        name: String,
    },
    /// It has ended.
    #[error("the tenant is deactivated")]
    Deactivated,
}

/// Where a tenant is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such tenant.
    #[default]
    New,
    /// It takes users.
    Active,
    /// Nothing more happens.
    Deactivated,
}

/// A tenant, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    status: Status,
    name: String,
    plan: Plan,
    /// The registration that it came with, while it is that one's alone.
    brought_by: Option<String>,
}

impl Aggregate for Tenant {
    type Command = TenantCommand;
    type Event = TenantEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: TenantCommand,
        context: &Context,
    ) -> Result<Vec<TenantEvent>, Rejection> {
        match command {
            TenantCommand::CreateTenant(command) => self.create(command, context),
            TenantCommand::UpdateTenant(UpdateTenant { name }) => {
                self.must_be_active()?;
                check_line("name", &name)?;
                let changed = self.name != name;
                Ok(only_if(changed, TenantUpdated { name }))
            }
            TenantCommand::ChangeTenantPlan(ChangeTenantPlan { plan }) => {
                self.must_be_active()?;
                Ok(only_if(self.plan != plan, TenantPlanChanged { plan }))
            }
            TenantCommand::DeactivateTenant(DeactivateTenant { reason }) => {
                check_line("reason", &reason)?;
                match self.status {
                    Status::New => Err(Rejection::Unknown),
                    Status::Active => Ok(vec![TenantDeactivated { reason }.into()]),
                    Status::Deactivated => Ok(Vec::new()),
                }
            }
            TenantCommand::AdmitRegistration(command) => self.admit(command, context),
            TenantCommand::WithdrawAdmission(WithdrawAdmission { registration_id }) => {
                let theirs = self.status == Status::Active
                    && self.brought_by.as_ref() == Some(&registration_id);
                Ok(only_if(theirs, TenantWithdrawn { registration_id }))
            }
        }
    }

    fn evolve(&mut self, event: &TenantEvent) {
        match event {
            TenantEvent::TenantCreated(created) => {
                self.status = Status::Active;
                self.name.clone_from(&created.name);
                self.plan = created.plan;
                self.brought_by.clone_from(&created.registration_id);
            }
            TenantEvent::TenantUpdated(updated) => {
                self.name.clone_from(&updated.name);
                self.brought_by = None;
            }
            TenantEvent::TenantPlanChanged(changed) => {
                self.plan = changed.plan;
                self.brought_by = None;
            }
            TenantEvent::TenantDeactivated(_) => {
                self.status = Status::Deactivated;
                self.brought_by = None;
            }
            TenantEvent::TenantAdmittedRegistration(admitted) => {
                if !admitted.tenant_created {
                    self.brought_by = None;
                }
            }
            TenantEvent::TenantRefusedRegistration(_) => {}
            TenantEvent::TenantWithdrawn(_) => *self = Self::default(),
        }
    }
}

/// The event where there is something to tell, and otherwise none: a repeated command changes nothing.
fn only_if(changed: bool, event: impl Into<TenantEvent>) -> Vec<TenantEvent> {
    changed.then(|| event.into()).into_iter().collect()
}

impl Tenant {
    fn create(
        &self,
        command: CreateTenant,
        context: &Context,
    ) -> Result<Vec<TenantEvent>, Rejection> {
        let CreateTenant { name, plan } = command;
        check_tenant_id(&context.aggregate_id)?;
        check_line("name", &name)?;
        match self.status {
            Status::New => Ok(vec![created(name, plan, None)]),
            Status::Active if self.name == name && self.plan == plan => Ok(Vec::new()),
            Status::Active => Err(Rejection::Exists {
                name: self.name.clone(),
            }),
            Status::Deactivated => Err(Rejection::Deactivated),
        }
    }

    fn admit(
        &self,
        command: AdmitRegistration,
        context: &Context,
    ) -> Result<Vec<TenantEvent>, Rejection> {
        let AdmitRegistration {
            registration_id,
            tenant_name,
        } = command;
        check_id("registration_id", &registration_id)?;
        let tenant_created = match self.status {
            Status::New => true,
            Status::Active => self.brought_by.as_ref() == Some(&registration_id),
            Status::Deactivated => {
                return Ok(vec![
                    TenantRefusedRegistration {
                        registration_id,
                        reason: Rejection::Deactivated.to_string(),
                    }
                    .into(),
                ]);
            }
        };
        let mut events = Vec::new();
        if self.status == Status::New {
            check_tenant_id(&context.aggregate_id)?;
            let name = tenant_name.unwrap_or_else(|| context.aggregate_id.clone());
            check_line("tenant_name", &name)?;
            events.push(created(name, Plan::Free, Some(registration_id.clone())));
        }
        let admitted = TenantAdmittedRegistration {
            registration_id,
            tenant_created,
        };
        events.push(admitted.into());
        Ok(events)
    }

    fn must_be_active(&self) -> Result<(), Rejection> {
        match self.status {
            Status::New => Err(Rejection::Unknown),
            Status::Active => Ok(()),
            Status::Deactivated => Err(Rejection::Deactivated),
        }
    }
}

fn created(name: String, plan: Plan, registration_id: Option<String>) -> TenantEvent {
    TenantCreated {
        name,
        plan,
        registration_id,
    }
    .into()
}

#[cfg(test)]
mod tests;
