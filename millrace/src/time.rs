//! Times in commands, which are read from JSON and from Avro: RFC 3339 in the one, `timestamp-millis` in the other.
//!
//! For `#[serde(with = "millrace::time")]` on a `DateTime<Utc>`, and [`option`] on an `Option` of one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serializer};

/// Writes RFC 3339 for people, milliseconds since 1970 for machines.
pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serde::Serialize::serialize(at, serializer)
    } else {
        chrono::serde::ts_milliseconds::serialize(at, serializer)
    }
}

/// Reads what [`serialize`] writes.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    if deserializer.is_human_readable() {
        DateTime::deserialize(deserializer)
    } else {
        chrono::serde::ts_milliseconds::deserialize(deserializer)
    }
}

/// The same for a time that may be missing; with `#[serde(default)]`, null and absent are both none.
pub mod option {
    use super::*;

    /// Writes null where there is no time.
    pub fn serialize<S: Serializer>(
        at: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serde::Serialize::serialize(at, serializer)
        } else {
            chrono::serde::ts_milliseconds_option::serialize(at, serializer)
        }
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        if deserializer.is_human_readable() {
            Option::deserialize(deserializer)
        } else {
            chrono::serde::ts_milliseconds_option::deserialize(deserializer)
        }
    }
}
