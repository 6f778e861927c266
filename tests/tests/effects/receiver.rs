//! The outside: an HTTP server that counts what it is asked for, by key, and can be slow, refuse, break off and be down.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tests::http::Server;

/// What a hall's posts are answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Carried out, 200.
    Well,
    /// Not carried out, this status.
    Refuses(u16),
    /// Not carried out, 429 with `Retry-After` in seconds.
    Busy(u64),
    /// Carried out, and no answer for this long.
    Slow(Duration),
    /// Carried out, and the connection is closed instead of an answer.
    BreaksOff,
}

#[derive(Default)]
struct Counts {
    modes: HashMap<String, Mode>,
    /// Every post, in order: hall, guest, key.
    posts: Vec<(String, String, String)>,
    /// What was carried out: posts by key. A receiver that knows keys carries out once; these count how often it
    /// was asked to.
    carried_out: BTreeMap<String, u32>,
    /// How often each key was asked about.
    asked: BTreeMap<String, u32>,
}

type Shared = Arc<Mutex<Counts>>;

pub(super) struct Receiver {
    pub(super) server: Server,
    counts: Shared,
}

impl Receiver {
    pub(super) async fn start() -> Result<Self> {
        let counts = Shared::default();
        let router = Router::new()
            .route("/halls/{hall}/{guest}", post(take))
            .route("/calls/{key}", get(look_up))
            .with_state(counts.clone());
        let server = Server::start(router).await?;
        Ok(Self { server, counts })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }

    pub(super) fn set(&self, hall: &str, mode: Mode) {
        self.counts().modes.insert(hall.to_owned(), mode);
    }

    /// Guests that were posted for a hall, in order, repeats included.
    pub(super) fn posts(&self, hall: &str) -> Vec<String> {
        let counts = self.counts();
        let of_hall = counts.posts.iter().filter(|(one, _, _)| one == hall);
        of_hall.map(|(_, guest, _)| guest.clone()).collect()
    }

    /// How often it was asked to carry out each key.
    pub(super) fn carried_out(&self) -> BTreeMap<String, u32> {
        self.counts().carried_out.clone()
    }

    /// How often keys were asked about, in all.
    pub(super) fn asked(&self) -> u32 {
        self.counts().asked.values().sum()
    }
}

async fn take(
    State(counts): State<Shared>,
    Path((hall, guest)): Path<(String, String)>,
    headers: HeaderMap,
    _body: Bytes,
) -> Response {
    let key = headers
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("none")
        .to_owned();
    let mode = {
        let mut counts = counts.lock().unwrap();
        counts.posts.push((hall.clone(), guest, key.clone()));
        let mode = counts.modes.get(&hall).copied().unwrap_or(Mode::Well);
        if matches!(mode, Mode::Well | Mode::Slow(_) | Mode::BreaksOff) {
            *counts.carried_out.entry(key).or_default() += 1;
        }
        mode
    };
    match mode {
        Mode::Well => StatusCode::OK.into_response(),
        Mode::Refuses(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mode::Busy(seconds) => (
            StatusCode::TOO_MANY_REQUESTS,
            [("retry-after", seconds.to_string())],
        )
            .into_response(),
        Mode::Slow(time) => {
            tokio::time::sleep(time).await;
            StatusCode::OK.into_response()
        }
        // Ends the connection's task: the peer sees it closed. Without a panic's message.
        Mode::BreaksOff => std::panic::resume_unwind(Box::new("breaks off")),
    }
}

async fn look_up(State(counts): State<Shared>, Path(key): Path<String>) -> StatusCode {
    let mut counts = counts.lock().unwrap();
    *counts.asked.entry(key.clone()).or_default() += 1;
    match counts.carried_out.contains_key(&key) {
        true => StatusCode::OK,
        false => StatusCode::NOT_FOUND,
    }
}
