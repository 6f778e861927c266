//! Health: alive is answering at all, ready is every component saying so.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::api::{Api, Operation, Shape};

/// What the components of a process say of themselves; clones share it.
#[derive(Clone, Default)]
pub struct Health {
    components: Arc<RwLock<BTreeMap<String, Option<String>>>>,
}

/// One component's voice.
#[derive(Clone)]
pub struct Component {
    name: String,
    health: Health,
}

/// How a process is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
struct Report {
    /// True where every component is ready.
    ready: bool,
    /// `ready`, or why not.
    components: BTreeMap<String, String>,
}

impl Health {
    /// Adds a component, which is not ready until it says so.
    pub fn component(&self, name: &str) -> Component {
        let component = Component {
            name: name.to_owned(),
            health: self.clone(),
        };
        component.not_ready("starting");
        component
    }

    /// True where every component is ready, and there is one.
    pub fn is_ready(&self) -> bool {
        let components = self
            .components
            .read()
            .expect("no holder of the lock panics");
        !components.is_empty() && components.values().all(Option::is_none)
    }

    /// `GET /health/live` and `GET /health/ready`, the latter 503 with the reasons until all are ready; `GET /events/health`
    /// is the same as that.
    pub fn api(&self) -> Api {
        let live = Operation::get("/health/live", "operations", "Whether the process answers")
            .answers_as(StatusCode::OK, "It does.", "text/plain");
        Api::new()
            .route(live, async || "alive\n")
            .route(readiness("/health/ready"), ready)
            .route(readiness("/events/health"), ready)
            .with_state(self.clone())
    }
}

impl Component {
    /// This component can do its work.
    pub fn ready(&self) {
        self.set(None);
    }

    /// This component cannot do its work, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut components = self
            .health
            .components
            .write()
            .expect("no holder of the lock panics");
        components.insert(self.name.clone(), reason);
    }
}

fn readiness(path: &str) -> Operation {
    Operation::get(
        path,
        "operations",
        "Whether every component of the process is ready",
    )
    .answers(StatusCode::OK, "All are.", Shape::of::<Report>())
    .answers(
        StatusCode::SERVICE_UNAVAILABLE,
        "Some are not, and why.",
        Shape::of::<Report>(),
    )
}

async fn ready(State(health): State<Health>) -> (StatusCode, Json<Report>) {
    let ready = health.is_ready();
    let components = health
        .components
        .read()
        .expect("no holder of the lock panics")
        .iter()
        .map(|(name, reason)| {
            let state = reason.clone().unwrap_or_else(|| "ready".to_owned());
            (name.clone(), state)
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Report { ready, components }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_component_is() {
        let health = Health::default();
        assert!(!health.is_ready());
        let (relay, journal) = (health.component("relay"), health.component("journal"));
        relay.ready();
        assert!(!health.is_ready());
        journal.ready();
        assert!(health.is_ready());
        relay.not_ready("kafka is away");
        assert!(!health.is_ready());
    }
}
