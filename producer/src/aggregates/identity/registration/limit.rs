//! When a registration is out of time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace::timer::TimerChange;
use schemas::identity::registration::{ExpireRegistration, RegistrationCommand, RegistrationEvent};

/// Name of the timer.
const TIMER: &str = "limit";

/// Ten minutes: far above what the steps take, also where a role is restarted between them.
const TIMEOUT_MS: u64 = 600_000;

static TIMEOUT: AtomicU64 = AtomicU64::new(TIMEOUT_MS);

/// Settings of registrations.
#[derive(Debug, Clone, clap::Args)]
pub struct RegistrationOptions {
    /// How long after its start a registration is given up unless it has ended. Registrations that were started before
    /// a change keep the time that they were given.
    #[arg(long, env = "REGISTRATION_TIMEOUT_MS", default_value_t = TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    pub registration_timeout_ms: u64,
}

impl RegistrationOptions {
    /// Makes them this process's. A registration's time stands in the journal beside its event, so nothing that is
    /// replayed depends on them.
    pub fn apply(&self) {
        TIMEOUT.store(self.registration_timeout_ms, Ordering::Relaxed);
    }
}

/// What an event does to the timer: a start begins the time, so does each request to take the user back, and an end
/// ends it.
pub(super) fn timers(event: &RegistrationEvent) -> Vec<TimerChange<RegistrationCommand>> {
    match event {
        RegistrationEvent::RegistrationStarted(_) | RegistrationEvent::RegistrationOverdue(_) => {
            let after = Duration::from_millis(TIMEOUT.load(Ordering::Relaxed));
            vec![TimerChange::set(TIMER, after, ExpireRegistration {})]
        }
        RegistrationEvent::RegistrationCompleted(_) | RegistrationEvent::RegistrationRefused(_) => {
            vec![TimerChange::cancel(TIMER)]
        }
        RegistrationEvent::RegistrationEmailClaimed(_)
        | RegistrationEvent::RegistrationAdmitted(_)
        | RegistrationEvent::RegistrationWorkspaceCreated(_) => Vec::new(),
    }
}
