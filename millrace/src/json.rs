//! Canonical JSON: one text for one value, so that ids and hashes do not hang on how a sender wrote it.

pub use serde_json::{Error, Value};

/// The value as JSON without white space, keys sorted by their UTF-8 bytes, without the top-level fields `leaving_out`.
///
/// Two texts that differ in key order, white space or escapes give the same result. Numbers keep their
/// kind: `1` and `1.0` differ, because a field that takes one may refuse the other; `1.0`, `1.00` and `1e0` are
/// the same. Arrays keep their order, and `null` is not the same as a missing field. An integer beyond 64 bits has
/// already become a float when `Value` was read.
///
/// Secret fields of a command are left out: they must not stand in an id or a hash that is kept.
pub fn canonical(value: &Value, leaving_out: &[&str]) -> String {
    let mut out = String::new();
    write(value, leaving_out, &mut out);
    out
}

fn write(value: &Value, leaving_out: &[&str], out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .iter()
                .filter(|(name, _)| !leaving_out.contains(&name.as_str()))
                .collect();
            // Sorted here although `Map` sorts by default: its `preserve_order` feature is on as soon as any
            // crate of the build asks for it.
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write(value, &[], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, &[], out);
            }
            out.push(']');
        }
        Value::String(text) => write_string(text, out),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
            out.push_str(&scalar.to_string());
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a string always serializes"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        canonical(&serde_json::from_str(text).unwrap(), &[])
    }

    #[test]
    fn key_order_and_white_space_do_not_matter_at_any_depth() {
        let expected = r#"{"a":[{"x":1,"y":null},2],"b":{"c":true,"d":"t"}}"#;
        assert_eq!(
            of(r#" { "b": {"d":"t", "c": true}, "a": [ {"y":null,"x":1}, 2 ] } "#),
            expected
        );
        assert_eq!(of(expected), expected);
    }

    #[test]
    fn the_order_of_an_array_matters() {
        assert_ne!(of("[1,2]"), of("[2,1]"));
    }

    #[test]
    fn an_integer_is_not_a_float_but_a_float_has_one_text() {
        assert_eq!(of("1"), "1");
        assert_eq!(of("1.0"), "1.0");
        assert_eq!(of("1.00"), of("1e0"));
        assert_eq!(of("-9223372036854775808"), "-9223372036854775808");
        assert_eq!(of("18446744073709551615"), "18446744073709551615");
        assert_eq!(of("0.1"), "0.1");
    }

    #[test]
    fn escapes_are_undone_and_only_the_needed_ones_written() {
        assert_eq!(of(r#""\u00e9\u6f22\ud83d\ude00\/""#), "\"é漢😀/\"");
        assert_eq!(of(r#""\u0001\n\"\\""#), r#""\u0001\n\"\\""#);
        // Composed and decomposed letters are different texts, as for Kafka keys.
        assert_ne!(of("\"\u{e9}\""), of("\"e\u{301}\""));
    }

    #[test]
    fn keys_are_sorted_by_their_bytes() {
        assert_eq!(
            of(r#"{"é":1,"z":2,"Z":3,"":4}"#),
            r#"{"":4,"Z":3,"z":2,"é":1}"#
        );
    }

    #[test]
    fn fields_are_left_out_at_the_top_only() {
        let value = serde_json::json!({"email": "a", "password": "p", "inner": {"password": "q"}});
        assert_eq!(
            canonical(&value, &["password"]),
            r#"{"email":"a","inner":{"password":"q"}}"#
        );
        assert_eq!(canonical(&value, &["password", "email", "inner"]), "{}");
    }

    #[test]
    fn null_is_not_a_missing_field() {
        assert_ne!(of(r#"{"a":null}"#), of("{}"));
    }
}
