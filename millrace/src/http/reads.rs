//! Reading views over HTTP: `GET /views/<view>` for a page of rows, `GET /views/<view>/<id>` for one.
//!
//! `after=<token>` waits up to `timeout_ms` (5000 where it is not said, 30000 at most) for a command's events, `limit`
//! and `cursor` choose the page; every other parameter is a filter of the query.
//!
//! Answers of queries that follow from their view's position ([`BY_POSITION`](crate::query::Query::BY_POSITION)) carry an `ETag`; with
//! `If-None-Match` they are 304 until the position has moved.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::http::api::{self, Api, Operation};
use crate::http::problem::Problem;
use crate::query::{After, Fresh, Held, Page, Queries, QueryBus, QueryError, Shape};

const TIMEOUT_MS_DEFAULT: u64 = 5_000;
const TIMEOUT_MS_MAX: u64 = 30_000;

/// Parameters of the library; `limit` and `cursor` are those of a list.
#[derive(JsonSchema)]
#[allow(
    dead_code,
    reason = "its shape is what is used: `Request` reads the pairs itself"
)]
struct OfOne {
    /// A command's token: the answer is not given before the view has applied that command's events.
    after: Option<String>,
    /// Longest wait for that, in milliseconds: 5000 where it is not said, 30000 at most.
    timeout_ms: Option<u64>,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "as above")]
struct OfList {
    #[schemars(flatten)]
    of_one: OfOne,
    /// Most rows of the page: 50 where it is not said, 500 at most.
    limit: Option<u16>,
    /// `cursor` of the page before.
    cursor: Option<String>,
}

/// Every operation over these queries; each alias is a further path for a view's list, such as `/events/list` for
/// `event-log`.
pub fn operations(queries: &Queries, aliases: &[(&'static str, &'static str)]) -> Vec<Operation> {
    let mut all = of_shape(queries, Shape::List);
    all.extend(of_shape(queries, Shape::One));
    all.extend(aliases.iter().map(|alias| aliased(queries, *alias)));
    all
}

fn of_shape(queries: &Queries, shape: Shape) -> Vec<Operation> {
    let described = queries.described().filter(|one| one.shape == shape);
    let shown = described.map(|one| match shape {
        Shape::List => shown_at(format!("/views/{}", one.view), one).of_route("/views/{view}"),
        Shape::One => {
            shown_at(format!("/views/{}/{{id}}", one.view), one).of_route("/views/{view}/{id}")
        }
    });
    shown.collect()
}

fn aliased(queries: &Queries, (path, view): (&'static str, &'static str)) -> Operation {
    let found = queries
        .described()
        .find(|one| one.view == view && one.shape == Shape::List);
    let found = found.unwrap_or_else(|| panic!("{path} is an alias of {view}, which has no list"));
    shown_at(path.to_owned(), found).says(format!("The same as `/views/{view}`."))
}

fn shown_at(path: String, one: crate::query::Described) -> Operation {
    let (parameters, says) = match one.shape {
        Shape::List => (
            api::Shape::of::<OfList>(),
            "A page of rows, in a fixed order.",
        ),
        Shape::One => (api::Shape::of::<OfOne>(), "The row."),
    };
    let summary = one
        .filters
        .says()
        .unwrap_or_else(|| format!("View {}", one.view));
    let operation = Operation::get(path, "views", summary)
        .query(one.filters)
        .query(parameters)
        .answers(StatusCode::OK, says, one.answer);
    let operation = match one.by_position {
        true => operation.answers_nothing(
            StatusCode::NOT_MODIFIED,
            "The answer of `If-None-Match` is that of the view's present position.",
        ),
        false => operation,
    };
    operation.refuses_all(&[
        StatusCode::BAD_REQUEST,
        StatusCode::NOT_FOUND,
        StatusCode::CONFLICT,
        StatusCode::GONE,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::GATEWAY_TIMEOUT,
    ])
}

/// Routes over the bus; aliases as in [`operations`].
pub fn api(bus: QueryBus, aliases: &[(&'static str, &'static str)]) -> Api {
    let queries = bus.queries().clone();
    let lists = of_shape(&queries, Shape::List);
    let ones = of_shape(&queries, Shape::One);
    let mut api = Api::new().route_all(lists, list).route_all(ones, one);
    for (path, view) in aliases.iter().copied() {
        api = api.route(
            aliased(&queries, (path, view)),
            async move |State(bus): State<QueryBus>,
                        OriginalUri(uri): OriginalUri,
                        headers: HeaderMap,
                        query: Pairs| {
                answer(&bus, (view, Shape::List), None, (&uri, &headers, query)).await
            },
        );
    }
    api.with_state(bus)
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn list(
    State(bus): State<QueryBus>,
    Path(view): Path<String>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response, Problem> {
    answer(&bus, (&view, Shape::List), None, (&uri, &headers, query)).await
}

async fn one(
    State(bus): State<QueryBus>,
    Path((view, id)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response, Problem> {
    answer(&bus, (&view, Shape::One), Some(id), (&uri, &headers, query)).await
}

async fn answer(
    bus: &QueryBus,
    query: (&str, Shape),
    id: Option<String>,
    (uri, headers, pairs): (&Uri, &HeaderMap, Pairs),
) -> Result<Response, Problem> {
    let problem = |error: QueryError| Problem::from(error).instance(uri.path());
    let Query(pairs) = pairs.map_err(|error| problem(QueryError::Malformed(error.body_text())))?;
    let request = Request::read(pairs, id, query.1).map_err(problem)?;
    let held = Held {
        request: uri.path_and_query().map_or("", |path| path.as_str()),
        if_none_match: headers
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok()),
    };
    let asked = (request.filters, request.page);
    let fresh = bus.ask_unless_held(query, asked, request.after.as_ref(), Some(held));
    // `no-cache`: it may be kept, and is asked about before each use.
    let kept = |validator| {
        [
            (header::ETAG, validator),
            (header::CACHE_CONTROL, "no-cache".to_owned()),
        ]
    };
    Ok(match fresh.await.map_err(problem)? {
        Fresh::Unchanged { validator } => {
            (StatusCode::NOT_MODIFIED, kept(validator)).into_response()
        }
        Fresh::Changed { answer, validator } => match validator {
            Some(validator) => (kept(validator), Json(answer)).into_response(),
            None => Json(answer).into_response(),
        },
    })
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
