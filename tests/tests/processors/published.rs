//! Of the suite: what processors publish.

use anyhow::{Context, Result};
use millrace::codec::Codec;
use millrace::config::{Registration, RegistryConfig};
use millrace::processor::command_id;
use millrace::projection::{Envelope, Record};
use millrace::registry::{RecordKind, Registry, RegistryError, SchemaSet};
use tests::hall::{HallCommand, HallEvent, SeatTaken, VenuePublished};

use super::conformance::{Log, guests, reserved, topology};

/// An integration event as it stands on its topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heard {
    pub(super) event: VenuePublished,
    pub(super) envelope: Envelope,
    pub(super) kind: String,
}

impl Heard {
    pub(super) fn of(codec: &Codec, record: &Record) -> Result<Self> {
        let event = codec.decode(record.payload.as_deref().context("no value")?)?;
        Self::from_parts(event, record)
    }

    pub(super) fn from_parts(event: VenuePublished, record: &Record) -> Result<Self> {
        let mut headers = record.headers.iter();
        let kind = headers.find(|(name, _)| *name == "ce_type");
        let kind = kind.and_then(|(_, value)| value).context("no type")?;
        Ok(Self {
            event,
            envelope: record.envelope.clone()?,
            kind: String::from_utf8(kind.to_vec())?,
        })
    }
}

pub(super) async fn what_is_published_is_a_record_of_its_own_that_says_what_it_came_from<L: Log>()
-> Result<()> {
    let (_, topology) = topology();
    let mut log = L::open(topology).await?;
    log.pipe("a", reserved("ada"))?;
    let event = log.pipe("a", reserved("herald"))?;
    log.settled(2).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["ada", "herald"]);
    let first = log.published()?;
    assert_eq!(first.len(), 1);
    let Heard {
        event: told,
        envelope,
        kind,
    } = &first[0];
    let guest = "herald".to_owned();
    assert_eq!(told, &SeatTaken { guest }.into());
    assert_eq!(kind, "venue.seat_taken");
    assert_eq!(
        (envelope.aggregate_id.as_str(), envelope.sequence),
        ("a", 2)
    );
    let metadata = &envelope.metadata;
    assert_eq!(metadata.causation_id, Some(event.to_string()));
    let id = command_id(event, "mirror", ("venue.published", "a"), "SeatTaken", 0);
    assert_eq!(metadata.event_id, id);
    log.reset(0).await?;
    log.settled(2).await?;
    assert_eq!(log.published()?, [first.clone(), first].concat());
    Ok(())
}

pub(super) async fn what_cannot_be_handled_publishes_nothing<L: Log>() -> Result<()> {
    let (_, topology) = topology();
    let mut log = L::open(topology).await?;
    log.pipe("a", reserved("false herald"))?;
    log.pipe("b", reserved("herald"))?;
    log.settled(2).await?;
    assert_eq!(log.letters()?.len(), 1);
    let published = log.published()?;
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].envelope.aggregate_id, "b");
    Ok(())
}

/// Else they would be written with each other's schema.
#[test]
fn an_event_is_declared_once_under_the_name_of_an_aggregate_type_or_a_context() {
    let inner = SchemaSet::of::<HallEvent>();
    let published = SchemaSet {
        kind: RecordKind::Published,
        ..inner
    };
    let config = RegistryConfig {
        schema_registry_url: "http://127.0.0.1:1".to_owned(),
        schema_registration: Registration::Lookup,
    };
    let check = |sets| Registry::unchecked(&config, sets, None)?.check_files();
    let commands = SchemaSet::of_commands::<HallCommand>();
    assert!(check(vec![inner, commands]).is_ok());
    let error = check(vec![inner, published]).unwrap_err();
    assert!(
        matches!(error, RegistryError::DeclaredTwice { name: "hall", .. }),
        "{error}"
    );
}
