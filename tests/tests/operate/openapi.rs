//! `GET /openapi.json` against what the routes do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::world::{LONG, World};

/// Says where a value is not as a schema says, in the words of JSON Schema that the document uses.
struct Shapes<'d>(&'d Value);

impl Shapes<'_> {
    fn fault(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        if let Some(name) = schema["$ref"].as_str() {
            let found = name.strip_prefix('#').and_then(|at| self.0.pointer(at));
            return match found {
                Some(found) => self.fault(found, value, at),
                None => Some(format!("{at}: {name} is not in the document")),
            };
        }
        let of = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
        let (any, one) = (of("anyOf"), of("oneOf"));
        let fits = |choices: &[Value]| {
            let fits = |one: &&Value| self.fault(one, value, at).is_none();
            choices.iter().filter(fits).count()
        };
        if !any.is_empty() && fits(&any) == 0 {
            return Some(format!("{at}: {value} is none of {any:?}"));
        }
        if !one.is_empty() && fits(&one) != 1 {
            return Some(format!("{at}: {value} is {} of {}", fits(&one), one.len()));
        }
        let all = of("allOf");
        if let Some(fault) = all.iter().find_map(|part| self.fault(part, value, at)) {
            return Some(fault);
        }
        if schema.get("const").is_some_and(|wanted| wanted != value)
            || schema["enum"]
                .as_array()
                .is_some_and(|all| !all.contains(value))
        {
            return Some(format!("{at}: {value} is not of {schema}"));
        }
        let types = match &schema["type"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all
                .iter()
                .filter_map(|one| one.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|one| is(one, value)) {
            return Some(format!("{at}: {value} is no {types:?}"));
        }
        if let Some(items) = value.as_array().filter(|_| schema["items"].is_object()) {
            let each = items.iter().enumerate();
            return each
                .filter_map(|(index, item)| {
                    self.fault(&schema["items"], item, &format!("{at}[{index}]"))
                })
                .next();
        }
        let members = value.as_object()?;
        for name in of("required") {
            let name = name.as_str().unwrap_or_default();
            if !members.contains_key(name) {
                return Some(format!("{at}: {name} is missing"));
            }
        }
        let none = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&none);
        members.iter().find_map(|(name, member)| {
            match (known.get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => self.fault(schema, member, &format!("{at}.{name}")),
                (None, Value::Bool(false)) => Some(format!("{at}: {name} is not in the document")),
                (None, more @ Value::Object(_)) => {
                    self.fault(more, member, &format!("{at}.{name}"))
                }
                _ => None,
            }
        })
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Every operation: method, path, itself.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    let each = paths.into_iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().cloned().unwrap_or_default();
        methods
            .into_iter()
            .map(move |(method, operation)| (method, path.clone(), operation))
    });
    each.collect()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(name)) = members.get("$ref") {
                found.insert(name.clone());
            }
            members.values().for_each(|one| references(one, found));
        }
        Value::Array(items) => items.iter().for_each(|one| references(one, found)),
        _ => {}
    }
}

/// Sends what an operation is for, and checks that a route is there and answers as the document says.
async fn is_served(
    world: &World,
    (method, path, operation): &(String, String, Value),
) -> Result<()> {
    let url = format!("{}{}", world.url, path.replace("{id}", "nobody"));
    let method: Method = method.to_uppercase().parse()?;
    let mut request = reqwest::Client::new().request(method.clone(), url);
    if operation.get("requestBody").is_some() {
        request = request.json(&json!({}));
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let documented = &operation["responses"][status.to_string()];
    ensure!(
        documented.is_object(),
        "{method} {path}: {status} is not in the document"
    );
    let media = answer.headers().get("content-type");
    let media = media
        .and_then(|media| media.to_str().ok())
        .unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().to_owned();
    ensure!(
        documented["content"][&media].is_object(),
        "{method} {path}: {status} is {media}, not {documented}"
    );
    // An endless answer is not read.
    if status >= 400 && media == "application/problem+json" {
        let problem: Value = answer.json().await?;
        ensure!(
            problem["detail"] != "there is no such route" && status != 405,
            "{method} {path}: {problem}"
        );
    }
    Ok(())
}

/// Something that a query parameter of this schema takes.
fn sample(document: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let found = name.strip_prefix('#').and_then(|at| document.pointer(at));
        return sample(document, found.unwrap_or(&Value::Null));
    }
    let of_any = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(one) = of_any.and_then(|all| all.first()) {
        return sample(document, one);
    }
    if let Some(one) = schema["enum"].get(0).or(schema.get("const")) {
        return one.as_str().unwrap_or_default().to_owned();
    }
    let is = |wanted: &str| match &schema["type"] {
        Value::Array(types) => types.iter().any(|one| one == wanted),
        one => one == wanted,
    };
    match schema["format"].as_str() {
        Some("date-time") => "2026-01-31T10:00:00Z".to_owned(),
        Some("date") => "2026-01-31".to_owned(),
        Some("uuid") => uuid::Uuid::now_v7().to_string(),
        _ if is("boolean") => "true".to_owned(),
        _ if is("integer") || is("number") => "1".to_owned(),
        _ => "one".to_owned(),
    }
}

/// Every filter of every view's list is taken and answered; how many there were.
async fn every_filter_is_answered(world: &World, document: &Value) -> Result<usize> {
    let mut asked = 0;
    for (method, path, operation) in operations(document) {
        if method != "get" || !path.starts_with("/views/") || path.contains('{') {
            continue;
        }
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let query: Vec<(&str, bool, String)> = parameters
            .filter(|one| one["in"] == "query")
            .map(|one| {
                let name = one["name"].as_str().unwrap_or_default();
                let value = sample(document, &one["schema"]);
                (name, one["required"] == true, format!("{name}={value}"))
            })
            .collect();
        // A token and a cursor are not the asker's to invent.
        let invented = query
            .iter()
            .filter(|(name, ..)| !["after", "cursor"].contains(name));
        for (name, _, asked_for) in invented {
            let with = query
                .iter()
                .filter(|(other, required, _)| *required && other != name);
            let with: Vec<&str> = with.map(|(.., text)| text.as_str()).collect();
            let all = [&with[..], &[asked_for.as_str()]].concat().join("&");
            shaped(world, document, (&path, &format!("{path}?{all}"))).await?;
            asked += 1;
        }
    }
    Ok(asked)
}

/// The answer, which must be of its documented shape.
async fn shaped(world: &World, document: &Value, (shown, path): (&str, &str)) -> Result<Value> {
    let begun = Instant::now();
    let (status, value) = loop {
        let answer = reqwest::get(format!("{}{path}", world.url)).await?;
        let status = answer.status().as_u16();
        let value: Value = answer.json().await?;
        // Not now: Kafka did not answer in time, or the view has not read that far.
        if !matches!(status, 503 | 504) || begun.elapsed() > LONG {
            break (status, value);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let operation = &document["paths"][shown]["get"];
    let schema =
        &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
    ensure!(schema.is_object(), "GET {path}: {status} {value}");
    let fault = Shapes(document).fault(schema, &value, "");
    ensure!(fault.is_none(), "GET {path}{}", fault.unwrap_or_default());
    Ok(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_says_is_what_the_routes_serve() -> Result<()> {
    let world = World::start()?;
    let mut up = world.up()?;
    up.ready().await?;
    let document: Value = reqwest::get(format!("{}/openapi.json", world.url))
        .await?
        .json()
        .await?;
    assert_eq!(document["openapi"], "3.1.0");
    let all = operations(&document);
    let mut references_found = BTreeSet::new();
    references(&document, &mut references_found);
    for name in &references_found {
        let at = name.strip_prefix('#').context("an outer reference")?;
        assert!(document.pointer(at).is_some(), "{name}");
    }
    let ids: BTreeSet<String> = all
        .iter()
        .map(|(_, _, one)| one["operationId"].to_string())
        .collect();
    assert_eq!(ids.len(), all.len());
    for one in &all {
        is_served(&world, one).await?;
    }
    // The other way round: what is not in it is not served.
    let answer = reqwest::get(format!("{}/nothing", world.url)).await?;
    assert_eq!(
        answer.json::<Value>().await?["detail"],
        "there is no such route"
    );
    let paths: BTreeSet<&str> = all.iter().map(|(_, path, _)| path.as_str()).collect();
    for path in [
        "/commands/order/{id}",
        "/commands/card/{id}",
        "/commands/user/{id}",
        "/commands/recipient/{id}",
        "/aggregates/payment/{id}/state",
        "/views/orders/{id}",
        "/views/users",
        "/events/projections/users",
        "/events/list",
        "/events/stats",
        "/events/stream",
        "/events/health",
        "/events/replay",
        "/metrics",
        "/health/live",
        "/openapi.json",
        "/identity/registrations",
        "/status/relay",
    ] {
        assert!(paths.contains(path), "{path} is not documented");
    }
    requests_and_answers_have_their_shapes(&world, &document).await?;
    let filters = every_filter_is_answered(&world, &document).await?;
    ensure!(filters > 40, "{filters} filters");
    up.stop().await
}

async fn requests_and_answers_have_their_shapes(world: &World, document: &Value) -> Result<()> {
    let order = |quantity: Value| {
        json!({"type": "PlaceOrder", "data": {"customer_id": "ada", "currency": "EUR",
               "placed_at": "2026-03-01T10:00:00Z",
               "lines": [{"product_id": "tea", "quantity": quantity, "total_cents": 250}]}})
    };
    let command = &document["paths"]["/commands/order/{id}"]["post"];
    let body = &command["requestBody"]["content"]["application/json"]["schema"];
    let shapes = Shapes(document);
    assert_eq!(shapes.fault(body, &order(json!(1)), ""), None);
    for wrong in [
        order(json!("one")),
        json!({"type": "PlaceNothing", "data": {}}),
        json!({"type": "PlaceOrder"}),
    ] {
        assert!(shapes.fault(body, &wrong, "").is_some(), "{wrong}");
    }
    let url = format!("{}/commands/order/1", world.url);
    let answer = reqwest::Client::new()
        .post(url)
        .json(&order(json!(1)))
        .send()
        .await?;
    assert_eq!(answer.status(), 201);
    let accepted: Value = answer.json().await?;
    let schema = &command["responses"]["201"]["content"]["application/json"]["schema"];
    assert_eq!(shapes.fault(schema, &accepted, ""), None);
    let seen = format!("after={}", accepted["token"].as_str().context("no token")?);
    for (shown, path) in [
        ("/views/orders/{id}", format!("/views/orders/1?{seen}")),
        ("/views/orders", format!("/views/orders?{seen}&limit=1")),
        (
            "/views/customer-totals",
            format!("/views/customer-totals?{seen}"),
        ),
        (
            "/events/list",
            format!("/events/list?{seen}&aggregate=order&aggregate_id=1&type=OrderPlaced"),
        ),
        (
            "/events/projections/users",
            "/events/projections/users".to_owned(),
        ),
        (
            "/aggregates/order/{id}/events",
            "/aggregates/order/1/events?limit=1".to_owned(),
        ),
        (
            "/aggregates/order/{id}/state",
            "/aggregates/order/1/state?at=1".to_owned(),
        ),
        ("/events/stats", "/events/stats".to_owned()),
        ("/events/health", "/events/health".to_owned()),
        ("/status/relay", "/status/relay".to_owned()),
        ("/status/timers", "/status/timers".to_owned()),
        ("/status/processors", "/status/processors".to_owned()),
    ] {
        let value = shaped(world, document, (shown, path.as_str())).await?;
        if shown == "/events/list" {
            assert_eq!(value["items"][0]["aggregate_id"], "1", "{value}");
        }
    }
    Ok(())
}
