//! Reading views over HTTP: `GET /views/<view>` for a page of rows, `GET /views/<view>/<id>` for one.
//!
//! `after=<token>` waits up to `timeout_ms` (5000 where it is not said, 30000 at most) for a command's events, `limit`
//! and `cursor` choose the page; every other parameter is a filter of the query.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::Uri;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value};

use crate::http::problem::Problem;
use crate::query::{After, Page, QueryBus, QueryError, Shape};

const TIMEOUT_MS_DEFAULT: u64 = 5_000;
const TIMEOUT_MS_MAX: u64 = 30_000;

/// The paths that [`routes`] serves, for a process that forwards them.
pub const PATHS: [&str; 2] = ["/views/{view}", "/views/{view}/{id}"];

/// Routes over the bus; each alias is a further path for a view's list, such as `/events/list` for `event-log`.
pub fn routes(bus: QueryBus, aliases: &[(&'static str, &'static str)]) -> Router {
    let mut router = Router::new()
        .route(PATHS[0], get(list))
        .route(PATHS[1], get(one));
    for (path, view) in aliases.iter().copied() {
        router = router.route(
            path,
            get(
                async move |State(bus): State<QueryBus>,
                            OriginalUri(uri): OriginalUri,
                            query: Pairs| {
                    answer(&bus, (view, Shape::List), None, (&uri, query)).await
                },
            ),
        );
    }
    router.with_state(bus)
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn list(
    State(bus): State<QueryBus>,
    Path(view): Path<String>,
    OriginalUri(uri): OriginalUri,
    query: Pairs,
) -> Result<Json<Value>, Problem> {
    answer(&bus, (&view, Shape::List), None, (&uri, query)).await
}

async fn one(
    State(bus): State<QueryBus>,
    Path((view, id)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
    query: Pairs,
) -> Result<Json<Value>, Problem> {
    answer(&bus, (&view, Shape::One), Some(id), (&uri, query)).await
}

async fn answer(
    bus: &QueryBus,
    query: (&str, Shape),
    id: Option<String>,
    (uri, pairs): (&Uri, Pairs),
) -> Result<Json<Value>, Problem> {
    let problem = |error: QueryError| Problem::from(error).instance(uri.path());
    let Query(pairs) = pairs.map_err(|error| problem(QueryError::Malformed(error.body_text())))?;
    let request = Request::read(pairs, id, query.1).map_err(problem)?;
    bus.ask_by_name(query, request.filters, request.page, request.after.as_ref())
        .await
        .map(Json)
        .map_err(problem)
}

struct Request {
    filters: Map<String, Value>,
    page: Page,
    after: Option<After>,
}

impl Request {
    fn read(
        pairs: Vec<(String, String)>,
        id: Option<String>,
        shape: Shape,
    ) -> Result<Self, QueryError> {
        let mut filters = Map::new();
        for (name, value) in pairs {
            if filters.insert(name.clone(), Value::from(value)).is_some() {
                return Err(QueryError::Malformed(format!(
                    "query parameter {name} is given twice"
                )));
            }
        }
        let after = take(&mut filters, "after")
            .map(|token| {
                let token = token.parse();
                token.map_err(|error| QueryError::Malformed(format!("after: {error}")))
            })
            .transpose()?;
        let timeout_ms = number(&mut filters, "timeout_ms")?.unwrap_or(TIMEOUT_MS_DEFAULT);
        if timeout_ms > TIMEOUT_MS_MAX {
            return Err(QueryError::Malformed(format!(
                "timeout_ms: {timeout_ms} is above {TIMEOUT_MS_MAX}"
            )));
        }
        let page = match shape {
            Shape::List => Page::new(number(&mut filters, "limit")?, take(&mut filters, "cursor"))?,
            Shape::One => Page::default(),
        };
        if let Some(id) = id
            && filters.insert("id".to_owned(), Value::from(id)).is_some()
        {
            return Err(QueryError::Malformed(
                "query parameter id stands in the path already".to_owned(),
            ));
        }
        Ok(Self {
            filters,
            page,
            after: after.map(|token| After {
                token,
                timeout: Duration::from_millis(timeout_ms),
            }),
        })
    }
}

fn take(filters: &mut Map<String, Value>, name: &str) -> Option<String> {
    match filters.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(
    filters: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, QueryError> {
    take(filters, name)
        .map(|text| {
            text.parse()
                .map_err(|_| QueryError::Malformed(format!("{name}: {text:?} is no whole number")))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, QueryError> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Request::read(pairs, None, Shape::List)
    }

    #[test]
    fn parameters_of_the_library_are_taken_out_and_the_rest_are_filters() {
        let request = read(&[
            ("after", "counter.events/3/1:745:12"),
            ("timeout_ms", "250"),
            ("limit", "7"),
            ("status", "placed"),
        ])
        .unwrap();
        assert_eq!(request.after.unwrap().timeout, Duration::from_millis(250));
        assert_eq!(request.page.fetch_limit(), 8);
        assert_eq!(
            Value::Object(request.filters),
            serde_json::json!({"status": "placed"})
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_name() {
        for (pairs, name) in [
            (&[("after", "12")][..], "after"),
            (&[("timeout_ms", "30001")], "timeout_ms"),
            (&[("limit", "many")], "limit"),
            (&[("limit", "0")], "limit"),
            (&[("status", "a"), ("status", "b")], "status"),
        ] {
            match read(pairs) {
                Err(QueryError::Malformed(text)) => assert!(text.contains(name), "{text}"),
                _ => panic!("{name} was taken"),
            }
        }
    }
}
