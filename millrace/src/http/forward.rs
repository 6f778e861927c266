//! Forwarding reads: a producer alone passes what it does not serve on to the projections.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::http::problem::Problem;

#[derive(Clone)]
struct Target {
    url: String,
    client: reqwest::Client,
}

/// Passes `GET` requests for these paths on to `url`; answers 503 while it is away.
pub fn router(url: &str, paths: &[&str]) -> Result<Router, reqwest::Error> {
    let target = Target {
        url: url.trim_end_matches('/').to_owned(),
        client: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            // Longer than the longest `after=` wait.
            .timeout(Duration::from_secs(35))
            .build()?,
    };
    let router = paths.iter().fold(Router::new(), |router, path| {
        router.route(path, get(forward))
    });
    Ok(router.with_state(target))
}

async fn forward(State(target): State<Target>, OriginalUri(uri): OriginalUri) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let answer = match target
        .client
        .get(format!("{}{path}", target.url))
        .send()
        .await
    {
        Ok(answer) => answer,
        Err(error) => {
            let detail = format!(
                "the projections at {} do not answer: {}; check PROJECTIONS_URL",
                target.url,
                error.without_url()
            );
            return Problem::unavailable(detail, Duration::from_secs(1)).into_response();
        }
    };
    let mut response = Response::builder().status(answer.status());
    let kept: [HeaderName; 3] = [header::CONTENT_TYPE, header::RETRY_AFTER, header::ETAG];
    for name in kept {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    response
        .body(Body::from_stream(answer.bytes_stream()))
        .unwrap_or_else(|error| Problem::failure(error).into_response())
}
