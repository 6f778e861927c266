//! Queries: typed questions to a view, asked in process or over HTTP, never answered from a stale row by mistake.
//!
//! A query is a struct of filters and an `async fn` that reads the SQL view. [`Queries`] collects them, one line each;
//! [`QueryBus`] runs them on read-only connections. With a command's token the bus first waits until the view has
//! applied that command's events: see [`await_token`](wait::await_token).

mod error;
mod page;
mod unchanged;
pub mod wait;

use std::collections::BTreeMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::QueryError;
pub use page::{Listed, Page};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};

use crate::config::ViewsConfig;
use crate::http::api;
use crate::position::Token;
use crate::projection::{BoxFuture, Projector};
use crate::telemetry::queries;

/// Longest that a request waits for a connection: a database that is away is a 503, not a hang.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest that a query runs, in Postgres and, if Postgres does not answer at all, here.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a query answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A page of rows: `GET /views/<view>`.
    List,
    /// One thing: `GET /views/<view>/<id>`; the query has a field `id`.
    One,
}

/// A question to one view.
///
/// Its fields are the filters, read from text: strings, times, unit enums and options of these. It should carry
/// `#[serde(deny_unknown_fields)]`, so that a misspelt filter is refused and not ignored. What it and its answer are
/// documented with stands in the OpenAPI document.
pub trait Query: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The view that it reads, in kebab case; a token is waited for there.
    const VIEW: &'static str;
    /// What it answers with.
    const SHAPE: Shape;
    /// The answer.
    type Answer: Serialize + JsonSchema + Send;
    /// True where the answer follows from the rows of [`VIEW`](Self::VIEW) alone, from no clock and no other view, and costs more than
    /// the half millisecond of looking up that view's position: then whoever has the answer of the present position is told so
    /// (`ETag`, `If-None-Match`, 304), and the query does not run.
    const BY_POSITION: bool = false;

    /// Reads the answer, on a read-only connection. A query of [`Shape::One`] has no use for `page`.
    fn run(
        &self,
        page: &Page,
        db: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, QueryError>> + Send;
}

/// A query with its type erased.
trait Node: Send + Sync {
    fn by_position(&self) -> bool;

    fn answer<'a>(
        &'a self,
        filters: Map<String, Value>,
        page: Page,
        db: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Value, QueryError>>;

    fn described(&self) -> Described;
}

/// What a query is asked with and answers.
pub(crate) struct Described {
    pub(crate) view: &'static str,
    pub(crate) shape: Shape,
    pub(crate) filters: api::Shape,
    pub(crate) answer: api::Shape,
    /// It can be answered with 304.
    pub(crate) by_position: bool,
}

struct Typed<Q>(std::marker::PhantomData<fn() -> Q>);

impl<Q: Query> Node for Typed<Q> {
    fn by_position(&self) -> bool {
        Q::BY_POSITION
    }

    fn answer<'a>(
        &'a self,
        filters: Map<String, Value>,
        page: Page,
        db: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Value, QueryError>> {
        Box::pin(async move {
            let query: Q = serde_path_to_error::deserialize(Value::Object(filters))
                .map_err(|error| QueryError::Malformed(filter_error(&error)))?;
            let answer = query.run(&page, db).await?;
            serde_json::to_value(answer)
                .map_err(|error| QueryError::Answer(Q::VIEW, error.to_string()))
        })
    }

    fn described(&self) -> Described {
        Described {
            view: Q::VIEW,
            shape: Q::SHAPE,
            filters: api::Shape::of::<Q>(),
            answer: api::Shape::of::<Q::Answer>(),
            by_position: Q::BY_POSITION,
        }
    }
}

fn filter_error(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string().as_str() {
        "." => format!("query parameters: {}", error.inner()),
        path => format!("query parameter {path}: {}", error.inner()),
    }
}

/// The queries of a program; one line each.
#[derive(Clone, Default)]
pub struct Queries(BTreeMap<(&'static str, Shape), Arc<dyn Node>>);

impl Queries {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a query; a second one of the same view and shape takes the first one's place.
    #[must_use]
    pub fn query<Q: Query>(mut self) -> Self {
        let node = Arc::new(Typed::<Q>(std::marker::PhantomData));
        self.0.insert((Q::VIEW, Q::SHAPE), node);
        self
    }

    pub(crate) fn described(&self) -> impl Iterator<Item = Described> {
        self.0.values().map(|node| node.described())
    }
}

/// What the answer must already contain, and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// A command's token.
    pub token: Token,
    /// Longest to wait.
    pub timeout: Duration,
}

/// What a caller has of an answer already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'r> {
    /// What it asked, as text: the path with its parameters.
    pub request: &'r str,
    /// The header `If-None-Match`, where it sent one.
    pub if_none_match: Option<&'r str>,
}

/// An answer, or that the caller has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fresh {
    /// It has it.
    Unchanged {
        /// Of the answer.
        validator: String,
    },
    /// It has not.
    Changed {
        /// The answer.
        answer: Value,
        /// What it is to send back; none where the query is not [`Query::BY_POSITION`].
        validator: Option<String>,
    },
}

/// Runs queries. Cheap to clone.
#[derive(Clone)]
pub struct QueryBus {
    queries: Queries,
    topics: Arc<BTreeMap<String, Vec<String>>>,
    pool: PgPool,
}

impl QueryBus {
    /// A bus over the views' database, which need not be there yet; `projectors` say which topics a view reads.
    pub fn open<'p>(
        config: &ViewsConfig,
        queries: Queries,
        projectors: impl IntoIterator<Item = &'p Arc<dyn Projector>>,
    ) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(config.views_database_url.expose())?
            .application_name("millrace query")
            .options([
                ("default_transaction_read_only", "on"),
                ("statement_timeout", "10s"),
                ("idle_in_transaction_session_timeout", "10s"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        let topics = projectors
            .into_iter()
            .map(|projector| (projector.name().to_owned(), projector.topics()))
            .collect();
        Ok(Self {
            queries,
            topics: Arc::new(topics),
            pool,
        })
    }

    pub(crate) fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Asks in process.
    pub async fn ask<Q: Query>(
        &self,
        query: &Q,
        page: &Page,
        after: Option<&After>,
    ) -> Result<Q::Answer, QueryError> {
        self.wait(Q::VIEW, after).await?;
        let begun = Instant::now();
        let answer = bounded(async {
            let mut db = self.pool.acquire().await?;
            match query.run(page, &mut db).await {
                Err(error) if is_stale_plan(&error) => {
                    db.clear_cached_statements().await?;
                    query.run(page, &mut db).await
                }
                done => done,
            }
        })
        .await;
        queries::answered((Q::VIEW, Q::SHAPE), begun, &answer, |_| false);
        answer
    }

    /// Asks by name, as HTTP does; `filters` are the query's fields as text.
    pub async fn ask_by_name(
        &self,
        query: (&str, Shape),
        filters: Map<String, Value>,
        page: Page,
        after: Option<&After>,
    ) -> Result<Value, QueryError> {
        match self
            .ask_unless_held(query, (filters, page), after, None)
            .await?
        {
            Fresh::Changed { answer, .. } => Ok(answer),
            Fresh::Unchanged { .. } => unreachable!("nothing is held"),
        }
    }

    /// The same for a caller that may have the answer already.
    pub async fn ask_unless_held(
        &self,
        (view, shape): (&str, Shape),
        (filters, page): (Map<String, Value>, Page),
        after: Option<&After>,
        held: Option<Held<'_>>,
    ) -> Result<Fresh, QueryError> {
        let found = self
            .queries
            .0
            .iter()
            .find(|((name, of), _)| *name == view && *of == shape);
        let Some((&(name, _), node)) = found else {
            return Err(QueryError::NoQuery(self.known(view, shape)));
        };
        self.wait(name, after).await?;
        let begun = Instant::now();
        let held = held.filter(|_| node.by_position());
        let answer = bounded(async {
            let mut db = self.pool.acquire().await?;
            // Before the rows are read: see the invariant in `unchanged`.
            let validator = match held {
                Some(held) => unchanged::validator(&mut db, name, held.request).await?,
                None => None,
            };
            if let (Some(held), Some(validator)) =
                (held.and_then(|held| held.if_none_match), &validator)
                && unchanged::names(held, validator)
            {
                let validator = validator.clone();
                return Ok(Fresh::Unchanged { validator });
            }
            let answer = match node.answer(filters.clone(), page.clone(), &mut db).await {
                Err(error) if is_stale_plan(&error) => {
                    db.clear_cached_statements().await?;
                    node.answer(filters, page, &mut db).await
                }
                done => done,
            };
            answer.map(|answer| Fresh::Changed { answer, validator })
        })
        .await;
        queries::answered((name, shape), begun, &answer, |answer| {
            matches!(answer, Fresh::Unchanged { .. })
        });
        answer
    }

    /// Returns when the view has applied what the caller must see.
    async fn wait(&self, view: &'static str, after: Option<&After>) -> Result<(), QueryError> {
        if let Some(After { token, timeout }) = after {
            let topics = self.topics.get(view).map_or(&[][..], Vec::as_slice);
            if !topics.contains(&token.topic) {
                return Err(QueryError::Malformed(format!(
                    "after: view {view} does not read topic {}, so it never reaches token {token}; it reads: {}",
                    token.topic,
                    topics.join(", ")
                )));
            }
            let begun = Instant::now();
            let came = wait::await_token(&self.pool, view, token, *timeout).await;
            queries::waited(view, begun.elapsed(), &came);
            came?;
        }
        Ok(())
    }

    fn known(&self, view: &str, shape: Shape) -> String {
        let names = self.queries.0.keys().filter(|(_, of)| *of == shape);
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        let what = match shape {
            Shape::List => "listed",
            Shape::One => "asked for one row",
        };
        format!(
            "view {view} cannot be {what}; these can: {}",
            names.join(", ")
        )
    }
}

/// A swap gave the SQL view other columns than the connection's prepared statement knows: 0A000, "cached plan must
/// not change result type".
fn is_stale_plan(error: &QueryError) -> bool {
    matches!(
        error,
        QueryError::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some("0A000")
    )
}

/// A Postgres that accepts and never answers is one that is away.
async fn bounded<T>(read: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
    match tokio::time::timeout(STATEMENT_TIMEOUT + ACQUIRE_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(QueryError::Database(sqlx::Error::PoolTimedOut)),
    }
}
