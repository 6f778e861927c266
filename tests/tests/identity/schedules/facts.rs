//! What the events of a schedule add up to, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use millrace::aggregate::Aggregate;
use millrace::timer::TimerChange;
use producer::aggregates::identity::registration::Registration;
use schemas::identity::email::{EmailEvent, email_id};
use schemas::identity::registration::RegistrationEvent;
use schemas::identity::tenant::TenantEvent;
use schemas::identity::user::UserEvent;
use schemas::identity::workspace::WorkspaceEvent;

/// What has happened, by the events alone.
#[derive(Default)]
pub(super) struct Facts {
    /// Users who are not deactivated, by tenant and address.
    pub(super) live: BTreeMap<String, BTreeSet<String>>,
    /// The address and the registration of each user who ever came.
    users: BTreeMap<String, (String, String)>,
    claims: BTreeMap<String, String>,
    /// Registrations whose workspace is open.
    open: BTreeSet<String>,
    /// Whose a tenant is alone.
    brought: BTreeMap<String, String>,
    ended: BTreeMap<String, RegistrationEvent>,
    pub(super) timers: BTreeSet<String>,
}

/// How often the rarer turns were taken, so that a test that no longer takes them fails.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) completed: u64,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) withdrawn: u64,
    pub(super) reused: u64,
    pub(super) taken_back: u64,
}

impl Facts {
    pub(super) fn of_email(&mut self, id: &str, event: &EmailEvent) {
        match event {
            EmailEvent::EmailClaimed(of) => {
                let before = self
                    .claims
                    .insert(id.to_owned(), of.registration_id.clone());
                assert_eq!(before, None, "{id} had two claims");
            }
            EmailEvent::EmailReleased(_) => {
                self.claims.remove(id);
            }
            EmailEvent::EmailClaimRefused(_) => {}
        }
    }

    pub(super) fn of_tenant(&mut self, id: &str, event: &TenantEvent, turns: &mut Turns) {
        match event {
            TenantEvent::TenantCreated(of) => {
                let by = of.registration_id.clone().unwrap_or_default();
                self.brought.insert(id.to_owned(), by);
            }
            TenantEvent::TenantAdmittedRegistration(of) if of.tenant_created => {}
            TenantEvent::TenantWithdrawn(_) => {
                turns.taken_back += 1;
                self.brought.remove(id);
            }
            _ => {
                self.brought.remove(id);
            }
        }
    }

    pub(super) fn of_workspace(&mut self, id: &str, event: &WorkspaceEvent) {
        match event {
            WorkspaceEvent::WorkspaceCreated(_) => {
                self.open.insert(id.to_owned());
            }
            WorkspaceEvent::WorkspaceDeactivated(_) => {
                self.open.remove(id);
            }
            _ => {}
        }
    }

    pub(super) fn of_user(&mut self, id: &str, event: &UserEvent, turns: &mut Turns) {
        match event {
            UserEvent::UserRegistered(of) => {
                let address = email_id(&of.tenant_id, &of.email);
                let earlier = self.users.values().any(|(other, _)| *other == address);
                turns.reused += u64::from(earlier);
                assert_eq!(
                    self.claims.get(&address),
                    Some(&of.registration_id),
                    "{id} has no claim to the address"
                );
                let live = self.live.entry(address.clone()).or_default();
                live.insert(id.to_owned());
                assert_eq!(live.len(), 1, "two users of one address: {live:?}");
                let from = (address, of.registration_id.clone());
                self.users.insert(id.to_owned(), from);
            }
            UserEvent::UserDeactivated(of) => {
                turns.withdrawn += u64::from(of.reason != "left");
                let address = email_id(&of.tenant_id, &of.email);
                self.live.entry(address).or_default().remove(id);
            }
            _ => {}
        }
    }

    pub(super) fn of_registration(
        &mut self,
        id: &str,
        event: &RegistrationEvent,
        turns: &mut Turns,
    ) {
        for change in Registration::timers(event) {
            match change {
                TimerChange::Set { .. } => self.timers.insert(id.to_owned()),
                TimerChange::Cancel { .. } => self.timers.remove(id),
            };
        }
        match event {
            RegistrationEvent::RegistrationCompleted(_) => turns.completed += 1,
            RegistrationEvent::RegistrationRefused(of) => {
                *turns.refused.entry(of.step.as_str()).or_default() += 1;
            }
            _ => return,
        }
        let before = self.ended.insert(id.to_owned(), event.clone());
        assert_eq!(before, None, "{id} ended twice");
    }

    /// That the registration has ended, and with what it should have.
    pub(super) fn check_end(&self, id: &str) {
        let user = self
            .users
            .values()
            .any(|(_, registration)| registration == id);
        let claims = self.claims.values().any(|by| by == id);
        let live = self.live.values().flatten().any(|user| {
            let of = self.users.get(user);
            of.is_some_and(|(_, registration)| registration == id)
        });
        match self.ended.get(id) {
            Some(RegistrationEvent::RegistrationCompleted(_)) => {
                assert!(user, "{id} was completed without a user");
                assert!(self.open.contains(id), "{id} has no workspace");
                assert_eq!(claims, live, "{id}: an address and no user, or the reverse");
            }
            Some(_) => {
                assert!(!live, "{id} was refused and its user is there");
                assert!(!claims, "{id} was refused and has the address");
                assert!(
                    !self.open.contains(id),
                    "{id} was refused, not its workspace"
                );
                let tenant = self.brought.values().any(|by| by == id);
                assert!(!tenant, "{id} was refused and its tenant is there");
            }
            None => panic!("{id} has not ended"),
        }
    }
}
