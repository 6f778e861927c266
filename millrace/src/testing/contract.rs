//! The contract test of events and commands: ties the structs to their schema files.
//!
//! Needed because Avro's serde bridge is forgiving in one direction or the other: a field that only one side has
//! may be filled or dropped silently. Checked here: field names equal the newest file's, a sample round-trips, every
//! pair of versions can read each other, old bytes with missing fields read as the schema's defaults say, and a
//! golden byte file of every released version still decodes. A command is read from JSON too: a sample must come back.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value as Json;

use crate::codec::{CodecError, DatumReader, Schema};
use crate::command::CommandSet;
use crate::event::{Event, RecordSchema};

/// Checks every schema of `E`; `samples` holds one event of each type that is not retired, every optional field set.
///
/// Golden files `<Record>.v<N>.avro` are looked for in `golden`; a missing one is written, and fails the test once,
/// so that it is committed with the version that it belongs to. Panics with what is wrong.
#[track_caller]
pub fn check<E: Event + PartialEq + std::fmt::Debug>(samples: &[E], golden: &Path) {
    let records = Records {
        schemas: E::SCHEMAS,
        record: E::event_type,
        write: E::write,
        read: E::read,
    };
    records.check(samples, golden);
    for schema in E::SCHEMAS.iter().filter(|schema| !schema.retired) {
        let newest = records.newest(schema.record);
        // Confluent's Python client refuses a value of five bytes: the frame alone.
        assert!(
            matches!(parse(newest), Schema::Record(record) if !record.fields.is_empty()),
            "{} has no field, and stock clients refuse an event without one: give it what its readers would ask for",
            schema.record
        );
    }
}

/// The same for commands; `samples` holds one of each type, every optional field set.
#[track_caller]
pub fn check_commands<C: CommandSet + PartialEq + std::fmt::Debug>(samples: &[C], golden: &Path) {
    let records = Records {
        schemas: C::SCHEMAS,
        record: C::command_type,
        write: C::write,
        read: C::read,
    };
    records.check(samples, golden);
    for sample in samples {
        let kind = sample.command_type();
        let json = sample
            .to_json()
            .unwrap_or_else(|error| panic!("{kind} is not written as JSON: {error}"));
        let back = C::from_json(kind, &json.to_string())
            .unwrap_or_else(|error| panic!("{kind} is not read from its own JSON: {error}"));
        assert_eq!(&back, sample, "{kind} does not round-trip through JSON");
    }
}

/// Structs and the schemas that they are to be tied to.
struct Records<T> {
    schemas: &'static [RecordSchema],
    record: fn(&T) -> &'static str,
    write: fn(&T, &Schema) -> Result<Vec<u8>, CodecError>,
    read: fn(&str, &DatumReader, &[u8]) -> Result<T, CodecError>,
}

fn parse(schema: &RecordSchema) -> Schema {
    Schema::parse_str(schema.json)
        .unwrap_or_else(|error| panic!("{}.v{}.avsc: {error}", schema.record, schema.version))
}

impl<T: PartialEq + std::fmt::Debug> Records<T> {
    #[track_caller]
    fn check(&self, samples: &[T], golden: &Path) {
        let mut written = Vec::new();
        for schema in self.schemas {
            let parsed = parse(schema);
            self.check_pairs(schema, &parsed);
            let newest = self.newest(schema.record).version == schema.version;
            if newest && !schema.retired {
                self.check_sample(schema, &parsed, samples);
            }
            if write_golden(schema, &parsed, golden) {
                written.push(format!("{}.v{}.avro", schema.record, schema.version));
            }
            self.check_golden(schema, golden);
        }
        assert!(
            written.is_empty(),
            "golden files were missing and are written now, commit them: {written:?}"
        );
    }

    fn newest(&self, record: &str) -> &'static RecordSchema {
        self.schemas
            .iter()
            .filter(|schema| schema.record == record)
            .max_by_key(|schema| schema.version)
            .expect("the record is one of these schemas")
    }

    fn check_pairs(&self, schema: &RecordSchema, parsed: &Schema) {
        for other in self
            .schemas
            .iter()
            .filter(|other| other.record == schema.record)
        {
            SchemaCompatibility::can_read(parsed, &parse(other)).unwrap_or_else(|error| {
                panic!(
                    "{} version {} cannot read version {}: {error}",
                    schema.record, other.version, schema.version
                )
            });
        }
    }

    /// `write_ser` refuses a field that the schema lacks but fills one that the struct lacks, so names are compared too.
    fn check_sample(&self, schema: &RecordSchema, parsed: &Schema, samples: &[T]) {
        let sample = samples
            .iter()
            .find(|sample| (self.record)(sample) == schema.record)
            .unwrap_or_else(|| panic!("there is no sample of {}", schema.record));
        let body = (self.write)(sample, parsed)
            .unwrap_or_else(|error| panic!("{} does not encode: {error}", schema.record));
        let reader = DatumReader::parse(schema.json).expect("it was parsed before");
        let back = (self.read)(schema.record, &reader, &body)
            .unwrap_or_else(|error| panic!("{} does not decode: {error}", schema.record));
        assert_eq!(&back, sample, "{} does not round-trip", schema.record);
        let Ok(Value::Record(fields)) = reader.read_value(&body) else {
            panic!("{} is not a record", schema.record);
        };
        let in_schema: BTreeSet<String> = fields.into_iter().map(|(name, _)| name).collect();
        // A struct that lacks a field still reads the bytes; one whose schema lacks a field does not write. What is left
        // is a field that the schema has, with a default, and the struct has not.
        for field in &in_schema {
            let without = without_field(schema.json, field);
            assert!(
                (self.write)(sample, &without).is_err(),
                "{} has no field {field}, which {}.v{}.avsc has",
                schema.record,
                schema.record,
                schema.version
            );
        }
        self.check_defaults(schema, parsed, &reader, &body);
    }

    /// A field that bytes (or JSON) lack must come out as the schema's default says, not as serde's own idea of one.
    fn check_defaults(
        &self,
        schema: &RecordSchema,
        parsed: &Schema,
        reader: &DatumReader,
        body: &[u8],
    ) {
        let json: Json = serde_json::from_str(schema.json).expect("it was parsed before");
        let fields = json["fields"].as_array().expect("a record has fields");
        for field in fields.iter().filter(|field| field.get("default").is_some()) {
            let name = field["name"].as_str().expect("a field has a name");
            let without = without_field(schema.json, name);
            let Ok(Value::Record(mut values)) = reader.read_value(body) else {
                panic!("{} is not a record", schema.record);
            };
            values.retain(|(field, _)| field != name);
            let less = Value::Record(values);
            let bytes = GenericDatumWriter::builder(&without)
                .build()
                .and_then(|writer| writer.write_value_to_vec(less.clone()))
                .unwrap_or_else(|error| panic!("{} without {name}: {error}", schema.record));
            let text = serde_json::to_string(&without).expect("a schema is JSON");
            let record = DatumReader::parse(&text)
                .and_then(|reader| (self.read)(schema.record, &reader, &bytes))
                .unwrap_or_else(|error| {
                    panic!("{} does not read without {name}: {error}", schema.record)
                });
            let now = (self.write)(&record, parsed)
                .and_then(|body| reader.read_value(&body))
                .expect("what was just read is written and read");
            let resolved = less.resolve(parsed).expect("the field has a default");
            assert_eq!(
                now, resolved,
                "{}: serde's default of {name} differs from the schema's",
                schema.record
            );
        }
    }

    fn check_golden(&self, schema: &RecordSchema, golden: &Path) {
        let path = golden.join(format!("{}.v{}.avro", schema.record, schema.version));
        let bytes = fs::read(&path).expect("it was written if it was missing");
        let reader = DatumReader::parse(schema.json).expect("it was parsed before");
        let record = (self.read)(schema.record, &reader, &bytes)
            .unwrap_or_else(|error| panic!("{} no longer decodes: {error}", path.display()));
        // What old bytes lack must come out as the newest schema's default says, not as serde's own idea of one.
        let newest = self.newest(schema.record);
        if schema.retired || newest.version == schema.version {
            return;
        }
        let body = (self.write)(&record, &parse(newest)).expect("the newest shape encodes");
        let now = DatumReader::parse(newest.json)
            .and_then(|reader| reader.read_value(&body))
            .expect("what was just written reads");
        let resolved = reader
            .read_value(&bytes)
            .expect("it was read before")
            .resolve(&parse(newest))
            .expect("the versions are compatible");
        assert_eq!(
            now,
            resolved,
            "{}: a serde default differs from the schema's",
            path.display()
        );
    }
}

/// The schema without one field: a struct that has the field cannot be written with it.
fn without_field(json: &str, field: &str) -> Schema {
    let mut schema: Json = serde_json::from_str(json).expect("it was parsed before");
    if let Some(Json::Array(fields)) = schema.get_mut("fields") {
        fields.retain(|one| one.get("name") != Some(&Json::from(field)));
    }
    Schema::parse(&schema).expect("a schema with a field less is a schema")
}

/// Writes a golden file from the schema's own zero values where there is none; true if it did.
fn write_golden(schema: &RecordSchema, parsed: &Schema, golden: &Path) -> bool {
    let path = golden.join(format!("{}.v{}.avro", schema.record, schema.version));
    if path.exists() {
        return false;
    }
    fs::create_dir_all(golden).expect("the folder of golden files can be made");
    let json: Json = serde_json::from_str(schema.json).expect("it was parsed before");
    let bytes = GenericDatumWriter::builder(parsed)
        .build()
        .and_then(|writer| writer.write_value_to_vec(sample_value(&json)))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::write(&path, bytes).expect("a golden file can be written");
    true
}

/// A value of a schema, told apart from every default: 7, "seven", one item in every array.
fn sample_value(schema: &Json) -> Value {
    match schema {
        Json::String(name) => match name.as_str() {
            "null" => Value::Null,
            "boolean" => Value::Boolean(true),
            "int" => Value::Int(7),
            "long" => Value::Long(7),
            "float" => Value::Float(7.0),
            "double" => Value::Double(7.0),
            "bytes" => Value::Bytes(b"seven".to_vec()),
            "string" => Value::String("seven".to_owned()),
            other => panic!("no sample for a named type used twice: {other}"),
        },
        Json::Array(branches) => {
            let last = branches.len() - 1;
            Value::Union(last as u32, Box::new(sample_value(&branches[last])))
        }
        Json::Object(object) => sample_of_object(object),
        other => panic!("not a schema: {other}"),
    }
}

fn sample_of_object(object: &serde_json::Map<String, Json>) -> Value {
    let logical = object.get("logicalType").and_then(Json::as_str);
    match (object["type"].as_str(), logical) {
        (_, Some("timestamp-millis")) => Value::TimestampMillis(7_000),
        (_, Some("timestamp-micros")) => Value::TimestampMicros(7_000_000),
        (_, Some("date")) => Value::Date(7),
        (Some("record"), _) => {
            let fields = object["fields"].as_array().expect("a record has fields");
            let named = |field: &Json| {
                let name = field["name"].as_str().expect("a field has a name");
                (name.to_owned(), sample_value(&field["type"]))
            };
            Value::Record(fields.iter().map(named).collect())
        }
        (Some("array"), _) => Value::Array(vec![sample_value(&object["items"])]),
        (Some("map"), _) => {
            let item = ("seven".to_owned(), sample_value(&object["values"]));
            Value::Map([item].into())
        }
        (Some("enum"), _) => {
            let symbols = object["symbols"].as_array().expect("an enum has symbols");
            let last = symbols.len() - 1;
            let symbol = symbols[last].as_str().expect("a symbol is text");
            Value::Enum(last as u32, symbol.to_owned())
        }
        _ => sample_value(&object["type"]),
    }
}
