//! `POST /events/replay?type=&hours=&to=` and `GET /events/replay/{id}`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use super::{Replay, ReplayError, Replays, Wanted};
use crate::http::api::{Api, Operation, Shape};
use crate::http::problem::Problem;

/// Where replays are asked for.
pub const PATH: &str = "/events/replay";
const ONE: &str = "/events/replay/{id}";
/// The longest window: ten years.
pub const HOURS_MAX: f64 = 87_660.0;

/// The routes.
pub fn api(replays: Replays) -> Api {
    let [asking, one] = operations();
    Api::new()
        .route(asking, ask)
        .route(one, progress)
        .with_state(replays)
}

/// What they are, for a process that passes them on.
pub fn operations() -> [Operation; 2] {
    let asking = Operation::post(PATH, "events", "Delivers a window of events again")
        .says(
            "To processors and effects, all or the one that `to` names; to a view it is a rebuild. It ends where each \
             handler stood when it was asked for, and a handler follows one replay at a time. Nothing happens twice by it: see `says` in the answer.",
        )
        .query(Shape::of::<Params>())
        .answers(StatusCode::ACCEPTED, "It has begun; `Location` is its progress.", Shape::of::<Replay>())
        .refuses_all(&[StatusCode::BAD_REQUEST, StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY]);
    let one = Operation::get(ONE, "events", "How far a replay is")
        .answers(
            StatusCode::OK,
            "By handler and partition.",
            Shape::of::<Replay>(),
        )
        .refuses_all(&[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND]);
    [asking, one]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Only handlers that read events of this type, such as `CounterRaised`, from its first event in the window on; all
    /// types where it is empty or missing.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// How far back the window goes; fractions are taken.
    #[schemars(range(max = 87_660))]
    hours: f64,
    /// Name of a processor, an effect or a view, or its consumer group; every processor and effect where it is missing.
    to: Option<String>,
}

async fn ask(
    State(replays): State<Replays>,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(params) = params.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    if !(params.hours > 0.0 && params.hours <= HOURS_MAX) {
        return Err(Problem::malformed(format!(
            "hours: {} is not above 0 and at most {HOURS_MAX}",
            params.hours
        )));
    }
    let window = TimeDelta::milliseconds((params.hours * 3_600_000.0) as i64);
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let wanted = Wanted {
        event_type: given(params.event_type),
        since: Utc::now() - window,
        to: given(params.to),
    };
    let replay = replays.ask(&wanted).await?;
    let at = HeaderValue::from_str(&replay.progress).map_err(Problem::failure)?;
    let headers = [(header::LOCATION, at)];
    Ok((StatusCode::ACCEPTED, headers, Json(replay)).into_response())
}

async fn progress(
    State(replays): State<Replays>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<Replay>, Problem> {
    let Path(id) = id.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    Ok(Json(replays.progress(id).await?))
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        let detail = error.to_string();
        match error {
            ReplayError::Refused(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "rejected",
                "The replay was refused",
                detail,
            ),
            ReplayError::Busy { replay, .. } => {
                Self::conflict(detail).with("replay", replay.to_string())
            }
            ReplayError::Unknown(_) => Self::unknown(detail),
            ReplayError::Kafka(_) | ReplayError::Processor(_) | ReplayError::Database(_) => {
                Self::unavailable(detail, Duration::from_secs(1))
            }
        }
    }
}
