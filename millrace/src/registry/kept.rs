//! The journal's copy of the schemas: written before first use, read first when decoding.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::registry::compatibility::{parse, same_json};
use crate::registry::{Registered, Registry, RegistryError};

impl Registry {
    /// Writes what was registered into the journal, before anything is encoded with it.
    ///
    /// An id that stands for another schema there was given by another registry, or by this one after it lost its
    /// store: stored events would be decoded with the wrong schema, so that is refused.
    pub(super) async fn keep(&self, registered: &[Registered]) -> Result<(), RegistryError> {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.reads_only) else {
            return Ok(());
        };
        let ids: Vec<i32> = registered.iter().map(|one| one.schema_id as i32).collect();
        let known: Vec<(i32, String, String)> =
            sqlx::query_as("SELECT id, subject, json FROM millrace.schemas WHERE id = ANY ($1)")
                .bind(&ids)
                .fetch_all(journal)
                .await?;
        for one in registered {
            let other = known.iter().find(|(id, _, json)| {
                *id == one.schema_id as i32 && !same_json(json, one.schema.json)
            });
            if let Some((id, subject, _)) = other {
                return Err(RegistryError::OtherRegistry {
                    subject: one.subject.clone(),
                    id: *id,
                    known: subject.clone(),
                });
            }
        }
        let subjects: Vec<&str> = registered.iter().map(|one| one.subject.as_str()).collect();
        let versions: Vec<i32> = registered
            .iter()
            .map(|one| one.schema.version as i32)
            .collect();
        let prints: Vec<Vec<u8>> = registered
            .iter()
            .map(|one| fingerprint(one.schema.json))
            .collect();
        let jsons: Vec<&str> = registered.iter().map(|one| one.schema.json).collect();
        sqlx::query(
            "INSERT INTO millrace.schemas (id, subject, version, fingerprint, json)
             SELECT * FROM unnest($1::int[], $2::text[], $3::int[], $4::bytea[], $5::text[])
             ON CONFLICT (id, subject) DO UPDATE SET version = excluded.version
             WHERE schemas.version IS DISTINCT FROM excluded.version",
        )
        .bind(ids)
        .bind(subjects)
        .bind(versions)
        .bind(prints)
        .bind(jsons)
        .execute(journal)
        .await?;
        Ok(())
    }

    /// What the journal knows of our schemas; nothing unless it knows every one of them.
    pub(super) async fn recall(&self) -> Result<Option<Vec<Registered>>, RegistryError> {
        let Some(journal) = &self.journal else {
            return Ok(None);
        };
        let rows: Result<Vec<(i32, String, Vec<u8>)>, _> =
            sqlx::query_as("SELECT id, subject, fingerprint FROM millrace.schemas")
                .fetch_all(journal)
                .await;
        let kept: HashMap<(String, Vec<u8>), u32> = self
            .if_there(rows)?
            .unwrap_or_default()
            .into_iter()
            .map(|(id, subject, print)| ((subject, print), id as u32))
            .collect();
        let mut registered = Vec::new();
        for (set, schema) in self.schemas() {
            let subject = set.subject(&parse(schema)?);
            let Some(id) = kept.get(&(subject.clone(), fingerprint(schema.json))) else {
                return Ok(None);
            };
            registered.push(Registered {
                aggregate: set.aggregate,
                subject,
                schema: *schema,
                schema_id: *id,
            });
        }
        Ok(Some(registered))
    }

    /// Makes every schema of the journal known for decoding: older versions, and those of a newer producer.
    pub(super) async fn read_kept(&self) -> Result<(), RegistryError> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let rows: Result<Vec<(i32, String)>, _> =
            sqlx::query_as("SELECT DISTINCT ON (id) id, json FROM millrace.schemas ORDER BY id")
                .fetch_all(journal)
                .await;
        for (id, json) in self.if_there(rows)?.unwrap_or_default() {
            let added = self.codec.add_reader(id as u32, &json);
            added.map_err(|error| RegistryError::Refused {
                subject: format!("schema id {id}"),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// The schema of an id, where the journal knows it.
    pub(super) async fn kept(&self, id: u32) -> Result<Option<String>, RegistryError> {
        let Some(journal) = &self.journal else {
            return Ok(None);
        };
        let json = sqlx::query_scalar("SELECT json FROM millrace.schemas WHERE id = $1 LIMIT 1")
            .bind(id as i32)
            .fetch_optional(journal)
            .await;
        Ok(self.if_there(json)?.flatten())
    }

    /// To a role that only reads, a journal that is away is one that knows nothing.
    fn if_there<T>(&self, answer: Result<T, sqlx::Error>) -> Result<Option<T>, RegistryError> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.reads_only => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn fingerprint(json: &str) -> Vec<u8> {
    Sha256::digest(json).to_vec()
}
