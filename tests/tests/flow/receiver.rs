//! Whoever is told of confirmed orders: counts what is posted to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tests::http::Server;

type Posts = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

pub(super) struct Receiver {
    pub(super) server: Server,
    posts: Posts,
}

impl Receiver {
    pub(super) async fn start() -> Result<Self> {
        let posts = Posts::default();
        let router = Router::new()
            .route("/confirmed", post(take))
            .with_state(posts.clone());
        let server = Server::start(router).await?;
        Ok(Self { server, posts })
    }

    pub(super) fn url(&self) -> String {
        format!("{}/confirmed", self.server.url())
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
