//! What the relay says of itself, for `millrace status`, health and metrics.

use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::position::JournalPosition;
use crate::relay::gate::{Gate, GateHolder};

/// What the relay is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RelayRole {
    /// Not started yet.
    Starting,
    /// Publishes.
    Active,
    /// Another one publishes.
    StandingBy,
    /// Will not publish until it is restarted.
    Stopped,
}

/// State of one relay.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct RelayStatus {
    /// What it is doing.
    pub role: RelayRole,
    /// Who leads, while standing by.
    pub leader: Option<String>,
    /// Why it stopped, or the last error that it tried again after.
    pub error: Option<String>,
    /// The last published event's place.
    pub position: Option<JournalPosition>,
    /// Events published by this process.
    pub published: u64,
    /// Events a second, over the last second or more.
    pub events_per_s: f64,
    /// When something was last published.
    pub published_at: Option<DateTime<Utc>>,
    /// How long the gate has been held below the newest transaction; 0 when it is not.
    pub gate_held_ms: u64,
    /// Transaction that holds the gate.
    pub gate_xid: Option<i64>,
    /// Process id of its session.
    pub gate_pid: Option<i32>,
    /// Its `application_name`.
    pub gate_application: Option<String>,
    /// When the journal was last looked at.
    pub read_at: Option<DateTime<Utc>>,
}

impl Default for RelayStatus {
    fn default() -> Self {
        Self {
            role: RelayRole::Starting,
            leader: None,
            error: None,
            position: None,
            published: 0,
            events_per_s: 0.0,
            published_at: None,
            gate_held_ms: 0,
            gate_xid: None,
            gate_pid: None,
            gate_application: None,
            read_at: None,
        }
    }
}

impl RelayStatus {
    /// Takes over what a look at the gate showed; `held_since` is since when the same transaction was seen there.
    pub(super) fn saw_gate(&mut self, gate: &Gate, held_since: Option<Instant>) {
        let holder: Option<&GateHolder> = gate.held_by.as_ref();
        self.read_at = Some(Utc::now());
        self.gate_held_ms = held_since.map_or(0, |since| since.elapsed().as_millis() as u64);
        self.gate_xid = holder.map(|holder| holder.xid);
        self.gate_pid = holder.and_then(|holder| holder.pid);
        self.gate_application = holder.and_then(|holder| holder.application_name.clone());
    }
}

/// Events a second over windows of at least one second.
#[derive(Debug)]
pub(super) struct Rate {
    since: Instant,
    events: u64,
}

impl Rate {
    pub(super) fn start() -> Self {
        Self {
            since: Instant::now(),
            events: 0,
        }
    }

    /// Counts; a rate when a window is complete.
    pub(super) fn count(&mut self, events: u64) -> Option<f64> {
        self.events += events;
        let elapsed = self.since.elapsed().as_secs_f64();
        if elapsed < 1.0 {
            return None;
        }
        let rate = self.events as f64 / elapsed;
        *self = Self::start();
        Some(rate)
    }
}
