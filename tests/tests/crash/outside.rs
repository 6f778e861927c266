//! The outside: a real HTTP server that is posted confirmed orders, and writes down by `Idempotency-Key` how often.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use uuid::Uuid;

/// How long an answer takes: short, and long while a process is to be killed in a call.
const USUAL: Duration = Duration::from_millis(5);
const HELD: Duration = Duration::from_secs(3);

/// What came in under one key.
#[derive(Debug, Clone, Default)]
pub(super) struct Posted {
    /// How often.
    pub(super) times: u32,
    /// The event that the first post was about.
    pub(super) event_id: Option<Uuid>,
    pub(super) order_id: String,
    /// Answered 422.
    pub(super) refused: bool,
}

#[derive(Default)]
struct Book {
    posts: Mutex<HashMap<String, Posted>>,
    refuse_next: AtomicBool,
    hold: AtomicBool,
}

/// Runs for as long as the test.
#[derive(Clone)]
pub(super) struct Outside {
    url: String,
    book: Arc<Book>,
}

impl Outside {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/orders", listener.local_addr()?);
        let book = Arc::new(Book::default());
        let router = Router::new()
            .route("/orders", post(take))
            .with_state(book.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, book })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Refuses the next order that it is told of, for good.
    pub(super) fn refuse_next(&self) {
        self.book.refuse_next.store(true, Ordering::Relaxed);
    }

    /// Answers late, so that whoever is killed is likely to be in a call.
    pub(super) fn hold(&self, hold: bool) {
        self.book.hold.store(hold, Ordering::Relaxed);
    }

    /// What came in, by key.
    pub(super) fn posts(&self) -> HashMap<String, Posted> {
        self.book.posts.lock().unwrap().clone()
    }
}

async fn take(
    State(book): State<Arc<Book>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let key = headers
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("none")
        .to_owned();
    let order: Value = serde_json::from_slice(&body).unwrap_or_default();
    let refused = book.refuse_next.swap(false, Ordering::Relaxed);
    {
        // Counted before the answer: the other side may be gone by then.
        let mut posts = book.posts.lock().unwrap();
        let posted = posts.entry(key).or_default();
        posted.times += 1;
        posted.refused |= refused;
        posted.event_id = order["event_id"].as_str().and_then(|id| id.parse().ok());
        order["order_id"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut posted.order_id);
    }
    let held = book.hold.load(Ordering::Relaxed);
    tokio::time::sleep(if held { HELD } else { USUAL }).await;
    let status = match refused {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::OK,
    };
    (status, Json(Value::Null))
}
