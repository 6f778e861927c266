//! Compatibility of schemas, both ways and with every version: FULL_TRANSITIVE, with the field named on failure.

use apache_avro::error::CompatibilityError;
use apache_avro::schema_compatibility::SchemaCompatibility;

use crate::codec::Schema;
use crate::event::RecordSchema;
use crate::registry::{Known, RegistryError};

pub(super) fn full_name(schema: &Schema) -> String {
    schema
        .name()
        .map(|name| name.fullname(None).to_string())
        .unwrap_or_default()
}

pub(super) fn parse(schema: &RecordSchema) -> Result<Schema, RegistryError> {
    Schema::parse_str(schema.json).map_err(|error| RegistryError::File {
        record: schema.record,
        version: schema.version,
        source: error.into(),
    })
}

pub(super) fn check_against(
    subject: &str,
    schema: &RecordSchema,
    ours: &Schema,
    versions: &[Known],
) -> Result<(), RegistryError> {
    for known in versions {
        let incompatible = |reason| RegistryError::Incompatible {
            subject: subject.to_owned(),
            version: known.number.to_string(),
            ours: format!("{}.v{}.avsc", schema.record, schema.version),
            reason,
        };
        let theirs =
            Schema::parse_str(&known.json).map_err(|error| incompatible(error.to_string()))?;
        compatible(ours, &theirs).map_err(incompatible)?;
    }
    Ok(())
}

/// Both ways, with the field named on failure.
pub(super) fn compatible(ours: &Schema, theirs: &Schema) -> Result<(), String> {
    let describe = |error: CompatibilityError, reader: &str| match error {
        CompatibilityError::MissingDefaultValue(field) => {
            format!("field {field} is only in {reader} and has no default")
        }
        CompatibilityError::FieldTypeMismatch(field, cause) => {
            format!("field {field} has another type: {cause}")
        }
        other => other.to_string(),
    };
    SchemaCompatibility::can_read(theirs, ours).map_err(|error| describe(error, "our file"))?;
    SchemaCompatibility::can_read(ours, theirs).map_err(|error| describe(error, "the other"))?;
    Ok(())
}

/// Equal but for white space and the order of attributes.
pub(super) fn same_json(one: &str, other: &str) -> bool {
    let parse = serde_json::from_str::<serde_json::Value>;
    matches!((parse(one), parse(other)), (Ok(one), Ok(other)) if one == other)
}
