//! Webhooks: an effect's call as a POST of JSON or of a form.
//!
//! The receiver is given the call's key in the header `Idempotency-Key`, so that it can drop a repeat. What it answers
//! becomes a [`CallError`] by the status alone; bodies are not read beyond what an outcome needs, and are never logged.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Serialize;

use super::{Call, CallError};
use crate::config::Secret;

/// Pause where the receiver asks for one and does not say how long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that a receiver is granted.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// Posts to one receiver. Cheap to clone; keeps its connections.
#[derive(Debug, Clone)]
pub struct Webhook {
    client: Client,
    url: Url,
    /// User and password, where the receiver asks for them.
    basic_auth: Option<(String, Secret)>,
}

/// Why a webhook could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL.
    #[error("webhook URL {url:?} is not one: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A header.
    #[error("webhook header {0:?} is not valid")]
    Header(String),
    /// The client.
    #[error("webhook: {0}")]
    Client(reqwest::Error),
}

/// What the receiver answered.
#[derive(Debug)]
pub struct Delivered {
    /// The status, from 200 to 299.
    pub status: u16,
    /// The body, at most 64 KiB of it.
    pub body: Vec<u8>,
    headers: HeaderMap,
}

impl Delivered {
    /// A header of the answer, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Most bytes of an answer that are kept.
const BODY_BYTES_MAX: usize = 65_536;

impl Webhook {
    /// A webhook to this URL, with headers of its own such as an `Authorization`; their values are never printed.
    pub fn new(url: &str, headers: &[(&str, &str)]) -> Result<Self, WebhookError> {
        let parsed = Url::parse(url).map_err(|error| WebhookError::Url {
            url: url.to_owned(),
            reason: error.to_string(),
        })?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let invalid = || WebhookError::Header((*name).to_owned());
            let header: HeaderName = name.parse().map_err(|_| invalid())?;
            let mut value: HeaderValue = value.parse().map_err(|_| invalid())?;
            value.set_sensitive(true);
            all.insert(header, value);
        }
        let client = Client::builder()
            .default_headers(all)
            // A redirected POST would become a GET, or reach a stranger.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("millrace")
            // A call is one request: what to do again is for the effect's rule to say.
            .retry(reqwest::retry::never())
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self {
            client,
            url: parsed,
            basic_auth: None,
        })
    }

    /// The same for a receiver that asks for a user and a password.
    #[must_use]
    pub fn with_basic_auth(mut self, user: &str, password: &Secret) -> Self {
        self.basic_auth = Some((user.to_owned(), password.clone()));
        self
    }

    /// Posts `body` as JSON for this call.
    pub async fn post<E, B: Serialize + ?Sized>(
        &self,
        call: &Call<'_, E>,
        body: &B,
    ) -> Result<Delivered, CallError> {
        self.send(call, |request| request.json(body)).await
    }

    /// Posts `fields` as an HTML form for this call.
    pub async fn post_form<E>(
        &self,
        call: &Call<'_, E>,
        fields: &[(&str, &str)],
    ) -> Result<Delivered, CallError> {
        self.send(call, |request| request.form(fields)).await
    }

    async fn send<E>(
        &self,
        call: &Call<'_, E>,
        with_body: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Delivered, CallError> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header("Idempotency-Key", call.key.to_string())
            .timeout(call.timeout);
        if let Some((user, password)) = &self.basic_auth {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let sent = with_body(request).send().await;
        let mut answer = sent.map_err(|error| not_answered(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(refused(status, answer.headers()));
        }
        let headers = answer.headers().clone();
        let mut body = Vec::new();
        // The status says that it was carried out: a body that breaks off changes nothing about that.
        while let Ok(Some(chunk)) = answer.chunk().await {
            let room = BODY_BYTES_MAX.saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == BODY_BYTES_MAX {
                break;
            }
        }
        Ok(Delivered {
            status: status.as_u16(),
            body,
            headers,
        })
    }
}

/// Without an answer: certainly not sent, or perhaps carried out.
fn not_answered(error: &reqwest::Error) -> CallError {
    // The URL may hold a token.
    if error.is_builder() {
        CallError::Permanent("the request cannot be made".to_owned())
    } else if error.is_connect() {
        CallError::Outage("the receiver cannot be reached".to_owned())
    } else if error.is_timeout() {
        CallError::Unknown("the receiver did not answer in time".to_owned())
    } else {
        CallError::Unknown("the connection broke before the answer".to_owned())
    }
}

/// An answer other than 2xx.
fn refused(status: StatusCode, headers: &HeaderMap) -> CallError {
    let reason = format!("the receiver answered {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS => CallError::RetryAfter {
            after: retry_after(headers).unwrap_or(PAUSE),
            reason,
        },
        StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => {
            CallError::RetryAfter {
                after: retry_after(headers).unwrap_or(PAUSE),
                reason,
            }
        }
        StatusCode::REQUEST_TIMEOUT => CallError::Transient(reason),
        // Whoever stands before the receiver gave up on it: it may have been carried out.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => CallError::Unknown(reason),
        _ if status.is_server_error() => CallError::Transient(reason),
        _ => CallError::Permanent(reason),
    }
}

/// `Retry-After` in seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
            let at: SystemTime = at.into();
            at.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_with(status: u16, pause: Option<&str>) -> CallError {
        let mut headers = HeaderMap::new();
        if let Some(pause) = pause {
            headers.insert(RETRY_AFTER, pause.parse().unwrap());
        }
        refused(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn the_status_decides_what_follows() {
        for status in [400, 401, 404, 409, 410, 422, 301] {
            assert!(matches!(
                refused_with(status, None),
                CallError::Permanent(_)
            ));
        }
        for status in [500, 503, 408] {
            assert!(matches!(
                refused_with(status, None),
                CallError::Transient(_)
            ));
        }
        for status in [502, 504] {
            assert!(matches!(refused_with(status, None), CallError::Unknown(_)));
        }
    }

    #[test]
    fn a_receiver_that_asks_for_a_pause_gets_it_within_reason() {
        let pause = |status, text: Option<&str>| match refused_with(status, text) {
            CallError::RetryAfter { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(429, Some("7")), Duration::from_secs(7));
        assert_eq!(pause(503, Some("2")), Duration::from_secs(2));
        assert_eq!(pause(429, None), PAUSE);
        assert_eq!(pause(429, Some("999999999")), PAUSE_MAX);
        assert_eq!(
            pause(429, Some("Wed, 21 Oct 2015 07:28:00 GMT")),
            Duration::ZERO
        );
    }
}
