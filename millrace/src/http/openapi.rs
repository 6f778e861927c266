//! The OpenAPI 3.1 document of a process, made of the operations of what it serves.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::event::RecordSchema;
use crate::http::api::{Operation, Parameter, Place};

/// The path of the document.
pub const PATH: &str = "/openapi.json";

/// What the document says of the whole.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its title.
    pub title: &'static str,
    /// Version of what serves it.
    pub version: &'static str,
    /// In a few sentences.
    pub says: &'static str,
}

/// The operation of the document itself.
pub fn operation() -> Operation {
    use crate::http::api::Shape;
    Operation::get(PATH, "operations", "This document").answers(
        axum::http::StatusCode::OK,
        "OpenAPI 3.1, of what this process serves.",
        Shape::Written(json!({"type": "object"})),
    )
}

/// The document.
pub fn document(about: &About, operations: &[Operation]) -> Value {
    let mut shapes = generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for one in operations {
        let shown = show(one, &mut shapes);
        let methods = paths.entry(one.path.as_str()).or_default();
        methods.insert(one.method.as_str().to_owned(), shown);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": about.version, "description": about.says},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": shapes.take_definitions(true)},
    })
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .for_serialize()
        .into_generator()
}

fn show(one: &Operation, shapes: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = one
        .parameters
        .iter()
        .map(|parameter| parameter_of(parameter, shapes))
        .collect();
    for query in &one.query {
        let more = parameters_of(&query.schema(&mut inlined()), &parameters);
        parameters.extend(more);
    }
    let mut answers = Map::new();
    for answer in &one.answers {
        let mut shown = json!({"description": answer.says});
        if let Some(shape) = &answer.shape {
            shown["content"] = json!({answer.media: {"schema": shape.schema(shapes)}});
        }
        answers.insert(answer.status.to_string(), shown);
    }
    let mut shown = json!({
        "tags": [one.tag],
        "summary": one.summary,
        "operationId": operation_id(one),
        "responses": answers,
    });
    if !one.says.is_empty() {
        shown["description"] = json!(one.says);
    }
    if !parameters.is_empty() {
        shown["parameters"] = json!(parameters);
    }
    if let Some(body) = &one.body {
        let content = json!({"application/json": {"schema": body.schema(shapes)}});
        shown["requestBody"] = json!({"required": true, "content": content});
    }
    shown
}

/// `get /views/orders/{id}` -> `get_views_orders_id`.
fn operation_id(one: &Operation) -> String {
    let words = one
        .path
        .split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    format!("{}_{}", one.method.as_str(), words.join("_"))
}

fn parameter_of(parameter: &Parameter, shapes: &mut SchemaGenerator) -> Value {
    let mut shown = json!({
        "name": parameter.name,
        "in": parameter.place.as_str(),
        "required": parameter.required,
        "schema": parameter.shape.schema(shapes),
    });
    if !parameter.says.is_empty() {
        shown["description"] = json!(parameter.says);
    }
    shown
}

/// A generator that refers to nothing: parameters are shown field by field.
pub(crate) fn inlined() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.meta_schema = None;
            settings.inline_subschemas = true;
        })
        .into_generator()
}

/// The fields of a struct, but for those that stand among the parameters already, as `id` does in a path.
fn parameters_of(schema: &Value, known: &[Value]) -> Vec<Value> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let fields = schema["properties"].as_object();
    fields
        .into_iter()
        .flatten()
        .filter(|(name, _)| known.iter().all(|known| known["name"] != name.as_str()))
        .map(|(name, field)| {
            let mut field = field.clone();
            let says = field
                .as_object_mut()
                .and_then(|field| field.remove("description"));
            let mut shown = json!({
                "name": name,
                "in": Place::Query.as_str(),
                "required": required.contains(&name.as_str()),
                "schema": without_null(field),
            });
            if let Some(says) = says {
                shown["description"] = says;
            }
            shown
        })
        .collect()
}

/// A parameter that is not there is left out; it is never null.
fn without_null(mut schema: Value) -> Value {
    let types = schema.get_mut("type").and_then(Value::as_array_mut);
    if let Some(types) = types {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            schema["type"] = one.clone();
        }
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|one| one["type"] != "null");
        if let [one] = choices.as_slice() {
            return one.clone();
        }
    }
    schema
}

/// The newest schema of each record, in the order in which the records are declared.
pub fn newest(schemas: &'static [RecordSchema]) -> Vec<&'static RecordSchema> {
    let mut newest: Vec<&RecordSchema> = Vec::new();
    for schema in schemas {
        match newest.iter_mut().find(|one| one.record == schema.record) {
            Some(one) => *one = schema,
            None => newest.push(schema),
        }
    }
    newest
}

/// How a record reads in JSON: times as RFC 3339, fields with a default may be left out, others than these are refused.
///
/// # Panics
/// When it is no Avro record; the contract test reads every file.
pub fn of_avro(schema: &RecordSchema) -> Value {
    let avro: Value = serde_json::from_str(schema.json).expect("the contract test reads it");
    avro_type(&avro, &mut BTreeMap::new())
}

fn avro_type<'a>(avro: &'a Value, named: &mut BTreeMap<&'a str, Value>) -> Value {
    if let Some(choices) = avro.as_array() {
        let of: Vec<Value> = choices.iter().map(|one| avro_type(one, named)).collect();
        return json!({"anyOf": of});
    }
    let Some(complex) = avro.as_object() else {
        return simple(avro.as_str().unwrap_or_default(), named);
    };
    let name = complex.get("type").and_then(Value::as_str);
    let of = match name.unwrap_or_default() {
        "record" => record(complex, named),
        "enum" => json!({"type": "string", "enum": complex["symbols"]}),
        "array" => json!({"type": "array", "items": avro_type(&complex["items"], named)}),
        "map" => {
            json!({"type": "object", "additionalProperties": avro_type(&complex["values"], named)})
        }
        _ if name.is_none() => avro_type(&complex["type"], named),
        plain => match complex.get("logicalType").and_then(Value::as_str) {
            Some("timestamp-millis" | "timestamp-micros") => {
                json!({"type": "string", "format": "date-time"})
            }
            Some("date") => json!({"type": "string", "format": "date"}),
            Some("uuid") => json!({"type": "string", "format": "uuid"}),
            _ => simple(plain, named),
        },
    };
    if let Some(name) = complex.get("name").and_then(Value::as_str) {
        named.insert(name, of.clone());
    }
    of
}

fn simple(name: &str, named: &BTreeMap<&str, Value>) -> Value {
    match name {
        "null" => json!({"type": "null"}),
        "boolean" => json!({"type": "boolean"}),
        "int" => json!({"type": "integer", "format": "int32"}),
        "long" => json!({"type": "integer", "format": "int64"}),
        "float" | "double" => json!({"type": "number"}),
        "string" => json!({"type": "string"}),
        // A record or an enum that was named before, with its namespace or without.
        other => {
            let short = other.rsplit('.').next().unwrap_or(other);
            named.get(short).cloned().unwrap_or_else(|| json!({}))
        }
    }
}

fn record<'a>(avro: &'a Map<String, Value>, named: &mut BTreeMap<&'a str, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    let fields = avro.get("fields").and_then(Value::as_array);
    for field in fields.into_iter().flatten() {
        let name = field["name"].as_str().unwrap_or_default();
        let mut of = avro_type(&field["type"], named);
        if let Some(says) = field.get("doc") {
            of["description"] = says.clone();
        }
        match field.get("default") {
            Some(default) => of["default"] = default.clone(),
            None => required.push(name),
        }
        properties.insert(name.to_owned(), of);
    }
    let mut of = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    if let Some(says) = avro.get("doc") {
        of["description"] = says.clone();
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::Shape;
    use axum::http::StatusCode;

    const RAISE: RecordSchema = RecordSchema {
        record: "RaiseCounter",
        version: 1,
        json: r#"{"type": "record", "name": "RaiseCounter", "namespace": "counting", "doc": "Raises it.", "fields": [
            {"name": "by", "type": "long", "doc": "At least 1."},
            {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null},
            {"name": "how", "type": {"type": "enum", "name": "How", "symbols": ["once", "twice"]}, "default": "once"},
            {"name": "then", "type": {"type": "array", "items": "counting.How"}, "default": []}
        ]}"#,
        retired: false,
    };

    #[test]
    fn an_avro_record_is_shown_as_its_json_reads() {
        let once_or_twice = json!({"type": "string", "enum": ["once", "twice"]});
        assert_eq!(
            of_avro(&RAISE),
            json!({
                "type": "object", "description": "Raises it.", "additionalProperties": false,
                "required": ["by"],
                "properties": {
                    "by": {"type": "integer", "format": "int64", "description": "At least 1."},
                    "at": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date-time"}], "default": null},
                    "how": {"type": "string", "enum": ["once", "twice"], "default": "once"},
                    "then": {"type": "array", "items": once_or_twice, "default": []},
                },
            })
        );
    }

    /// What can be asked for.
    #[derive(schemars::JsonSchema)]
    #[allow(dead_code, reason = "only its shape is looked at")]
    struct Filter {
        /// Which one.
        id: String,
        /// Not before.
        from: Option<chrono::DateTime<chrono::Utc>>,
    }

    #[test]
    fn an_operation_shows_its_parameters_its_answer_and_problem_details_for_every_error() {
        let one = Operation::get("/views/counters/{id}", "views", "A counter")
            .query(Shape::of::<Filter>())
            .answers(StatusCode::OK, "The row.", Shape::text())
            .refuses(StatusCode::NOT_FOUND);
        let about = About {
            title: "Counters",
            version: "1",
            says: "",
        };
        let shown = document(&about, &[one]);
        let get = &shown["paths"]["/views/counters/{id}"]["get"];
        assert_eq!(get["operationId"], "get_views_counters_id");
        let parameters = get["parameters"].as_array().unwrap();
        let names: Vec<&Value> = parameters.iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["id", "from"]);
        assert_eq!(parameters[0]["in"], "path");
        assert_eq!(
            parameters[1]["schema"],
            json!({"type": "string", "format": "date-time"})
        );
        for status in ["404", "503"] {
            assert_eq!(
                get["responses"][status]["content"]["application/problem+json"]["schema"]["$ref"],
                "#/components/schemas/Problem"
            );
        }
        let problem = &shown["components"]["schemas"]["Problem"];
        assert_eq!(problem["properties"]["type"]["type"], "string");
    }
}
