//! One command over HTTP, tried again under the same id while the server is away.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::line::Command;

/// Longest one request may take; then it is tried again, which the command's id makes harmless.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait before a second try where the server names none; doubled with each try.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where commands go, and how long to wait while it is away.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    url: Url,
    wait: Duration,
}

/// What the server said to a command, for good.
#[derive(Debug)]
pub(super) enum Answer {
    Accepted(Accepted),
    Refused { status: u16, reason: String },
}

/// The part of an acceptance that the acks file shows.
#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) version: i64,
    pub(super) token: Option<String>,
    #[serde(default)]
    pub(super) repeated: bool,
}

/// RFC 9457; other bodies are read as far as they agree.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

/// One try that brought no answer: why, and when the server wants to be asked again.
struct Away {
    reason: String,
    retry_after: Option<Duration>,
}

impl Server {
    pub(super) fn new(url: &str, connections: usize, wait: Duration) -> anyhow::Result<Self> {
        let url = Url::parse(url).with_context(|| format!("{url} (--url) is not a URL"))?;
        anyhow::ensure!(
            matches!(url.scheme(), "http" | "https"),
            "{url} (--url) is not an HTTP URL"
        );
        let client = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .tcp_nodelay(true)
            // A command is never sent on to another place than the one that was named.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { client, url, wait })
    }

    /// Sends until there is an answer; `Err` says why there was none for all the time that we wait.
    pub(super) async fn send(&self, command: &Command) -> Result<Answer, String> {
        let url = self.command_url(command);
        let mut deadline = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let away = match self.attempt(url.clone(), command).await {
                Ok(answer) => return Ok(answer),
                Err(away) => away,
            };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + self.wait);
            if now >= deadline {
                return Err(format!(
                    "no answer from {} for {} s: {}",
                    self.url,
                    self.wait.as_secs(),
                    away.reason
                ));
            }
            let next = now + away.retry_after.unwrap_or(pause);
            tokio::time::sleep_until(next.min(deadline)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn command_url(&self, command: &Command) -> Url {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(["commands", &command.aggregate, &command.id]);
        url
    }

    async fn attempt(&self, url: Url, command: &Command) -> Result<Answer, Away> {
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("idempotency-key", &command.command_id)
            .body(command.body.clone());
        if command.derived {
            request = request.header("millrace-derived-id", "true");
        }
        if let Some(version) = command.expected_version {
            request = request.header("if-match", format!("\"{version}\""));
        }
        let away = |error: reqwest::Error| Away {
            reason: causes(&error.without_url()),
            retry_after: None,
        };
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        // The body may break off: then nobody knows what was decided, and asking again tells.
        let body = response.bytes().await.map_err(away)?;
        read_answer(status, retry_after, &body)
    }
}

fn read_answer(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<Answer, Away> {
    if status.is_success() {
        return serde_json::from_slice(body)
            .map(Answer::Accepted)
            .map_err(|error| Away {
                reason: format!("{status} with a body that is no answer to a command: {error}"),
                retry_after,
            });
    }
    let problem = serde_json::from_slice::<Problem>(body).ok();
    let reason = problem
        .and_then(|problem| problem.detail.or(problem.title))
        .unwrap_or_else(|| status.to_string());
    match status {
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => Err(Away {
            reason: format!("{status}: {reason}"),
            retry_after,
        }),
        _ => Ok(Answer::Refused {
            status: status.as_u16(),
            reason,
        }),
    }
}

/// The error with its causes: the outermost alone says only that a request failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
