//! `POST /events/demo`: a scripted story through all four domains, told by the commands that any caller may send.
//!
//! It writes real events, under ids of its own that begin with the story's. What aggregates do among themselves is left to the
//! flows, and the story goes on when their outcome stands in the journal.

mod orders;
mod story;
mod teller;

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use millrace::command::Commands;
use millrace::http::api::{Api, Operation, Place, Shape};
use millrace::http::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use teller::Teller;

/// How long each outcome of a flow is waited for, where the caller does not say.
const TIMEOUT_MS_DEFAULT: u64 = 20_000;
/// The longest that a caller may say.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// Longest name of a story, in bytes: ids are made of it.
const NAME_BYTES_MAX: usize = 40;

#[derive(Clone)]
struct Parts {
    commands: Commands,
    partitions: i32,
}

/// `POST /events/demo?timeout_ms=`; `partitions` is the number that each topic has.
///
/// Answers 201 when the whole story came about: what was done, what came of it, every aggregate with links to its history, state
/// and views, and a link to all events by their one correlation id. The links to views hold a token and so show it all. An
/// outcome that does not come within `timeout_ms` (20000, at most 60000) ends the story with 504 `story-stopped`, which
/// says what is missing and what it takes. Under one `Idempotency-Key` a story is told once; asked for again it answers the
/// same, or goes on where it stopped. Without the header each story is a new one.
pub fn api(commands: Commands, partitions: i32) -> Api {
    let parts = Parts {
        commands,
        partitions,
    };
    Api::new().route(operation(), demo).with_state(parts)
}

fn operation() -> Operation {
    let key = (
        "Idempotency-Key",
        "Names the story: under one name it is told once.",
    );
    Operation::post(
        "/events/demo",
        "events",
        "Tells a story through all domains",
    )
    .says("Writes real events, under ids of its own. A story that stopped goes on under its name.")
    .takes(Place::Header, key, Shape::text())
    .query(Shape::of::<Params>())
    .answers(
        StatusCode::CREATED,
        "The whole story came about.",
        Shape::of::<Told>(),
    )
    .refuses_all(&[
        StatusCode::BAD_REQUEST,
        StatusCode::CONFLICT,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::GATEWAY_TIMEOUT,
        StatusCode::INTERNAL_SERVER_ERROR,
    ])
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// How long each outcome of a flow is waited for, in milliseconds: 20000 where it is not said, 60000 at most.
    timeout_ms: Option<u64>,
}

/// A story that came about.
#[derive(Serialize, JsonSchema)]
struct Told {
    /// Its id, with which every other id begins.
    story: String,
    /// That of all its events.
    correlation_id: String,
    /// What was done, and what came of it.
    steps: Value,
    /// Every aggregate, with links to its history, its state and the views that show it.
    aggregates: Value,
    /// All its events.
    events: String,
}

async fn demo(
    State(parts): State<Parts>,
    params: Result<Query<Params>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(params) = params.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let timeout_ms = params.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT);
    if timeout_ms > TIMEOUT_MS_MAX {
        let detail = format!("timeout_ms: {timeout_ms} is above {TIMEOUT_MS_MAX}");
        return Err(Problem::malformed(detail));
    }
    let story = story_id(&headers)?;
    let timeout = Duration::from_millis(timeout_ms);
    let mut teller = Teller::new(&parts.commands, story.clone(), timeout);
    match story::tell(&mut teller, &story).await {
        Ok(()) => {
            let answer = Told {
                correlation_id: story.clone(),
                steps: json!(teller.steps()),
                aggregates: json!(teller.links(parts.partitions)),
                events: events_link(&story),
                story,
            };
            Ok((StatusCode::CREATED, Json(answer)).into_response())
        }
        Err(problem) => Err(problem
            .with("story", story.as_str())
            .with("events", events_link(&story))
            .with("steps", json!(teller.steps()))
            .instance("/events/demo")),
    }
}

fn events_link(story: &str) -> String {
    format!("/events/list?correlation_id={story}&limit=500")
}

/// The id of the story and of all that belongs to it; it stands in paths, so it needs no escapes.
fn story_id(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(format!("demo-{}", Uuid::now_v7().simple()));
    };
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    match key.to_str() {
        Ok(name)
            if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.as_bytes().iter().all(plain) =>
        {
            Ok(format!("demo-{name}"))
        }
        _ => Err(Problem::malformed(format!(
            "header idempotency-key names the story here: 1 to {NAME_BYTES_MAX} of a to z, 0 to 9 and -"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn named(name: &'static str) -> Result<String, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_static(name));
        story_id(&headers)
    }

    #[test]
    fn a_story_is_named_by_its_key_and_every_other_one_is_new() {
        assert_eq!(named("tour-1"), Ok("demo-tour-1".to_owned()));
        let none = HeaderMap::new();
        assert_ne!(story_id(&none), story_id(&none));
    }

    #[test]
    fn a_name_that_would_need_escapes_in_a_path_is_refused() {
        for name in [
            "",
            "a/b",
            "A",
            "a b",
            "01234567890123456789012345678901234567890",
        ] {
            assert!(named(name).is_err(), "{name:?}");
        }
    }
}
