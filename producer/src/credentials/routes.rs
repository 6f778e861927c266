//! What a password comes in by: a registration, and a check.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use millrace::aggregate::{Aggregate as _, Context};
use millrace::command::{
    Accepted, Command as _, CommandError, CommandId, Commands, Envelope, Moment,
};
use millrace::http::api::{Api, Operation, Place, Shape};
use millrace::http::problem::Problem;
use millrace::position::Token;
use schemars::JsonSchema;
use schemas::identity::registration::RegisterUser;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CredentialError, Credentials, Password};
use crate::aggregates::identity::registration::Registration;
use crate::aggregates::identity::user::User;

/// Largest body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
struct Parts {
    credentials: Credentials,
    commands: Commands,
}

/// `POST /identity/registrations` and `POST /identity/users/{id}/password-checks`.
///
/// A registration answers 202 with its id as soon as it has begun; how it ends stands in the view `registrations`. Under
/// an id that was given (`registration_id`, or the header `Idempotency-Key`) it begins once. A check answers 204
/// or, also where there is no such user, 401.
pub fn api(credentials: Credentials, commands: Commands) -> Api {
    let parts = Parts {
        credentials,
        commands,
    };
    Api::new()
        .route(registration(), register)
        .route(password_check(), check)
        .body_bytes_max(BODY_BYTES_MAX)
        .with_state(parts)
}

fn registration() -> Operation {
    Operation::post("/identity/registrations", "identity", "Registers a user, with a password")
        .says("How it ends stands in the view `registrations`. Under an id that was given (`registration_id`, or the header) it begins once.")
        .takes(Place::Header, ("Idempotency-Key", "Id of the registration, where the body gives none."), Shape::text())
        .takes(Place::Header, ("X-Correlation-Id", "What set off the chain."), Shape::text())
        .body(Shape::of::<Request>())
        .answers(StatusCode::ACCEPTED, "It has begun.", Shape::of::<Begun>())
        .refuses_all(&REFUSES)
        .refuses(StatusCode::CONFLICT)
}

fn password_check() -> Operation {
    let summary = "Whether a password is the user's";
    Operation::post("/identity/users/{id}/password-checks", "identity", summary)
        .body(Shape::of::<Check>())
        .answers_nothing(StatusCode::NO_CONTENT, "It is.")
        .refuses(StatusCode::UNAUTHORIZED)
        .refuses_all(&REFUSES)
}

const REFUSES: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::INTERNAL_SERVER_ERROR,
];

/// The fields of [`RegisterUser`], with a password in the place of the credential.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Registration")]
struct Request {
    registration_id: Option<String>,
    #[schemars(with = "String")]
    password: Password,
    tenant_id: String,
    tenant_name: Option<String>,
    email: String,
    user_id: Option<String>,
    first_name: String,
    last_name: String,
    phone: Option<String>,
    timezone: Option<String>,
    language: Option<String>,
    workspace_name: Option<String>,
}

impl Request {
    /// The registration's id, where one is given, the password, and the command without its credential.
    fn split(self) -> (Option<String>, Password, RegisterUser) {
        let command = RegisterUser {
            tenant_id: self.tenant_id,
            tenant_name: self.tenant_name,
            email: self.email,
            user_id: self.user_id,
            first_name: self.first_name,
            last_name: self.last_name,
            phone: self.phone,
            timezone: self.timezone,
            language: self.language,
            workspace_name: self.workspace_name,
            credential_id: None,
        };
        (self.registration_id, self.password, command)
    }
}

async fn register(
    State(parts): State<Parts>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let (given, password, mut command) = read::<Request>(&body)?.split();
    if let Some(fault) = password.fault() {
        return Err(Problem::rejected(fault));
    }
    let registration_id = match given {
        Some(id) => id,
        None => text(&headers, "idempotency-key")?.unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    check_command(&command, &registration_id)?;
    let credential_id = parts.credentials.keep(&registration_id, password).await?;
    command.credential_id = Some(credential_id.to_string());
    let envelope = envelope(&command, &registration_id, &headers)?;
    let answer = parts.commands.node("registration")?.handle(envelope).await;
    let begun = answer
        .as_ref()
        .is_ok_and(|accepted| !accepted.events.is_empty());
    let unknown = matches!(answer, Err(CommandError::InDoubt(_)));
    if !begun && !unknown {
        // Should it fail, the row is removed when it is settled.
        if let Err(error) = parts.credentials.forget(credential_id).await {
            tracing::warn!(%error, %credential_id, "a hash that nobody names is left for later");
        }
    }
    Ok(begun_answer(&registration_id, &answer?))
}

/// Nothing is hashed for a command that no registration takes.
fn check_command(command: &RegisterUser, registration_id: &str) -> Result<(), Problem> {
    let context = Context {
        aggregate_id: registration_id.to_owned(),
        now: Utc::now(),
    };
    Registration::default()
        .decide(command.clone().into(), &context)
        .map(drop)
        .map_err(Problem::rejected)
}

fn envelope(
    command: &RegisterUser,
    registration_id: &str,
    headers: &HeaderMap,
) -> Result<Envelope, Problem> {
    let data = serde_json::to_string(command).map_err(Problem::failure)?;
    Ok(Envelope {
        aggregate_id: registration_id.to_owned(),
        command_type: RegisterUser::TYPE.to_owned(),
        data: data.into(),
        // The registration's own id is what tells a repeat: the data holds another credential each time.
        id: CommandId::made(),
        expected_version: None,
        correlation_id: text(headers, "x-correlation-id")?,
        tenant_id: Some(command.tenant_id.clone()),
        traceparent: text(headers, "traceparent")?,
        now: Utc::now(),
    })
}

/// A registration that has begun.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RegistrationBegun")]
struct Begun {
    /// Its id.
    registration_id: String,
    /// Version of the registration.
    version: i64,
    /// For `after=` in queries.
    token: Option<Token>,
    /// It had begun before, under the same id.
    repeated: bool,
}

fn begun_answer(registration_id: &str, accepted: &Accepted) -> Response {
    let body = Begun {
        registration_id: registration_id.to_owned(),
        version: accepted.version,
        token: accepted.token.clone(),
        repeated: accepted.events.is_empty(),
    };
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PasswordCheck")]
struct Check {
    #[schemars(with = "String")]
    password: Password,
}

async fn check(
    State(parts): State<Parts>,
    Path(user_id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let Check { password } = read(&body)?;
    let user = parts.commands.node("user")?;
    let state = user.state(user_id, Moment::Now).await?.state;
    let user: User = serde_json::from_value(state).map_err(Problem::failure)?;
    let credential_id = user.credential_id().and_then(|id| id.parse().ok());
    match parts.credentials.matches(credential_id, password).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "wrong-password",
            "The password does not match",
            "there is no user of this id who may act with this password",
        )),
    }
}

/// The error of a body says where it is wrong; what stands there is not in it.
fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("the body is not what is asked for: {error}")))
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

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        let soon = Duration::from_secs(1);
        match error {
            CredentialError::Overloaded | CredentialError::Postgres(_) => {
                Self::unavailable(error, soon)
            }
            CredentialError::Migration(_) | CredentialError::Hash(_) => Self::failure(error),
        }
    }
}
