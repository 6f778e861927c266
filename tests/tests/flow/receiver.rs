//! Whoever is told of confirmed orders: counts what is posted to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

type Posts = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

pub(super) struct Receiver {
    address: SocketAddr,
    posts: Posts,
    /// None while it is down.
    serving: Option<(DropGuard, JoinHandle<std::io::Result<()>>)>,
}

impl Receiver {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut receiver = Self {
            address: listener.local_addr()?,
            posts: Posts::default(),
            serving: None,
        };
        receiver.serve(listener);
        Ok(receiver)
    }

    fn serve(&mut self, listener: TcpListener) {
        let routes = Router::new()
            .route("/confirmed", post(take))
            .with_state(self.posts.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes)
                .with_graceful_shutdown(stopped)
                .await
        });
        self.serving = Some((stop.drop_guard(), serving));
    }

    /// Nobody listens any more when this returns.
    pub(super) async fn go_down(&mut self) {
        if let Some((stop, serving)) = self.serving.take() {
            drop(stop);
            let _ = serving.await;
        }
    }

    pub(super) async fn come_back(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/confirmed", self.address)
    }

    /// The idempotency keys of the posts about each order.
    pub(super) fn posts(&self) -> BTreeMap<String, Vec<String>> {
        self.posts.lock().unwrap().clone()
    }
}

async fn take(
    State(posts): State<Posts>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    let taken = || -> Result<()> {
        anyhow::ensure!(body["type"] == "order.confirmed", "another type: {body}");
        let order = body["order_id"].as_str().context("no order_id")?;
        let key = headers.get("idempotency-key").context("no key")?.to_str()?;
        let mut posts = posts.lock().unwrap();
        posts
            .entry(order.to_owned())
            .or_default()
            .push(key.to_owned());
        Ok(())
    };
    match taken() {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
