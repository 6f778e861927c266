//! Routes and what is said of them, in one: a route is mounted with its [`Operation`], and `GET /openapi.json` shows the
//! operations of what is mounted, so that the two cannot part.
//!
//! Invariant: nothing else in the tree mounts a route of a role (`tests/tests/architecture.rs`).

use std::fmt;

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{MethodFilter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::http::{openapi, problem};

/// Routes over the state `S`, each with its operation.
pub struct Api<S = ()> {
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Default for Api<S> {
    fn default() -> Self {
        Self {
            router: Router::new(),
            operations: Vec::new(),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// No route yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Mounts a route.
    ///
    /// # Panics
    /// When method and path are mounted already.
    #[must_use]
    pub fn route<H: Handler<T, S>, T: 'static>(self, operation: Operation, handler: H) -> Self {
        self.route_all(vec![operation], handler)
    }

    /// Mounts the one route that all these operations stand for: `/commands/{aggregate}/{id}`, which is shown as
    /// `/commands/counter/{id}` and so on; see [`Operation::of_route`]. Where there is none, nothing is mounted.
    ///
    /// # Panics
    /// When they are not of one route, or when method and path are mounted already.
    #[must_use]
    pub fn route_all<H: Handler<T, S>, T: 'static>(
        mut self,
        shown: Vec<Operation>,
        handler: H,
    ) -> Self {
        let Some(first) = shown.first() else {
            return self;
        };
        let (method, path) = (first.method, first.route.clone());
        for one in &shown {
            assert!(
                one.method == method && one.route == path,
                "{} {} is not of the route {method} {path}",
                one.method,
                one.path
            );
        }
        self.router = self.router.route(&path, on(method.filter(), handler));
        self.operations.extend(shown);
        self
    }

    /// Both.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// Gives the routes their state.
    #[must_use]
    pub fn with_state(self, state: S) -> Api {
        Api {
            router: self.router.with_state(state),
            operations: self.operations,
        }
    }

    /// Most bytes that the routes take as a body.
    #[must_use]
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.router = self
            .router
            .layer(axum::extract::DefaultBodyLimit::max(bytes));
        self
    }

    /// What is mounted.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(crate) fn into_parts(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }

    /// The routes alone, for a test that serves a part.
    pub fn into_router(self) -> Router<S> {
        self.router
    }
}

/// True if a request for `path`, whose own parameters stand for any value, comes to the route of `template`.
fn serves(template: &str, path: &str) -> bool {
    let (wanted, found) = (template.split('/'), path.split('/'));
    wanted.clone().count() == found.clone().count()
        && wanted
            .zip(found)
            .all(|(wanted, found)| wanted == found || wanted.starts_with('{'))
}

/// The methods that routes have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads; `HEAD` comes with it.
    Get,
    /// Does.
    Post,
}

impl Method {
    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
        }
    }

    /// In lower case, as OpenAPI writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().to_uppercase())
    }
}

/// A JSON shape: of a type, or as it is written out.
#[derive(Clone)]
pub enum Shape {
    /// Of a type that serde writes.
    Typed(fn(&mut SchemaGenerator) -> Schema),
    /// A JSON Schema of the 2020-12 dialect.
    Written(Value),
    /// All of these at once.
    All(Vec<Shape>),
}

impl Shape {
    /// The shape of `T`.
    pub fn of<T: JsonSchema>() -> Self {
        Self::Typed(|shapes| shapes.subschema_for::<T>())
    }

    /// Text.
    pub fn text() -> Self {
        Self::Written(json!({"type": "string"}))
    }

    /// What the type's documentation says of it, where it has any.
    pub(crate) fn says(&self) -> Option<String> {
        let schema = self.schema(&mut openapi::inlined());
        Some(
            schema["description"]
                .as_str()?
                .trim_end_matches('.')
                .to_owned(),
        )
    }

    pub(crate) fn schema(&self, shapes: &mut SchemaGenerator) -> Value {
        match self {
            Self::Typed(of) => of(shapes).to_value(),
            Self::Written(schema) => schema.clone(),
            Self::All(all) => {
                let all: Vec<Value> = all.iter().map(|one| one.schema(shapes)).collect();
                json!({"allOf": all})
            }
        }
    }
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the path; always there.
    Path,
    /// In the query.
    Query,
    /// A header.
    Header,
}

impl Place {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

#[derive(Clone)]
pub(crate) struct Parameter {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) says: String,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
}

#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) says: String,
    pub(crate) media: &'static str,
    pub(crate) shape: Option<Shape>,
}

/// One method of one path, as the document shows it. Every operation answers errors as problem details.
#[derive(Clone)]
pub struct Operation {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// What is mounted for it.
    pub(crate) route: String,
    pub(crate) tag: &'static str,
    pub(crate) summary: String,
    pub(crate) says: String,
    pub(crate) parameters: Vec<Parameter>,
    /// Structs whose fields are the query's parameters.
    pub(crate) query: Vec<Shape>,
    pub(crate) body: Option<Shape>,
    pub(crate) answers: Vec<Answer>,
}

impl Operation {
    /// `GET path`; `tag` is the group that it is shown in.
    pub fn get(path: impl Into<String>, tag: &'static str, summary: impl Into<String>) -> Self {
        Self::new(Method::Get, path.into(), tag, summary.into())
    }

    /// `POST path`.
    pub fn post(path: impl Into<String>, tag: &'static str, summary: impl Into<String>) -> Self {
        Self::new(Method::Post, path.into(), tag, summary.into())
    }

    fn new(method: Method, path: String, tag: &'static str, summary: String) -> Self {
        let parameters = path.split('/').filter_map(|part| {
            let name = part.strip_prefix('{')?.strip_suffix('}')?;
            Some(Parameter {
                place: Place::Path,
                name: name.to_owned(),
                says: String::new(),
                required: true,
                shape: Shape::text(),
            })
        });
        Self {
            parameters: parameters.collect(),
            method,
            route: path.clone(),
            path,
            tag,
            summary,
            says: String::new(),
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
        }
        .refuses(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Its method and path.
    pub fn at(&self) -> (Method, &str) {
        (self.method, &self.path)
    }

    /// It is served by a route with more parameters than are shown.
    ///
    /// # Panics
    /// When that route does not serve it.
    #[must_use]
    pub fn of_route(mut self, route: &str) -> Self {
        assert!(
            serves(route, &self.path),
            "{route} does not serve {}",
            self.path
        );
        self.route = route.to_owned();
        self
    }

    /// More about it, in sentences.
    #[must_use]
    pub fn says(mut self, says: impl Into<String>) -> Self {
        self.says = says.into();
        self
    }

    /// An optional parameter in the query or a header.
    #[must_use]
    pub fn takes(mut self, place: Place, (name, says): (&str, &str), shape: Shape) -> Self {
        self.parameters.push(Parameter {
            place,
            name: name.to_owned(),
            says: says.to_owned(),
            required: place == Place::Path,
            shape,
        });
        self
    }

    /// The fields of a struct as parameters in the query; further ones add to them.
    #[must_use]
    pub fn query(mut self, shape: Shape) -> Self {
        self.query.push(shape);
        self
    }

    /// Takes a JSON body.
    #[must_use]
    pub fn body(mut self, shape: Shape) -> Self {
        self.body = Some(shape);
        self
    }

    /// Answers with JSON.
    #[must_use]
    pub fn answers(self, status: StatusCode, says: impl Into<String>, shape: Shape) -> Self {
        self.answer(status, says.into(), "application/json", Some(shape))
    }

    /// Answers with another media type.
    #[must_use]
    pub fn answers_as(self, status: StatusCode, says: &str, media: &'static str) -> Self {
        self.answer(status, says.to_owned(), media, Some(Shape::text()))
    }

    /// Answers without a body.
    #[must_use]
    pub fn answers_nothing(self, status: StatusCode, says: &str) -> Self {
        self.answer(status, says.to_owned(), "", None)
    }

    /// Refuses with problem details of this status.
    #[must_use]
    pub fn refuses(self, status: StatusCode) -> Self {
        let says = meaning(status).to_owned();
        let shape = Shape::of::<problem::Problem>();
        self.answer(status, says, problem::MEDIA_TYPE, Some(shape))
    }

    /// Refuses with problem details of each of these.
    #[must_use]
    pub fn refuses_all(self, statuses: &[StatusCode]) -> Self {
        statuses
            .iter()
            .fold(self, |one, status| one.refuses(*status))
    }

    fn answer(
        mut self,
        status: StatusCode,
        says: String,
        media: &'static str,
        shape: Option<Shape>,
    ) -> Self {
        self.answers.retain(|one| one.status != status.as_u16());
        self.answers.push(Answer {
            status: status.as_u16(),
            says,
            media,
            shape,
        });
        self
    }
}

/// What a status means wherever it stands.
fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "`malformed`: the request cannot be read; the same request never can.",
        401 => "The caller is not who they say they are.",
        403 => "Not for callers over HTTP.",
        404 => "`unknown`: nothing stands under this name or id.",
        409 => {
            "`conflict`: someone else was first, or the state is another; look at it, then decide again."
        }
        410 => "`skipped`: an operator skipped what is waited for.",
        413 => "`too-large`: the body or an event is too large.",
        422 => "`rejected`: it was understood and is refused; `detail` says why.",
        500 => "`failure`: a fault of ours.",
        503 => {
            "`unavailable`, with `Retry-After`: something behind us is away or overloaded; the same request may pass."
        }
        504 => "`timeout`: it did not come within the time allowed.",
        _ => "An error.",
    }
}

/// A shape for fields that hold what an aggregate or an event says: an object of any members.
pub(crate) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_with_parameters_serves_what_stands_in_their_place_and_nothing_else() {
        for (path, served) in [
            ("/commands/counter/{id}", true),
            ("/commands/counter", false),
            ("/aggregates/counter/{id}", false),
            ("/commands/counter/{id}/more", false),
        ] {
            assert_eq!(serves("/commands/{aggregate}/{id}", path), served, "{path}");
        }
    }

    #[test]
    #[should_panic(expected = "does not serve /else/{id}")]
    fn an_operation_that_the_route_does_not_serve_is_not_shown() {
        let _ = Operation::get("/else/{id}", "else", "Something else").of_route("/views/{view}");
    }
}
