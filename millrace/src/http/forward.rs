//! Forwarding: a producer alone passes what it does not serve on to the projections.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::{IntoResponse, Response};

use crate::http::api::{Api, Operation};
use crate::http::problem::Problem;

#[derive(Clone)]
struct Target {
    url: String,
    client: reqwest::Client,
}

/// Passes requests for these operations, none of which takes a body, on to `url`; answers 503 while it is away.
pub fn api(url: &str, operations: Vec<Operation>) -> Result<Api, reqwest::Error> {
    let target = Target {
        url: url.trim_end_matches('/').to_owned(),
        client: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            // Longer than the longest `after=` wait.
            .timeout(Duration::from_secs(35))
            .build()?,
    };
    let mut routes: BTreeMap<_, Vec<Operation>> = BTreeMap::new();
    for one in operations {
        let route = (one.method, one.route.clone());
        routes.entry(route).or_default().push(one);
    }
    let api = routes
        .into_values()
        .fold(Api::new(), |api, shown| api.route_all(shown, forward));
    Ok(api.with_state(target))
}

async fn forward(
    State(target): State<Target>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = target
        .client
        .request(method, format!("{}{path}", target.url));
    if let Some(held) = headers.get(header::IF_NONE_MATCH) {
        request = request.header(header::IF_NONE_MATCH, held);
    }
    let answer = match request.send().await {
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
    let kept: [HeaderName; 5] = [
        header::CONTENT_TYPE,
        header::RETRY_AFTER,
        header::ETAG,
        header::CACHE_CONTROL,
        header::LOCATION,
    ];
    for name in kept {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    response
        .body(Body::from_stream(answer.bytes_stream()))
        .unwrap_or_else(|error| Problem::failure(error).into_response())
}
