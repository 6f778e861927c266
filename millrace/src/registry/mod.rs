//! The schema registry: what is registered or looked up at start, and schemas learnt later.
//!
//! Subjects follow TopicRecordNameStrategy (`counter.events-commerce.CounterRaised`), compatibility is
//! FULL_TRANSITIVE: producers and consumers are deployed apart, and a replay starts at offset 0. Every
//! schema also stands in the journal, so that stored events can be read when the registry is lost, and so
//! that a role whose schemas are all known starts while the registry is away.

mod compatibility;
mod error;
mod kept;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_all_versions, get_schema_by_id, get_schema_by_subject_and_version, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use sqlx::PgPool;

use crate::codec::{Codec, Schema, Writer};
use crate::command::CommandSet;
use crate::command::inbox::REPLY_SCHEMAS;
use crate::config::{Registration, RegistryConfig};
use crate::event::{
    Event, IntegrationEvent, RecordSchema, commands_topic, events_topic, published_topic,
    replies_topic,
};
use crate::telemetry::events;
use compatibility::{check_against, compatible, full_name, parse, same_json};

pub use error::RegistryError;

/// Tries to register a schema against others who do the same.
const REGISTER_TRIES_MAX: u64 = 5;
/// Subjects that the registry is asked about at a time.
const QUESTIONS_MAX: usize = 8;

/// What a record of an aggregate type is; decides its topic, and so its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// What happened: `<aggregate>.events`.
    Event,
    /// What is asked: `<aggregate>.commands`.
    Command,
    /// What became of it: `<aggregate>.replies`.
    Reply,
    /// What a context tells others: `<context>.published`.
    Published,
}

/// The schemas of one aggregate type's events, or of its commands, or of a context's integration events.
#[derive(Debug, Clone, Copy)]
pub struct SchemaSet {
    /// Aggregate type, or context.
    pub aggregate: &'static str,
    /// What the records are.
    pub kind: RecordKind,
    /// Every released schema, oldest version first within a record.
    pub schemas: &'static [RecordSchema],
}

impl SchemaSet {
    /// The schemas that `E` declares.
    pub fn of<E: Event>() -> Self {
        Self {
            aggregate: E::AGGREGATE,
            kind: RecordKind::Event,
            schemas: E::SCHEMAS,
        }
    }

    /// The schemas that the commands `C` declare.
    pub fn of_commands<C: CommandSet>() -> Self {
        Self {
            aggregate: C::AGGREGATE,
            kind: RecordKind::Command,
            schemas: C::SCHEMAS,
        }
    }

    /// The schema of the replies to the commands `C`.
    pub fn of_replies<C: CommandSet>() -> Self {
        Self {
            aggregate: C::AGGREGATE,
            kind: RecordKind::Reply,
            schemas: REPLY_SCHEMAS,
        }
    }

    /// The schemas of the integration events `E`.
    pub fn of_published<E: IntegrationEvent>() -> Self {
        Self {
            kind: RecordKind::Published,
            ..Self::of::<E>()
        }
    }

    /// The topic that the records stand in.
    pub fn topic(&self) -> String {
        match self.kind {
            RecordKind::Event => events_topic(self.aggregate),
            RecordKind::Command => commands_topic(self.aggregate),
            RecordKind::Reply => replies_topic(self.aggregate),
            RecordKind::Published => published_topic(self.aggregate),
        }
    }

    /// The subject of one of its schemas: TopicRecordNameStrategy, `counter.events-commerce.CounterRaised`.
    pub fn subject(&self, schema: &Schema) -> String {
        format!("{}-{}", self.topic(), full_name(schema))
    }
}

/// A schema of ours as the registry knows it.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Aggregate type.
    pub aggregate: &'static str,
    /// Subject in the registry.
    pub subject: String,
    /// The schema file.
    pub schema: RecordSchema,
    /// Its id.
    pub schema_id: u32,
}

/// A schema of ours, with its place among all of them.
struct Ours {
    number: usize,
    aggregate: &'static str,
    schema: &'static RecordSchema,
    parsed: Schema,
}

/// The registry, the journal's copy of it, and the codec that they feed.
#[derive(Clone)]
pub struct Registry {
    url: String,
    settings: SrSettings,
    http: reqwest::Client,
    registration: Registration,
    sets: Vec<SchemaSet>,
    journal: Option<PgPool>,
    reads_only: bool,
    codec: Codec,
}

impl Registry {
    /// Registers or looks up every schema and returns what encodes and decodes with them.
    ///
    /// With a journal, its copy is written before first use; where the registry is away and the journal
    /// knows every schema, that is enough to start.
    pub async fn open(
        config: &RegistryConfig,
        sets: Vec<SchemaSet>,
        journal: Option<PgPool>,
    ) -> Result<Self, RegistryError> {
        Self::unchecked(config, sets, journal)?.opened().await
    }

    /// The same for a role that writes no events: the journal is read where it answers, and never written.
    pub async fn open_reader(
        config: &RegistryConfig,
        sets: Vec<SchemaSet>,
        journal: PgPool,
    ) -> Result<Self, RegistryError> {
        let mut registry = Self::unchecked(config, sets, Some(journal))?;
        registry.reads_only = true;
        registry.opened().await
    }

    async fn opened(mut self) -> Result<Self, RegistryError> {
        let registry = &mut self;
        registry.check_files()?;
        // Who writes no events decodes what the journal holds, whose copy of a schema is written before its first use.
        let kept = match registry.reads_only {
            true => registry.recall().await?,
            false => None,
        };
        let registered = match kept {
            Some(kept) => kept,
            None => registry.registered().await?,
        };
        registry.codec = codec_of(&registered)?;
        for (set, schema) in registry.schemas() {
            if matches!(set.kind, RecordKind::Event | RecordKind::Published) {
                events::know(&set.topic(), set.aggregate, schema.record);
            }
        }
        registry.read_kept().await?;
        Ok(self)
    }

    /// From the registry, or, where it is away, from the journal.
    async fn registered(&self) -> Result<Vec<Registered>, RegistryError> {
        match self.register().await {
            Ok(registered) => {
                self.keep(&registered).await?;
                Ok(registered)
            }
            Err(away @ RegistryError::Unavailable { .. }) => match self.recall().await? {
                Some(kept) => {
                    tracing::warn!(error = %away, "starting with the schemas kept in the journal");
                    Ok(kept)
                }
                None => Err(away),
            },
            Err(refused) => Err(refused),
        }
    }

    /// A registry client that has registered nothing yet: for `schemas check|list`.
    pub fn unchecked(
        config: &RegistryConfig,
        sets: Vec<SchemaSet>,
        journal: Option<PgPool>,
    ) -> Result<Self, RegistryError> {
        let url = config.schema_registry_url.trim_end_matches('/').to_owned();
        let unusable = |reason: String| RegistryError::Unavailable {
            url: url.clone(),
            reason,
        };
        let timeout = Duration::from_secs(5);
        let settings = SrSettings::new_builder(url.clone())
            .set_timeout(timeout)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            url,
            settings,
            http,
            registration: config.schema_registration,
            sets,
            journal,
            reads_only: false,
            codec: Codec::default(),
        })
    }

    /// The codec; clones share what is learnt.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Makes a schema id known to the codec: from the journal first, then from the registry.
    ///
    /// [`RegistryError::UnknownId`] and [`RegistryError::ForeignSchema`] are final answers: the record is
    /// no event of ours. Everything else is a server that is away.
    pub async fn learn(&self, id: u32) -> Result<(), RegistryError> {
        let json = match self.kept(id).await? {
            Some(json) => json,
            None => {
                let json = match get_schema_by_id(id, &self.settings).await {
                    Ok(found) => found.schema,
                    Err(error) if is_not_found(&error) => return Err(RegistryError::UnknownId(id)),
                    Err(error) => return Err(self.failed(&format!("schema id {id}"), &error)),
                };
                self.check_is_ours(id, &json)?;
                json
            }
        };
        self.codec
            .add_reader(id, &json)
            .map_err(|error| RegistryError::Refused {
                subject: format!("schema id {id}"),
                reason: error.to_string(),
            })
    }

    /// Every pair of our own files must read each other, before anyone is asked, and no two sets may declare one record
    /// under one name: they would write with each other's schema.
    pub fn check_files(&self) -> Result<(), RegistryError> {
        for (set, schema) in self.schemas() {
            let ours = parse(schema)?;
            let twice = self.schemas().any(|(other, of)| {
                (other.aggregate, of.record) == (set.aggregate, schema.record)
                    && other.kind != set.kind
            });
            if twice {
                return Err(RegistryError::DeclaredTwice {
                    name: set.aggregate,
                    record: schema.record,
                });
            }
            for older in set
                .schemas
                .iter()
                .filter(|other| other.record == schema.record && other.version < schema.version)
            {
                compatible(&ours, &parse(older)?).map_err(|reason| {
                    RegistryError::Incompatible {
                        subject: set.subject(&ours),
                        version: format!("{} (file)", older.version),
                        ours: format!("{}.v{}.avsc", schema.record, schema.version),
                        reason,
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Compares every schema with all versions that the registry has; registers nothing.
    pub async fn check(&self) -> Result<(), RegistryError> {
        self.check_files()?;
        for (set, schema) in self.schemas() {
            let ours = parse(schema)?;
            let subject = set.subject(&ours);
            let versions = self.versions(&subject).await?;
            check_against(&subject, schema, &ours, &versions)?;
        }
        Ok(())
    }

    /// Finds every schema's id, registering what is missing if the configuration says so.
    pub async fn register(&self) -> Result<Vec<Registered>, RegistryError> {
        // By subject: what is registered of one is compared with its versions before, and no subject waits for another.
        let mut subjects: BTreeMap<String, Vec<Ours>> = BTreeMap::new();
        for (number, (set, schema)) in self.schemas().enumerate() {
            let parsed = parse(schema)?;
            let of = subjects.entry(set.subject(&parsed)).or_default();
            of.push(Ours {
                number,
                aggregate: set.aggregate,
                schema,
                parsed,
            });
        }
        let mut registered: Vec<(usize, Registered)> = stream::iter(&subjects)
            .map(|(subject, schemas)| self.register_all(subject, schemas))
            .buffer_unordered(QUESTIONS_MAX)
            .try_concat()
            .await?;
        registered.sort_by_key(|(number, _)| *number);
        Ok(registered.into_iter().map(|(_, one)| one).collect())
    }

    /// A subject's schemas with their numbers, one after another: a version is compared with those before it.
    async fn register_all(
        &self,
        subject: &str,
        schemas: &[Ours],
    ) -> Result<Vec<(usize, Registered)>, RegistryError> {
        let mut registered = Vec::with_capacity(schemas.len());
        let mut versions = None;
        for ours in schemas {
            let one = Registered {
                aggregate: ours.aggregate,
                subject: subject.to_owned(),
                schema: *ours.schema,
                schema_id: self.register_one(subject, ours, &mut versions).await?,
            };
            registered.push((ours.number, one));
        }
        Ok(registered)
    }

    /// The id of one schema. `known` are the subject's versions as long as they hold, so that they are asked for once
    /// where nothing is missing.
    ///
    /// Two producers that start at once get in each other's way, and one of them is refused with a conflict: it looks
    /// again, and mostly finds what the other one registered.
    async fn register_one(
        &self,
        subject: &str,
        ours: &Ours,
        known: &mut Option<Vec<Known>>,
    ) -> Result<u32, RegistryError> {
        let mut tries = 0;
        loop {
            let versions = match known.take() {
                Some(versions) => versions,
                None => self.versions(subject).await?,
            };
            check_against(subject, ours.schema, &ours.parsed, &versions)?;
            if let Some(id) = id_in(&versions, ours.schema) {
                *known = Some(versions);
                return Ok(id);
            }
            let result = match self.registration {
                Registration::Lookup => Err(RegistryError::NotRegistered {
                    subject: subject.to_owned(),
                    version: ours.schema.version,
                }),
                Registration::Register => self.add(subject, ours.schema, versions.is_empty()).await,
            };
            match result {
                Err(RegistryError::Refused { reason, .. })
                    if reason.contains("409") && tries < REGISTER_TRIES_MAX =>
                {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100 * tries)).await;
                }
                other => return other,
            }
        }
    }

    async fn add(
        &self,
        subject: &str,
        schema: &RecordSchema,
        is_first: bool,
    ) -> Result<u32, RegistryError> {
        if is_first {
            self.demand_full_compatibility(subject).await?;
        }
        self.post(subject, schema).await
    }

    fn schemas(&self) -> impl Iterator<Item = (&SchemaSet, &'static RecordSchema)> {
        self.sets
            .iter()
            .flat_map(|set| set.schemas.iter().map(move |schema| (set, schema)))
    }

    /// Every version of a subject; none where the registry does not know it.
    pub async fn versions(&self, subject: &str) -> Result<Vec<Known>, RegistryError> {
        let numbers = match get_all_versions(&self.settings, subject.to_owned()).await {
            Ok(numbers) => numbers,
            Err(error) if is_not_found(&error) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(subject, &error)),
        };
        let mut versions = Vec::with_capacity(numbers.len());
        for number in numbers {
            let found = get_schema_by_subject_and_version(&self.settings, subject, Some(number))
                .await
                .map_err(|error| self.failed(subject, &error))?;
            versions.push(Known {
                number,
                id: found.id,
                json: found.schema,
            });
        }
        Ok(versions)
    }

    async fn post(&self, subject: &str, schema: &RecordSchema) -> Result<u32, RegistryError> {
        let supplied = SuppliedSchema::new(
            Some(schema.record.to_owned()),
            SchemaType::Avro,
            schema.json.to_owned(),
        );
        post_schema(&self.settings, subject.to_owned(), supplied)
            .await
            .map(|posted| posted.id)
            .map_err(|error| self.failed(subject, &error))
    }

    /// The converter crate has no call for a subject's compatibility, so it is set over plain HTTP.
    async fn demand_full_compatibility(&self, subject: &str) -> Result<(), RegistryError> {
        let unavailable = |error: reqwest::Error| RegistryError::Unavailable {
            url: self.url.clone(),
            reason: error.without_url().to_string(),
        };
        let answer = self
            .http
            .put(format!("{}/config/{subject}", self.url))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(r#"{"compatibility":"FULL_TRANSITIVE"}"#)
            .send()
            .await
            .map_err(unavailable)?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(RegistryError::Refused {
            subject: subject.to_owned(),
            reason: format!("compatibility FULL_TRANSITIVE: {}", answer.status()),
        })
    }

    /// Decoding is bounded to records that we declare: nobody else's schema is parsed for ever.
    fn check_is_ours(&self, id: u32, json: &str) -> Result<(), RegistryError> {
        let foreign = |record: String| RegistryError::ForeignSchema { id, record };
        let schema = Schema::parse_str(json).map_err(|_| foreign("(not a schema)".to_owned()))?;
        let record = full_name(&schema);
        for (_, ours) in self.schemas() {
            if full_name(&parse(ours)?) == record {
                return Ok(());
            }
        }
        Err(foreign(record))
    }

    fn failed(&self, subject: &str, error: &SRCError) -> RegistryError {
        if is_answer(error) {
            RegistryError::Refused {
                subject: subject.to_owned(),
                reason: error.to_string(),
            }
        } else {
            self.away(error)
        }
    }

    fn away(&self, error: &SRCError) -> RegistryError {
        RegistryError::Unavailable {
            url: self.url.clone(),
            reason: error.to_string(),
        }
    }
}

/// A version that the registry has.
#[derive(Debug, Clone)]
pub struct Known {
    /// Number within its subject, as the registry counts.
    pub number: u32,
    /// Schema id.
    pub id: u32,
    /// The schema itself.
    pub json: String,
}

fn codec_of(registered: &[Registered]) -> Result<Codec, RegistryError> {
    let mut writers = HashMap::new();
    for one in registered.iter().filter(|one| !one.schema.retired) {
        // Versions come oldest first, so the newest is the one that stays.
        let writer = Writer {
            schema_id: one.schema_id,
            version: one.schema.version,
            schema: parse(&one.schema)?,
        };
        writers.insert((one.aggregate, one.schema.record), writer);
    }
    let codec = Codec::new(writers);
    for one in registered {
        codec
            .add_reader(one.schema_id, one.schema.json)
            .map_err(|source| RegistryError::File {
                record: one.schema.record,
                version: one.schema.version,
                source,
            })?;
    }
    Ok(codec)
}

// The converter crate keeps the HTTP status only in its text.
fn is_answer(error: &SRCError) -> bool {
    error.error.contains("failed with status 4")
}

/// The id of this very schema among a subject's versions.
fn id_in(versions: &[Known], schema: &RecordSchema) -> Option<u32> {
    let mut same = versions.iter();
    same.find(|known| same_json(&known.json, schema.json))
        .map(|known| known.id)
}

fn is_not_found(error: &SRCError) -> bool {
    error.error.contains("failed with status 404")
}
