//! Sends the commands of a story and waits for what comes of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use chrono::Utc;
use millrace::command::{Command, CommandId, CommandSet as _, Commands, Envelope, HistoryEntry};
use millrace::event::events_topic;
use millrace::http::problem::Problem;
use millrace::position::{JournalPosition, Token, partition_of};
use serde::Serialize;
use serde_json::Value;

/// First pause between two looks at a history.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Events that are read at once; no aggregate of a story has so many.
const HISTORY_MAX: i64 = 1_000;

/// Where an aggregate of each type is shown; `{}` is its id.
const VIEWS: [(&str, &[&str]); 13] = [
    ("registration", &["/views/registrations/{}"]),
    ("tenant", &["/views/tenants/{}"]),
    ("user", &["/views/users/{}"]),
    (
        "workspace",
        &[
            "/views/workspaces/{}",
            "/views/workspace-members?workspace_id={}",
        ],
    ),
    ("profile", &["/views/profiles/{}"]),
    ("card", &["/views/card-search/{}"]),
    ("collection", &["/views/recommendations?collection_id={}"]),
    ("product", &["/views/products/{}"]),
    ("stock", &["/views/stock/{}"]),
    ("order", &["/views/orders/{}"]),
    ("payment", &["/views/payments/{}"]),
    (
        "order_saga",
        &["/views/saga-instances/{}", "/views/saga-steps/{}"],
    ),
    ("recipient", &["/views/notifications?recipient_id={}"]),
];

/// A step of the story: a command and its events, or an outcome that flows brought about.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    domain: &'static str,
    what: &'static str,
    aggregate: &'static str,
    id: String,
    /// None for an outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'static str>,
    events: Vec<String>,
}

/// An aggregate of the story, and where it can be looked at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Links {
    aggregate: &'static str,
    id: String,
    history: String,
    state: String,
    views: Vec<String>,
}

/// An outcome that flows bring about.
pub(super) struct Outcome<'o> {
    /// For a person to read.
    pub(super) what: &'static str,
    /// Of which aggregate.
    pub(super) aggregate: &'static str,
    /// Its id.
    pub(super) id: &'o str,
    /// By which event it is known, for a person to read.
    pub(super) event: String,
    /// Whether this is one.
    pub(super) is: &'o (dyn Fn(&HistoryEntry) -> bool + Sync),
    /// How many there are.
    pub(super) times: usize,
    /// What it takes, beside processors that run.
    pub(super) takes: &'static str,
}

/// Tells one story.
pub(super) struct Teller<'c> {
    commands: &'c Commands,
    story: String,
    timeout: Duration,
    domain: &'static str,
    steps: Vec<Step>,
    /// Commands sent so far: each has its number in its id.
    sent: usize,
    /// The last event seen of each aggregate, by its place in the story.
    seen: Vec<(&'static str, String)>,
    positions: BTreeMap<(&'static str, String), JournalPosition>,
}

impl<'c> Teller<'c> {
    pub(super) fn new(commands: &'c Commands, story: String, timeout: Duration) -> Self {
        Self {
            commands,
            story,
            timeout,
            domain: "",
            steps: Vec::new(),
            sent: 0,
            seen: Vec::new(),
            positions: BTreeMap::new(),
        }
    }

    /// What follows belongs to this domain.
    pub(super) fn enter(&mut self, domain: &'static str) {
        self.domain = domain;
    }

    /// Sends a command that must be accepted. Its id follows from its place in the story, so a story that is told again
    /// gets the first answers.
    pub(super) async fn tell<C: Command>(
        &mut self,
        what: &'static str,
        id: &str,
        command: &C,
    ) -> Result<(), Problem> {
        self.sent += 1;
        let aggregate = C::Set::AGGREGATE;
        let data = serde_json::to_string(command).map_err(Problem::failure)?;
        let envelope = Envelope {
            aggregate_id: id.to_owned(),
            command_type: C::TYPE.to_owned(),
            data: data.into(),
            id: CommandId::Given(format!("{}/{}", self.story, self.sent)),
            expected_version: None,
            correlation_id: Some(self.story.clone()),
            tenant_id: Some(self.story.clone()),
            traceparent: None,
            now: Utc::now(),
        };
        let accepted = self.commands.node(aggregate)?.handle(envelope).await?;
        let events = accepted.events.into_iter().map(|event| event.event_type);
        self.steps.push(Step {
            domain: self.domain,
            what,
            aggregate,
            id: id.to_owned(),
            command: Some(C::TYPE),
            events: events.collect(),
        });
        self.saw(aggregate, id, accepted.token.map(|token| token.position));
        Ok(())
    }

    /// Waits until an outcome stands in the journal.
    pub(super) async fn until(&mut self, outcome: Outcome<'_>) -> Result<(), Problem> {
        let Outcome {
            what,
            aggregate,
            id,
            ..
        } = outcome;
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let history = self
                .commands
                .node(aggregate)?
                .history(id.to_owned(), 0, HISTORY_MAX)
                .await?
                .events;
            self.saw(aggregate, id, history.last().map(|event| event.position));
            let found = history.iter().filter(|event| (outcome.is)(event));
            let mut events: Vec<String> = found.map(|event| event.event_type.clone()).collect();
            if events.len() >= outcome.times {
                events.truncate(outcome.times);
                self.steps.push(Step {
                    domain: self.domain,
                    what,
                    aggregate,
                    id: id.to_owned(),
                    command: None,
                    events,
                });
                return Ok(());
            }
            let left = self.timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(self.missing(&outcome, events.len(), &history));
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn missing(&self, outcome: &Outcome<'_>, found: usize, history: &[HistoryEntry]) -> Problem {
        let Outcome {
            aggregate,
            id,
            event,
            times,
            takes,
            ..
        } = outcome;
        let came = history.iter().map(|event| event.event_type.as_str());
        let came: Vec<&str> = came.collect();
        let detail = format!(
            "{}: {aggregate} {id} has {found} of {times} {event} after {} ms; it takes {takes}",
            self.domain,
            self.timeout.as_millis()
        );
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "story-stopped",
            "What a flow should have brought about did not come in time",
            detail,
        )
        .with("domain", self.domain)
        .with("aggregate", *aggregate)
        .with("id", *id)
        .with("missing", event.as_str())
        .with("came", Value::from(came))
    }

    fn saw(&mut self, aggregate: &'static str, id: &str, position: Option<JournalPosition>) {
        let key = (aggregate, id.to_owned());
        if !self.seen.contains(&key) {
            self.seen.push(key.clone());
        }
        if let Some(position) = position {
            let last = self.positions.entry(key).or_insert(position);
            *last = position.max(*last);
        }
    }

    /// What was done and what came of it, in order.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Every aggregate of the story. A view is asked with the token of the last event that was seen.
    pub(super) fn links(&self, partitions: i32) -> Vec<Links> {
        let links = |key: &(&'static str, String)| {
            let (aggregate, id) = key;
            let after = self.positions.get(key).map(|position| Token {
                topic: events_topic(aggregate),
                partition: partition_of(id, partitions),
                position: *position,
            });
            let views = VIEWS.iter().filter(|(shown, _)| shown == aggregate);
            let views = views.flat_map(|(_, paths)| *paths);
            Links {
                aggregate,
                id: id.clone(),
                history: format!("/aggregates/{aggregate}/{id}/events"),
                state: format!("/aggregates/{aggregate}/{id}/state"),
                views: views.map(|path| view(path, id, after.as_ref())).collect(),
            }
        };
        self.seen.iter().map(links).collect()
    }
}

fn view(path: &str, id: &str, after: Option<&Token>) -> String {
    let path = path.replace("{}", id);
    let Some(token) = after else {
        return path;
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}after={token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_asked_with_the_token_of_what_it_should_show() {
        let token: Token = "card.events/3/1:745:12".parse().unwrap();
        assert_eq!(
            view("/views/card-search/{}", "c1", Some(&token)),
            "/views/card-search/c1?after=card.events/3/1:745:12"
        );
        assert_eq!(
            view("/views/x?of={}", "c1", Some(&token)),
            "/views/x?of=c1&after=card.events/3/1:745:12"
        );
        assert_eq!(view("/views/x/{}", "c1", None), "/views/x/c1");
    }
}
