//! Commands over HTTP, and the history and state of single aggregates.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::time::Duration;

use crate::command::{
    Accepted, AggregateType, CommandDataError, CommandError, CommandId, Commands, Envelope,
    HistoryPage, Moment, StateAt,
};
use crate::http::api::{Api, Operation, Place, Shape};
use crate::http::openapi;
use crate::http::problem::Problem;

/// Largest body of a command, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Says that `Idempotency-Key` was derived from the command by `millrace send`.
pub const DERIVED_ID: &str = "millrace-derived-id";

/// `POST /commands/{aggregate}/{id}`, `GET /aggregates/{aggregate}/{id}/events` and `…/state`.
pub fn api(commands: Commands) -> Api {
    let aggregates = commands.aggregates();
    let takes = aggregates.iter().filter_map(taken).collect();
    let histories = aggregates.iter().map(shown_history).collect();
    let states = aggregates.iter().map(shown_state).collect();
    Api::new()
        .route_all(takes, command)
        .route_all(histories, history)
        .route_all(states, state)
        .body_bytes_max(BODY_BYTES_MAX)
        .with_state(commands)
}

/// The commands of an aggregate type that anybody may send; none where only processors and timers may.
fn taken(aggregate: &AggregateType) -> Option<Operation> {
    let name = aggregate.name;
    let newest = openapi::newest(aggregate.command_schemas);
    let bodies: Vec<_> = newest
        .into_iter()
        .filter(|schema| (aggregate.sent_by)(schema.record).is_empty())
        .map(|schema| {
            json!({
                "type": "object",
                "title": schema.record,
                "properties": {"type": {"const": schema.record}, "data": openapi::of_avro(schema)},
                "required": ["type", "data"],
                "additionalProperties": false,
            })
        })
        .collect();
    if bodies.is_empty() {
        return None;
    }
    let operation = Operation::post(
        format!("/commands/{name}/{{id}}"),
        "commands",
        format!("A command to a {name}"),
    );
    Some(
        operation
            .of_route("/commands/{aggregate}/{id}")
            .says("Answers when the events are durable. A repeat under the same `Idempotency-Key` gets the first answer and writes nothing.")
            .takes(Place::Header, ("Idempotency-Key", "Id of the command; the same id with other data is a 409."), Shape::text())
            .takes(Place::Header, ("If-Match", "Version that the aggregate must be at, such as `\"3\"`; `\"0\"` for one that must be new."), Shape::text())
            .takes(Place::Header, ("X-Correlation-Id", "What set off the chain that the command belongs to."), Shape::text())
            .takes(Place::Header, ("X-Tenant-Id", "Tenant that it is for."), Shape::text())
            .body(Shape::Written(json!({"oneOf": bodies})))
            .answers(StatusCode::CREATED, "Accepted; `ETag` is the new version.", Shape::of::<Accepted>())
            .refuses_all(&[
                StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT,
                StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::INTERNAL_SERVER_ERROR,
            ]),
    )
}

fn shown_history(aggregate: &AggregateType) -> Operation {
    let name = aggregate.name;
    let mut types: Vec<&str> = aggregate
        .event_schemas
        .iter()
        .map(|one| one.record)
        .collect();
    types.dedup();
    let of_type = json!({"properties": {"type": {"enum": types}}});
    Operation::get(
        format!("/aggregates/{name}/{{id}}/events"),
        "aggregates",
        format!("The history of a {name}"),
    )
    .of_route("/aggregates/{aggregate}/{id}/events")
    .query(Shape::of::<HistoryParams>())
    .answers(
        StatusCode::OK,
        "Its events in order, in the shape that each was written in.",
        Shape::All(vec![
            Shape::of::<HistoryPage>(),
            Shape::Written(json!({"properties": {"events": {"items": of_type}}})),
        ]),
    )
    .refuses_all(&REFUSES)
}

fn shown_state(aggregate: &AggregateType) -> Operation {
    let name = aggregate.name;
    Operation::get(
        format!("/aggregates/{name}/{{id}}/state"),
        "aggregates",
        format!("The state of a {name} at any sequence or time"),
    )
    .of_route("/aggregates/{aggregate}/{id}/state")
    .query(Shape::of::<StateParams>())
    .answers(
        StatusCode::OK,
        "Folded from its events.",
        Shape::of::<StateAt>(),
    )
    .refuses_all(&REFUSES)
}

const REFUSES: [StatusCode; 3] = [
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::INTERNAL_SERVER_ERROR,
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'b> {
    #[serde(rename = "type")]
    command_type: String,
    #[serde(borrow)]
    data: &'b RawValue,
}

async fn command(
    State(commands): State<Commands>,
    Path((aggregate, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            too_large(format!("the body is larger than {BODY_BYTES_MAX} bytes"))
        }
        _ => Problem::malformed(rejection.body_text()),
    })?;
    let node = commands.node(&aggregate)?;
    let body: Body<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body is not a command: {error}")))?;
    let senders = node.sent_by(&body.command_type);
    if !senders.is_empty() {
        return Err(not_for_callers(&body.command_type, senders));
    }
    let accepted = node
        .handle(Envelope {
            aggregate_id: id,
            command_type: body.command_type,
            data: body.data.get().to_owned().into(),
            id: command_id(&headers)?,
            expected_version: expected_version(&headers)?,
            correlation_id: text(&headers, "x-correlation-id")?,
            tenant_id: text(&headers, "x-tenant-id")?,
            traceparent: text(&headers, "traceparent")?,
            now: Utc::now(),
        })
        .await?;
    let etag =
        HeaderValue::from_str(&format!("\"{}\"", accepted.version)).map_err(Problem::failure)?;
    Ok((StatusCode::CREATED, [(header::ETAG, etag)], Json(accepted)).into_response())
}

fn text(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    headers
        .get(name)
        .map(|value| match value.to_str() {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Problem::malformed(format!("header {name} is not text"))),
        })
        .transpose()
}

fn command_id(headers: &HeaderMap) -> Result<CommandId, Problem> {
    let derived = headers.get(DERIVED_ID).is_some_and(|value| value == "true");
    Ok(match text(headers, "idempotency-key")? {
        Some(id) if derived => CommandId::Derived(id),
        Some(id) => CommandId::Given(id),
        None => CommandId::made(),
    })
}

/// `If-Match: "3"`, an entity tag as in RFC 9110; 0 stands for an aggregate that must be new.
fn expected_version(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(tag) = text(headers, "if-match")? else {
        return Ok(None);
    };
    let version = tag
        .trim()
        .trim_matches('"')
        .parse()
        .ok()
        .filter(|version| *version >= 0);
    match version {
        Some(version) => Ok(Some(version)),
        None => Err(Problem::malformed(format!(
            "header if-match is {tag:?}, not a version such as \"3\""
        ))),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HistoryParams {
    /// Only events after this one.
    #[serde(default)]
    after_sequence: i64,
    /// Most events of the answer.
    #[serde(default = "history_limit")]
    limit: i64,
}

fn history_limit() -> i64 {
    100
}

async fn history(
    State(commands): State<Commands>,
    Path((aggregate, id)): Path<(String, String)>,
    params: Result<Query<HistoryParams>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<HistoryPage>, Problem> {
    let Query(params) = params.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let node = commands.node(&aggregate)?;
    let page = node
        .history(id.clone(), params.after_sequence, params.limit)
        .await?;
    if page.events.is_empty() && params.after_sequence <= 0 {
        return Err(no_events(&aggregate, &id));
    }
    Ok(Json(page))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StateParams {
    /// A sequence, such as `7`, or a time, such as `2026-01-31T12:00:00Z`; now where it is missing.
    at: Option<String>,
}

async fn state(
    State(commands): State<Commands>,
    Path((aggregate, id)): Path<(String, String)>,
    params: Result<Query<StateParams>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<StateAt>, Problem> {
    let Query(params) = params.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let node = commands.node(&aggregate)?;
    let at = match params.at.as_deref() {
        Some(text) => text
            .parse()
            .map_err(|error: String| Problem::malformed(error))?,
        None => Moment::Now,
    };
    let state = node.state(id.clone(), at).await?;
    if state.version == 0 && at == Moment::Now {
        return Err(no_events(&aggregate, &id));
    }
    Ok(Json(state))
}

fn no_events(aggregate: &str, id: &str) -> Problem {
    Problem::unknown(format!("{aggregate} {id} has no events"))
}

fn not_for_callers(command_type: &str, senders: &[&str]) -> Problem {
    let senders = senders.join(", ");
    Problem::new(
        StatusCode::FORBIDDEN,
        "not-for-callers",
        "The command is not taken over HTTP",
        format!("{command_type} is sent by {senders} alone, and not over HTTP"),
    )
}

fn too_large(detail: String) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        "The command is too large",
        detail,
    )
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let detail = error.to_string();
        let soon = Duration::from_secs(1);
        match error {
            CommandError::Malformed(_) | CommandError::Data(CommandDataError::Invalid { .. }) => {
                Self::malformed(detail)
            }
            CommandError::UnknownAggregate { .. }
            | CommandError::Data(CommandDataError::UnknownType { .. }) => Self::unknown(detail),
            CommandError::Rejected {
                version, repeated, ..
            } => {
                let problem = Self::rejected(detail).with("version", version);
                if repeated {
                    problem.with("repeated", true)
                } else {
                    problem
                }
            }
            CommandError::Conflict {
                expected, actual, ..
            } => Self::conflict(detail)
                .with("expected_version", expected)
                .with("actual_version", actual),
            CommandError::ReusedId { command_id, .. } => Self::new(
                StatusCode::CONFLICT,
                "reused-id",
                "The command id stands for another command",
                detail,
            )
            .with("command_id", command_id),
            CommandError::TooLarge { .. } => too_large(detail),
            CommandError::Overloaded(_) | CommandError::Unavailable(_) => {
                Self::unavailable(detail, soon)
            }
            CommandError::InDoubt(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "in-doubt",
                "The outcome is not known",
                detail,
            )
            .retry_after(soon),
            CommandError::Fault(cause) => {
                tracing::error!(%cause, "a command failed by a fault of ours");
                Self::failure(detail)
            }
        }
    }
}
