//! From a line of input to a command: what is read, what is refused, and the id that is derived.

use std::collections::HashMap;

use millrace::json::canonical;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Namespace of the ids that `send` derives; changing it would make every file new to every journal.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_8073_656e_6400_0001);

/// Fields of a command type that stand in no id, hash or rejects file; nothing where the type is unknown.
pub(super) type SecretFields = fn(aggregate: &str, command_type: &str) -> &'static [&'static str];

/// A command that can be sent.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) aggregate: String,
    pub(super) id: String,
    pub(super) command_id: String,
    /// True where the id was derived here: the server then keeps no rejection under it.
    pub(super) derived: bool,
    pub(super) expected_version: Option<i64>,
    /// The request's body.
    pub(super) body: String,
}

/// A line that was read: where it stands, what a rejects file shows of it, and the command or why there is none.
#[derive(Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// The line as JSON text, without secrets.
    pub(super) input: String,
    pub(super) command: Result<Command, String>,
}

/// How lines are to be read.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Aggregate and command type of plain records, and the field that holds the id.
    pub(super) plain: Option<Plain>,
    /// Name of the batch, part of every derived id.
    pub(super) batch: String,
    pub(super) secret_fields: SecretFields,
}

/// Lines are records of one command type.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) aggregate: String,
    pub(super) command_type: String,
    pub(super) id_field: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    aggregate: String,
    id: Value,
    #[serde(rename = "type")]
    command_type: String,
    command_id: Option<String>,
    data: Box<RawValue>,
    expected_version: Option<i64>,
}

/// Reads lines one after another; counts equal ones, so that each has an id of its own.
pub(super) struct LineReader {
    shape: Shape,
    /// How often each content was met: 16 bytes and a count a distinct line.
    ordinals: HashMap<Uuid, u64>,
}

impl LineReader {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            ordinals: HashMap::new(),
        }
    }

    /// Reads one line. Never fails: a line that is no command says why.
    pub(super) fn read(&mut self, number: u64, bytes: &[u8]) -> Line {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.trim(),
            Err(_) => {
                let shown = self.unread(&String::from_utf8_lossy(bytes));
                return Line {
                    number,
                    input: shown,
                    command: Err("the line is not UTF-8".to_owned()),
                };
            }
        };
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                return Line {
                    number,
                    input: self.unread(text),
                    command: Err(format!("the line is not JSON: {error}")),
                };
            }
        };
        let command = self.command(text, &value);
        Line {
            number,
            input: self.shown(text, value),
            command,
        }
    }

    fn command(&mut self, text: &str, value: &Value) -> Result<Command, String> {
        let wire = match &self.shape.plain {
            None => serde_json::from_str::<Wire>(text)
                .map_err(|error| format!("the line is no command: {error}"))?,
            Some(plain) => Wire {
                aggregate: plain.aggregate.clone(),
                id: value
                    .get(&plain.id_field)
                    .cloned()
                    .ok_or_else(|| format!("field {} (--id) is missing", plain.id_field))?,
                command_type: plain.command_type.clone(),
                command_id: None,
                data: serde_json::from_str(text)
                    .map_err(|error| format!("the line is not JSON: {error}"))?,
                expected_version: None,
            },
        };
        let data = match &self.shape.plain {
            None => &value["data"],
            Some(_) => value,
        };
        if !data.is_object() {
            return Err("data is not a JSON object".to_owned());
        }
        let id = aggregate_id(&wire.id)?;
        for (what, name) in [("aggregate", &wire.aggregate), ("id", &id)] {
            check_path_part(what, name)?;
        }
        let secret = (self.shape.secret_fields)(&wire.aggregate, &wire.command_type);
        let given = wire.command_id;
        if given.is_none() && !secret.is_empty() {
            return Err(format!(
                "{} has a secret field ({}), so no id can be derived from its data: give each line a command_id",
                wire.command_type,
                secret.join(", ")
            ));
        }
        if let Some(given) = &given {
            check_command_id(given)?;
        }
        let derived = given.is_none();
        let command_id = given.unwrap_or_else(|| {
            self.derive(
                &wire.aggregate,
                &id,
                &wire.command_type,
                &canonical(data, &[]),
            )
            .to_string()
        });
        let command_type = Value::String(wire.command_type);
        Ok(Command {
            body: format!(r#"{{"type":{command_type},"data":{}}}"#, wire.data.get()),
            aggregate: wire.aggregate,
            id,
            command_id,
            derived,
            expected_version: wire.expected_version,
        })
    }

    fn derive(&mut self, aggregate: &str, id: &str, command_type: &str, data: &str) -> Uuid {
        let name = serde_json::json!([self.shape.batch, aggregate, id, command_type, data]);
        let content = Uuid::new_v5(&NAMESPACE, name.to_string().as_bytes());
        let ordinal = self.ordinals.entry(content).or_insert(0);
        let derived = Uuid::new_v5(&content, &ordinal.to_be_bytes());
        *ordinal += 1;
        derived
    }

    /// A line that was read as JSON, as a rejects file may show it: as it was, unless something is secret.
    fn shown(&self, text: &str, mut value: Value) -> String {
        let secret = match &self.shape.plain {
            Some(plain) => (self.shape.secret_fields)(&plain.aggregate, &plain.command_type),
            None => {
                let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
                (self.shape.secret_fields)(word("aggregate"), word("type"))
            }
        };
        if secret.is_empty() {
            return text.to_owned();
        }
        let fields = match &self.shape.plain {
            Some(_) => value.as_object_mut(),
            None => value.get_mut("data").and_then(Value::as_object_mut),
        };
        if let Some(fields) = fields {
            fields.retain(|name, _| !secret.contains(&name.as_str()));
        }
        value.to_string()
    }

    /// A line that could not be read: its secrets cannot be found either, so a plain type that has some shows nothing.
    fn unread(&self, text: &str) -> String {
        let hidden = self.shape.plain.as_ref().is_some_and(|plain| {
            !(self.shape.secret_fields)(&plain.aggregate, &plain.command_type).is_empty()
        });
        if hidden {
            return "null".to_owned();
        }
        Value::from(text).to_string()
    }
}

/// An id is a string, or an integer, which is written in decimal.
fn aggregate_id(id: &Value) -> Result<String, String> {
    match id {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        _ => Err("the id is neither a string nor an integer".to_owned()),
    }
}

/// Dot segments vanish from a URL's path however they are escaped, so the command would go elsewhere.
fn check_path_part(what: &str, text: &str) -> Result<(), String> {
    match text {
        "" => Err(format!("the {what} is empty")),
        "." | ".." => Err(format!("the {what} {text:?} cannot stand in a URL")),
        _ => Ok(()),
    }
}

fn check_command_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("command_id must be visible ASCII characters without spaces".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(batch: &str) -> LineReader {
        LineReader::new(Shape {
            plain: None,
            batch: batch.to_owned(),
            secret_fields: |_, command_type| match command_type {
                "Register" => &["password"],
                _ => &[],
            },
        })
    }

    fn ids(reader: &mut LineReader, lines: &[&str]) -> Vec<String> {
        let read = |(index, line): (usize, &&str)| reader.read(index as u64, line.as_bytes());
        lines
            .iter()
            .enumerate()
            .map(read)
            .map(|line| line.command.unwrap().command_id)
            .collect()
    }

    const ONE: &str = r#"{"aggregate":"order","id":"1","type":"Ship","data":{"a":1,"b":2}}"#;
    const ONE_IN_OTHER_ORDER: &str =
        r#"{"id":"1","data":{"b":2, "a":1},"type":"Ship","aggregate":"order"}"#;
    const TWO: &str = r#"{"aggregate":"order","id":"2","type":"Ship","data":{"a":1,"b":2}}"#;

    #[test]
    fn the_same_file_has_the_same_ids_however_its_keys_are_ordered() {
        let first = ids(&mut reader(""), &[ONE, TWO]);
        let again = ids(&mut reader(""), &[ONE_IN_OTHER_ORDER, TWO]);
        assert_eq!(first, again);
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn equal_lines_have_ids_of_their_own_that_do_not_hang_on_what_stands_between_them() {
        let apart = ids(&mut reader(""), &[ONE, TWO, ONE]);
        let together = ids(&mut reader(""), &[ONE, ONE_IN_OTHER_ORDER, TWO]);
        assert_ne!(apart[0], apart[2]);
        assert_eq!(apart[0], together[0]);
        assert_eq!(apart[2], together[1]);
        assert_eq!(apart[1], together[2]);
    }

    #[test]
    fn another_batch_has_other_ids() {
        assert_ne!(ids(&mut reader(""), &[ONE]), ids(&mut reader("b"), &[ONE]));
    }

    #[test]
    fn a_given_command_id_is_sent_as_it_is() {
        let line = reader("").read(
            1,
            br#"{"aggregate":"order","id":7,"type":"Ship","command_id":"mine","data":{}}"#,
        );
        let command = line.command.unwrap();
        assert_eq!(
            (command.command_id.as_str(), command.derived),
            ("mine", false)
        );
        assert_eq!(command.id, "7");
        assert_eq!(command.body, r#"{"type":"Ship","data":{}}"#);
    }

    #[test]
    fn a_secret_needs_a_command_id_and_stands_in_no_rejects_file() {
        let bare =
            br#"{"aggregate":"user","id":"1","type":"Register","data":{"password":"pw1","a":1}}"#;
        let line = reader("").read(1, bare);
        assert!(line.command.unwrap_err().contains("command_id"));
        assert!(!line.input.contains("pw1"), "{}", line.input);
        assert!(line.input.contains("\"a\":1"), "{}", line.input);
        let with_id = br#"{"aggregate":"user","id":"1","type":"Register","command_id":"c","data":{"password":"pw1"}}"#;
        let command = reader("").read(1, with_id).command.unwrap();
        assert!(command.body.contains("pw1"));
    }

    #[test]
    fn a_line_that_is_no_command_says_why() {
        let reason = |line: &[u8]| reader("").read(1, line).command.unwrap_err();
        assert!(reason(b"{").contains("not JSON"));
        assert!(reason(b"\xff").contains("UTF-8"));
        assert!(reason(b"[]").contains("no command"));
        assert!(reason(br#"{"aggregate":"order","type":"Ship","data":{}}"#).contains("`id`"));
        assert!(
            reason(br#"{"aggregate":"order","id":"1","type":"S","data":{},"commandid":"x"}"#)
                .contains("commandid")
        );
        assert!(
            reason(br#"{"aggregate":"order","id":1.5,"type":"S","data":{}}"#).contains("integer")
        );
        assert!(reason(br#"{"aggregate":"order","id":"..","type":"S","data":{}}"#).contains("URL"));
        assert!(
            reason(br#"{"aggregate":"order","id":"1","type":"S","data":[]}"#).contains("object")
        );
    }
}
