//! `GET /events/stream`: events as they are accepted, as server-sent events (WHATWG HTML, section 9.2).
//!
//! The stream is the journal's order below the relay's gate, so every event comes once and none appears later at a place
//! that was passed; it may come a moment before it is in Kafka. An event's `id` is its position: whoever reconnects with
//! `Last-Event-ID` goes on behind it, and misses nothing. A quiet or filtered stream sends the position alone every few
//! seconds, so that a filter that matches little does not begin far behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::Event;
use futures::stream::{self, Stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codec::unframe;
use crate::config::JournalConfig;
use crate::event::ce_type;
use crate::http::api::{Api, Operation, Place, Shape};
use crate::http::problem::Problem;
use crate::position::JournalPosition;
use crate::registry::Registry;
use crate::relay::RelayError;
use crate::relay::gate::GateRule;
use crate::relay::read::{self, BatchLimits, JournalEvent, Reader};

/// Streams of a process; each has a session with the journal.
const STREAMS_MAX: usize = 16;
/// Pause between two looks at a journal that had nothing new.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a stream that sends no event says where it is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How much is read ahead of a reader.
const LIMITS: BatchLimits = BatchLimits {
    events_max: 500,
    bytes_max: 4 * 1024 * 1024,
};

/// What streams are made of.
#[derive(Clone)]
struct Streams {
    journal: JournalConfig,
    registry: Registry,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// The route. Streams end at shutdown; their readers reconnect.
pub fn api(journal: JournalConfig, registry: Registry, shutdown: CancellationToken) -> Api {
    Api::new().route(operation(), open).with_state(Streams {
        journal,
        registry,
        places: Arc::new(Semaphore::new(STREAMS_MAX)),
        shutdown,
    })
}

fn operation() -> Operation {
    let summary = "Events as they are accepted, as server-sent events";
    Operation::get("/events/stream", "events", summary)
        .says("Every event once and in the journal's order. An event's `id` is its position: a reader that reconnects with `Last-Event-ID` goes on behind it.")
        .query(Shape::of::<Filter>())
        .takes(
            Place::Header,
            ("Last-Event-ID", "Position to go on behind; wins over `after`."),
            Shape::text(),
        )
        .answers_as(StatusCode::OK, "Until the reader or the process ends.", "text/event-stream")
        .refuses(StatusCode::BAD_REQUEST)
}

/// Which events are sent; all that are given must match.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Aggregate type.
    aggregate: Option<String>,
    /// Aggregate id.
    aggregate_id: Option<String>,
    /// Event type, such as `CounterRaised`.
    #[serde(rename = "type", alias = "event_type")]
    event_type: Option<String>,
    /// Correlation id.
    correlation_id: Option<String>,
    /// Position to go on behind, for readers that cannot send `Last-Event-ID`; `start` for the journal's begin. What
    /// comes from now on where neither is given.
    after: Option<String>,
}

async fn open(
    State(streams): State<Streams>,
    filter: Result<Query<Filter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Problem> {
    let Query(filter) = filter.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let soon = Duration::from_secs(1);
    let place = Arc::clone(&streams.places).try_acquire_owned();
    let place = place
        .map_err(|_| Problem::unavailable(format!("{STREAMS_MAX} streams are open here"), soon))?;
    let last = headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or_default());
    let after = match last.or(filter.after.as_deref()) {
        Some("start") => Some(JournalPosition::default()),
        Some(position) => Some(position.parse().map_err(Problem::malformed)?),
        None => None,
    };
    let away = |error: RelayError| Problem::unavailable(error, soon);
    let url = streams.journal.database_url.expose();
    let mut connection = read::connect_as(url, "millrace-stream")
        .await
        .map_err(away)?;
    let newest = read::newest(&mut connection).await.map_err(away)?;
    if after.is_some_and(|after| after.generation > newest.generation) {
        return Err(Problem::malformed(
            "the position to go on behind is not of this journal; leave it out, or begin with after=start",
        ));
    }
    let reader = Reader::new(
        connection,
        after.unwrap_or(newest),
        LIMITS,
        GateRule::JournalWriters,
    );
    Ok(Sse::new(stream::unfold(
        Sending {
            streams,
            filter,
            reader,
            ready: VecDeque::new(),
            said: Instant::now(),
            _place: place,
        },
        Sending::next,
    )))
}

/// One stream.
struct Sending {
    streams: Streams,
    filter: Filter,
    reader: Reader,
    /// Read and not sent yet.
    ready: VecDeque<JournalEvent>,
    /// When the reader last heard where it is.
    said: Instant,
    _place: OwnedSemaphorePermit,
}

impl Sending {
    /// What is sent next. The stream ends at shutdown, and when the journal cannot be read: the reader reconnects
    /// with its position.
    async fn next(mut self) -> Option<(Result<Event, axum::Error>, Self)> {
        while !self.streams.shutdown.is_cancelled() {
            if let Some(event) = self.ready.pop_front() {
                let sent = match self.event(&event).await {
                    Ok(sent) => sent,
                    Err(reason) => {
                        tracing::warn!(position = %event.position, reason, "a stream of events ended");
                        return None;
                    }
                };
                self.said = Instant::now();
                return Some((sent, self));
            }
            let batch = match self.reader.next().await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "a stream of events ended");
                    return None;
                }
            };
            let matching = batch
                .events
                .into_iter()
                .filter(|one| self.filter.matches(one));
            self.ready.extend(matching);
            if !self.ready.is_empty() {
                continue;
            }
            if self.said.elapsed() >= SIGN_OF_LIFE {
                self.said = Instant::now();
                let here = Event::default().id(self.reader.cursor().to_string());
                return Some((Ok(here), self));
            }
            if !batch.full {
                let _ = tokio::time::timeout(PAUSE, self.streams.shutdown.cancelled()).await;
            }
        }
        None
    }

    /// In the shape of an aggregate's history, with whose event it is.
    async fn event(&self, event: &JournalEvent) -> Result<Result<Event, axum::Error>, String> {
        let registry = &self.streams.registry;
        let (schema_id, _) = unframe(&event.payload).map_err(|error| error.to_string())?;
        if !registry.codec().can_read(schema_id) {
            let learnt = registry.learn(schema_id).await;
            learnt.map_err(|error| error.to_string())?;
        }
        let decoded = registry.codec().decode_json(&event.payload);
        let (event_type, data) = decoded.map_err(|error| error.to_string())?;
        let name = ce_type(&event.aggregate_type, &event_type);
        let headers = headers(event);
        Ok(Event::default()
            .id(event.position.to_string())
            .event(name)
            .json_data(json!({
                "aggregate": &*event.aggregate_type, "aggregate_id": event.aggregate_id,
                "sequence": event.sequence, "id": event.event_id, "type": event_type,
                "time": event.occurred_at, "data": data, "correlation_id": headers["correlationid"],
                "causation_id": headers["causationid"], "position": event.position,
            })))
    }
}

impl Filter {
    fn matches(&self, event: &JournalEvent) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let type_is = self
            .event_type
            .as_deref()
            .is_none_or(|wanted| event.kind.ce_type == ce_type(&event.aggregate_type, wanted));
        is(&self.aggregate, &event.aggregate_type)
            && is(&self.aggregate_id, &event.aggregate_id)
            && type_is
            && self
                .correlation_id
                .as_ref()
                .is_none_or(|wanted| headers(event)["correlationid"] == **wanted)
    }
}

/// Further headers; what is not there reads as null.
fn headers(event: &JournalEvent) -> serde_json::Value {
    let text = event.headers.as_deref();
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}
