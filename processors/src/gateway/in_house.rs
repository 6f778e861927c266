//! The in-house gateway over HTTP.

use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Json, Router};
use millrace::config::ViewsConfig;
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::faults::{Fault, Faults};
use super::ledger::Ledger;
use super::{ChargeRequest, ChargeState, RefundRequest};

/// Connections to its books; a request waits for one, at most as long as its caller does.
const CONNECTIONS: u32 = 8;

/// How the in-house gateway is.
#[derive(Clone)]
pub struct InHouse {
    /// Its books.
    pub ledger: Ledger,
    /// What goes wrong.
    pub faults: Faults,
    /// Where answers go that come twice: a producer's URL. None come twice where it is missing.
    pub notify_url: Option<String>,
}

/// Its routes; see [`super`].
pub fn router(gateway: InHouse) -> Router {
    Router::new()
        .route(
            "/charges/{key}",
            put(charge).get(find_charge).delete(void_charge),
        )
        .route("/refunds/{key}", put(refund).get(find_refund))
        .with_state(gateway)
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InHouseError {
    /// Its books.
    #[error("books of the in-house gateway: {0}")]
    Ledger(#[from] sqlx::Error),
    /// Its port.
    #[error("the in-house gateway has no port: {0}")]
    Listen(#[from] std::io::Error),
}

/// Serves on a loopback port of its own until shutdown; where it listens. Its books stand in the views' Postgres, so the gateways of
/// several processes are one.
pub(crate) async fn start(
    views: &ViewsConfig,
    faults: Faults,
    notify_url: Option<String>,
    shutdown: CancellationToken,
) -> Result<SocketAddr, InHouseError> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect(views.views_database_url.expose())
        .await?;
    let gateway = InHouse {
        ledger: Ledger::open(pool).await?,
        faults,
        notify_url,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tracing::warn!(%address, "payments go to the in-house gateway: no money moves");
    tokio::spawn(async move {
        let stopped = shutdown.cancelled_owned();
        let served = axum::serve(listener, router(gateway)).with_graceful_shutdown(stopped);
        if let Err(error) = served.await {
            tracing::error!(%error, "the in-house gateway stopped");
        }
    });
    Ok(address)
}

/// The books are away: nothing was done.
struct Away(sqlx::Error);

impl From<sqlx::Error> for Away {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Away {
    fn into_response(self) -> Response {
        tracing::warn!(error = %self.0, "books of the in-house gateway");
        // Whether a commit that broke off took place is not known.
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

async fn charge(
    State(gateway): State<InHouse>,
    Path(key): Path<Uuid>,
    Json(request): Json<ChargeRequest>,
) -> Result<Response, Away> {
    let fault = gateway.faults.choose(&request.payment_id);
    if let Some(refusal) = before(&gateway, fault).await {
        return Ok(refusal);
    }
    let declined = (fault == Fault::Declines).then_some("declined by the issuer");
    let charge = gateway.ledger.charge(key, &request, declined).await?;
    if fault == Fault::AnswersTwice && charge.state == ChargeState::Charged {
        let data = Charged {
            charge_id: &charge.charge_id,
            amount_cents: charge.amount_cents,
        };
        notify(&gateway, &request.payment_id, "RecordCharge", &data);
    }
    Ok(after(&gateway, fault, Json(charge)).await)
}

async fn find_charge(
    State(gateway): State<InHouse>,
    Path(key): Path<Uuid>,
) -> Result<Response, Away> {
    Ok(or_not_found(gateway.ledger.find_charge(key).await?))
}

async fn void_charge(
    State(gateway): State<InHouse>,
    Path(key): Path<Uuid>,
) -> Result<Response, Away> {
    Ok(Json(gateway.ledger.void(key).await?).into_response())
}

async fn refund(
    State(gateway): State<InHouse>,
    Path(key): Path<Uuid>,
    Json(request): Json<RefundRequest>,
) -> Result<Response, Away> {
    let fault = gateway.faults.choose(&request.payment_id);
    if let Some(refusal) = before(&gateway, fault).await {
        return Ok(refusal);
    }
    let Some(refund) = gateway.ledger.refund(key, &request).await? else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    if fault == Fault::AnswersTwice {
        let data = Refunded {
            refund_id: &refund.refund_id,
        };
        notify(&gateway, &request.payment_id, "RecordRefund", &data);
    }
    Ok(after(&gateway, fault, Json(refund)).await)
}

async fn find_refund(
    State(gateway): State<InHouse>,
    Path(key): Path<Uuid>,
) -> Result<Response, Away> {
    Ok(or_not_found(gateway.ledger.find_refund(key).await?))
}

fn or_not_found(found: Option<impl Serialize>) -> Response {
    match found {
        Some(found) => Json(found).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What goes wrong before anything is done.
async fn before(gateway: &InHouse, fault: Fault) -> Option<Response> {
    match fault {
        Fault::Slow => {
            tokio::time::sleep(gateway.faults.slow).await;
            None
        }
        Fault::Busy => {
            let soon = [(header::RETRY_AFTER, "1")];
            Some((StatusCode::SERVICE_UNAVAILABLE, soon).into_response())
        }
        Fault::Fails => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        Fault::BreaksOff => break_off(),
        Fault::None
        | Fault::Declines
        | Fault::FailsAfter
        | Fault::LosesAnswer
        | Fault::TimesOut
        | Fault::AnswersTwice => None,
    }
}

/// What goes wrong after it was carried out.
async fn after(gateway: &InHouse, fault: Fault, answer: impl IntoResponse) -> Response {
    match fault {
        Fault::FailsAfter => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Fault::LosesAnswer => break_off(),
        Fault::TimesOut => {
            tokio::time::sleep(gateway.faults.hang).await;
            answer.into_response()
        }
        Fault::None
        | Fault::Slow
        | Fault::Declines
        | Fault::Busy
        | Fault::Fails
        | Fault::BreaksOff
        | Fault::AnswersTwice => answer.into_response(),
    }
}

/// Ends the connection's task, without a panic's message: the peer sees it closed.
fn break_off() -> ! {
    std::panic::resume_unwind(Box::new("the in-house gateway breaks off"))
}

#[derive(Serialize)]
struct Charged<'a> {
    charge_id: &'a str,
    amount_cents: i64,
}

#[derive(Serialize)]
struct Refunded<'a> {
    refund_id: &'a str,
}

#[derive(Serialize)]
struct Notification<'a, D> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: &'a D,
}

/// The same answer on another way, as gateways that also call back: sooner or later than the first one.
fn notify(gateway: &InHouse, payment_id: &str, kind: &'static str, data: &impl Serialize) {
    let Some(url) = &gateway.notify_url else {
        return;
    };
    let notification = Notification { kind, data };
    let request = reqwest::Client::new()
        .post(format!("{url}/commands/payment/{payment_id}"))
        .json(&notification);
    tokio::spawn(async move {
        if let Err(error) = request.send().await {
            tracing::debug!(error = %error.without_url(), "a second answer did not arrive");
        }
    });
}
