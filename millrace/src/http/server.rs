//! The HTTP server of a process: answers from the first moment on, and gains the roles' routes as they start.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::http::health::Health;
use crate::http::problem::Problem;
use crate::telemetry;

/// Where the roles' routes are put once they can answer.
#[derive(Clone, Default)]
pub struct Routes(Arc<OnceLock<Router>>);

impl Routes {
    /// Opens the routes; until then every request but the health checks is answered 503.
    pub fn open(&self, router: Router) {
        let router = router.fallback(|| async { Problem::unknown("there is no such route") });
        // A second opening would be a fault of the caller's; the first one stays.
        let _ = self.0.set(router);
    }

    async fn answer(self, request: Request) -> Response {
        match self.0.get() {
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

/// Serves until shutdown, then lets the requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    health: &Health,
    routes: Routes,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = health
        .router()
        .merge(telemetry::router())
        .fallback(move |request: Request| routes.clone().answer(request));
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(shutdown.cancelled_owned())
    .await
}
