//! The HTTP server of a process: answers from the first moment on, and gains the roles' routes as they start.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::http::api::Api;
use crate::http::health::{Component, Health};
use crate::http::openapi::{self, About};
use crate::http::problem::Problem;
use crate::telemetry;

/// Where the roles' routes are put once they can answer. Until they are open the process is not ready: whoever waited for
/// readiness must not be answered that the process is starting.
#[derive(Clone)]
pub struct Routes {
    open: Arc<OnceLock<Router>>,
    opening: Component,
}

impl Routes {
    /// Routes that are not open yet.
    pub fn new(health: &Health) -> Self {
        Self {
            open: Arc::default(),
            opening: health.component("routes"),
        }
    }

    /// Opens the routes; until then every request but the health checks is answered 503.
    ///
    /// `GET /openapi.json` shows them, and what every process serves.
    pub fn open(&self, api: Api, about: &About) {
        let (router, mut operations) = api.into_parts();
        operations.extend_from_slice(of_every_process(&Health::default()).operations());
        operations.push(openapi::operation());
        let document = Bytes::from(openapi::document(about, &operations).to_string());
        let shown = async move || ([(header::CONTENT_TYPE, "application/json")], document);
        let (document, _) = Api::<()>::new()
            .route(openapi::operation(), shown)
            .into_parts();
        let router = router
            .merge(document)
            .fallback(async || Problem::unknown("there is no such route"))
            .method_not_allowed_fallback(async || {
                let title = "The route has no such method";
                let says = "see GET /openapi.json";
                Problem::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "no-such-method",
                    title,
                    says,
                )
            });
        // A second opening would be a fault of the caller's; the first one stays.
        let _ = self.open.set(router);
        self.opening.ready();
    }

    async fn answer(self, request: Request) -> Response {
        match self.open.get() {
            Some(router) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            None => Problem::unavailable(
                "the process is starting; GET /health/ready says what it waits for",
                Duration::from_secs(1),
            )
            .into_response(),
        }
    }
}

/// What answers from the first moment on.
fn of_every_process(health: &Health) -> Api {
    health.api().merge(telemetry::api())
}

/// Serves until shutdown, then lets the requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    health: &Health,
    routes: Routes,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = of_every_process(health)
        .into_router()
        .fallback(move |request: Request| routes.clone().answer(request));
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(shutdown.cancelled_owned())
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_ready_before_its_routes_are_open() {
        let health = Health::default();
        let routes = Routes::new(&health);
        health.component("journal").ready();
        assert!(!health.is_ready());
        let about = About {
            title: "test",
            version: "1",
            says: "",
        };
        routes.open(Api::new(), &about);
        assert!(health.is_ready());
    }
}
