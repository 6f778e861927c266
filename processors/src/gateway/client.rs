//! Speaks to the gateway.

use std::time::Duration;

use millrace::effect::CallError;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Charge, ChargeRequest, Refund, RefundRequest};

/// Pause where the gateway does nothing and does not say for how long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that it is granted.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A gateway. Cheap to clone; keeps its connections.
#[derive(Debug, Clone)]
pub struct GatewayClient {
    client: Client,
    url: Url,
}

/// A key and how long the gateway may take to answer.
#[derive(Debug, Clone, Copy)]
pub struct Keyed {
    /// The idempotency key.
    pub key: Uuid,
    /// No answer after this is none.
    pub timeout: Duration,
}

impl GatewayClient {
    /// A gateway at this URL.
    ///
    /// # Errors
    /// When the system has no TLS to offer.
    pub fn new(url: Url) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("millrace")
            // A call is one request: what to do again is for the effect's rule to say.
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self { client, url })
    }

    /// Charges.
    pub async fn charge(&self, of: Keyed, request: &ChargeRequest) -> Result<Charge, CallError> {
        let answer = self.send(Method::PUT, "charges", of, Some(request));
        answer.await?.ok_or_else(unknown_path)
    }

    /// Gives a charge up.
    pub async fn void(&self, of: Keyed) -> Result<Charge, CallError> {
        let answer = self.send::<(), _>(Method::DELETE, "charges", of, None);
        answer.await?.ok_or_else(unknown_path)
    }

    /// What became of a charge; none if its key never came.
    pub async fn find_charge(&self, of: Keyed) -> Result<Option<Charge>, CallError> {
        self.send::<(), _>(Method::GET, "charges", of, None).await
    }

    /// Gives a charge back.
    pub async fn refund(&self, of: Keyed, request: &RefundRequest) -> Result<Refund, CallError> {
        let answer = self.send(Method::PUT, "refunds", of, Some(request)).await?;
        answer.ok_or_else(|| {
            CallError::Permanent(format!("the gateway knows no charge {}", request.charge_id))
        })
    }

    /// What became of a refund; none if its key never came.
    pub async fn find_refund(&self, of: Keyed) -> Result<Option<Refund>, CallError> {
        self.send::<(), _>(Method::GET, "refunds", of, None).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        kind: &str,
        of: Keyed,
        body: Option<&B>,
    ) -> Result<Option<T>, CallError> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .map_err(|()| CallError::Permanent("the gateway's URL has no path".to_owned()))?
            .pop_if_empty()
            .extend([kind, &of.key.to_string()]);
        let mut request = self.client.request(method, url).timeout(of.timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| no_answer(&error))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let read = answer.json().await;
                // It was carried out, but what came of it was lost on the way.
                read.map(Some)
                    .map_err(|_| CallError::Unknown("the gateway's answer broke off".to_owned()))
            }
            status => Err(refused(status, &answer)),
        }
    }
}

fn unknown_path() -> CallError {
    CallError::Permanent("the gateway does not know the path: check its URL".to_owned())
}

/// Without an answer: certainly not sent, or perhaps carried out. The URL may hold a token, so it is not said.
fn no_answer(error: &reqwest::Error) -> CallError {
    if error.is_builder() {
        CallError::Permanent("the request to the gateway cannot be made".to_owned())
    } else if error.is_connect() {
        CallError::Outage("the gateway cannot be reached".to_owned())
    } else if error.is_timeout() {
        CallError::Unknown("the gateway did not answer in time".to_owned())
    } else {
        CallError::Unknown("the connection broke before the gateway's answer".to_owned())
    }
}

fn refused(status: StatusCode, answer: &Response) -> CallError {
    let reason = format!("the gateway answered {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => CallError::RetryAfter {
            after: pause(answer),
            reason,
        },
        // Nobody knows what it did before it failed.
        _ if status.is_server_error() => CallError::Unknown(reason),
        _ => CallError::Permanent(reason),
    }
}

/// `Retry-After` in seconds.
fn pause(answer: &Response) -> Duration {
    let header = answer.headers().get(RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs).min(PAUSE_MAX)
}
