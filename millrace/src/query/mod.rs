//! Queries: typed questions to a view, asked in process or over HTTP, never answered from a stale row by mistake.
//!
//! A query is a struct of filters and an `async fn` that reads the SQL view. [`Queries`] collects them, one line each;
//! [`QueryBus`] runs them on read-only connections. With a command's token the bus first waits until the view has
//! applied that command's events: see [`await_token`](wait::await_token).

mod error;
mod page;
pub mod wait;

use std::collections::BTreeMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use error::QueryError;
pub use page::{Listed, Page};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};

use crate::config::ViewsConfig;
use crate::position::Token;
use crate::projection::{BoxFuture, Projector};

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
/// `#[serde(deny_unknown_fields)]`, so that a misspelt filter is refused and not ignored.
pub trait Query: DeserializeOwned + Send + Sync + 'static {
    /// The view that it reads, in kebab case; a token is waited for there.
    const VIEW: &'static str;
    /// What it answers with.
    const SHAPE: Shape;
    /// The answer.
    type Answer: Serialize + Send;

    /// Reads the answer, on a read-only connection. A query of [`Shape::One`] has no use for `page`.
    fn run(
        &self,
        page: &Page,
        db: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, QueryError>> + Send;
}

/// A query with its type erased.
trait Node: Send + Sync {
    fn answer<'a>(
        &'a self,
        filters: Map<String, Value>,
        page: Page,
        db: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Value, QueryError>>;
}

struct Typed<Q>(std::marker::PhantomData<fn() -> Q>);

impl<Q: Query> Node for Typed<Q> {
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
}

/// What the answer must already contain, and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// A command's token.
    pub token: Token,
    /// Longest to wait.
    pub timeout: Duration,
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

    /// Asks in process.
    pub async fn ask<Q: Query>(
        &self,
        query: &Q,
        page: &Page,
        after: Option<&After>,
    ) -> Result<Q::Answer, QueryError> {
        self.wait(Q::VIEW, after).await?;
        bounded(async {
            let mut db = self.pool.acquire().await?;
            match query.run(page, &mut db).await {
                Err(error) if is_stale_plan(&error) => {
                    db.clear_cached_statements().await?;
                    query.run(page, &mut db).await
                }
                done => done,
            }
        })
        .await
    }

    /// Asks by name, as HTTP does; `filters` are the query's fields as text.
    pub async fn ask_by_name(
        &self,
        (view, shape): (&str, Shape),
        filters: Map<String, Value>,
        page: Page,
        after: Option<&After>,
    ) -> Result<Value, QueryError> {
        let found = self
            .queries
            .0
            .iter()
            .find(|((name, of), _)| *name == view && *of == shape);
        let Some(((name, _), node)) = found else {
            return Err(QueryError::NoQuery(self.known(view, shape)));
        };
        self.wait(name, after).await?;
        bounded(async {
            let mut db = self.pool.acquire().await?;
            match node.answer(filters.clone(), page.clone(), &mut db).await {
                Err(error) if is_stale_plan(&error) => {
                    db.clear_cached_statements().await?;
                    node.answer(filters, page, &mut db).await
                }
                done => done,
            }
        })
        .await
    }

    /// Returns when the view has applied what the caller must see.
    async fn wait(&self, view: &str, after: Option<&After>) -> Result<(), QueryError> {
        if let Some(After { token, timeout }) = after {
            let topics = self.topics.get(view).map_or(&[][..], Vec::as_slice);
            if !topics.contains(&token.topic) {
                return Err(QueryError::Malformed(format!(
                    "after: view {view} does not read topic {}, so it never reaches token {token}; it reads: {}",
                    token.topic,
                    topics.join(", ")
                )));
            }
            wait::await_token(&self.pool, view, token, *timeout).await?;
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
