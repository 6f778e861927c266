//! Errors over HTTP: RFC 9457 problem details, `application/problem+json`.
//!
//! Every error of every role leaves as one [`Problem`], so that a caller reads one shape. `type` is a short
//! stable name such as `conflict`, a URI reference relative to wherever the documentation of the errors stands;
//! programs branch on it and on the status, people read `detail`.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One error as the caller gets it.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
pub struct Problem {
    /// Short stable name, such as `conflict`; what programs branch on.
    #[serde(rename = "type")]
    name: &'static str,
    /// The same in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened, to which thing, what to do.
    detail: String,
    /// Path of the request that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(flatten)]
    members: Map<String, Value>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of a kind that has no constructor of its own; `name` is its `type`, `title` the same in words.
    pub fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl ToString,
    ) -> Self {
        Self {
            name,
            title,
            status: status.as_u16(),
            detail: detail.to_string(),
            instance: None,
            members: Map::new(),
            retry_after_s: None,
        }
    }

    /// 400 `malformed`: the request could not be read; the same request never can.
    pub fn malformed(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            "The request is malformed",
            detail,
        )
    }

    /// 404 `unknown`: nothing stands under this name or id.
    pub fn unknown(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown",
            "There is no such thing",
            detail,
        )
    }

    /// 409 `conflict`: someone else was first; look at the new state, then decide again.
    pub fn conflict(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "conflict",
            "The state is another than was expected",
            detail,
        )
    }

    /// 422 `rejected`: the domain says no, and why.
    pub fn rejected(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "rejected",
            "The command was rejected",
            detail,
        )
    }

    /// 503 `unavailable` with `Retry-After`: something behind us is away or overloaded; the same request may pass.
    pub fn unavailable(detail: impl ToString, retry_after: Duration) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "The request cannot be served now",
            detail,
        )
        .retry_after(retry_after)
    }

    /// 500 `failure`: a fault of ours. Pass a detail that is safe to show; the cause belongs in the log.
    pub fn failure(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failure",
            "The server failed",
            detail,
        )
    }

    /// Adds the path of the very request that failed.
    pub fn instance(mut self, path: impl Into<String>) -> Self {
        self.instance = Some(path.into());
        self
    }

    /// Adds a member for programs, such as `actual_version`; it must not be one of the members of RFC 9457.
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(!["type", "title", "status", "detail", "instance"].contains(&member));
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// Adds `Retry-After`, in whole seconds and at least one.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_s = Some(wait.as_secs().max(1));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("it was made from a status code")
    }

    /// Its `type`, such as `conflict`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What happened, in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("its members are strings and JSON values");
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(wait_s) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_written_as_rfc_9457_says() {
        let problem = Problem::conflict("order 42 is at version 3, not 2")
            .instance("/commands/order/42")
            .with("actual_version", 3);
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            serde_json::json!({
                "type": "conflict",
                "title": "The state is another than was expected",
                "status": 409,
                "detail": "order 42 is at version 3, not 2",
                "instance": "/commands/order/42",
                "actual_version": 3,
            })
        );
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_wait_below_a_second_is_announced_as_one_second() {
        let response = Problem::unavailable("busy", Duration::from_millis(20)).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}
