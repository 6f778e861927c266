//! Health: alive is answering at all, ready is every component saying so.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

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

#[derive(Serialize)]
struct Report {
    ready: bool,
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
    pub fn router(&self) -> Router {
        Router::new()
            .route("/health/live", get(|| async { "alive\n" }))
            .route("/health/ready", get(ready))
            .route("/events/health", get(ready))
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
