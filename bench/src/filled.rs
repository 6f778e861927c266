//! A topic that holds the events of many orders, as the relay would have published them.

use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::Utc;
use millrace::event::{Event, ce_type};
use millrace::log::{client, headers};
use millrace::position::JournalPosition;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseProducer;
use uuid::Uuid;

use crate::orders::{self, STEPS};
use crate::raw::{self, Prepared};
use crate::world::World;

/// Orders that are placed before the first of them is confirmed, and so on.
const WAVE: usize = 5_000;

/// The topic and what is in it.
pub(crate) struct Filled {
    pub(crate) topic: String,
    pub(crate) events: usize,
    pub(crate) orders: usize,
}

impl Filled {
    pub(crate) async fn new(world: &World) -> Result<Self> {
        let topic = world.new_topic("filled").await?;
        let registry = world.registry(None).await?;
        let orders = world.scale.events / STEPS;
        let producer: BaseProducer =
            client::transactional_producer(&world.kafka, &topic).create()?;
        let filled = Self {
            events: orders * STEPS,
            orders,
            topic: topic.clone(),
        };
        let codec = registry.codec().clone();
        tokio::task::spawn_blocking(move || {
            let topic: Arc<str> = topic.into();
            raw::begin(&producer)?;
            let mut position = 0;
            for wave in (0..orders).collect::<Vec<_>>().chunks(WAVE) {
                for step in 0..STEPS {
                    for order in wave {
                        position += 1;
                        let event = orders::event(step, *order, Utc::now());
                        let (_, payload) = codec.encode(&event)?;
                        let record = Prepared {
                            key: format!("order-{order}"),
                            payload,
                            headers: event_headers(*order, step, &event, position),
                        };
                        raw::send(&producer, &topic, record)?;
                    }
                    raw::commit(&producer)?;
                    raw::begin(&producer)?;
                }
            }
            raw::commit(&producer).context("the topic was not filled")
        })
        .await??;
        Ok(filled)
    }
}

/// The twelve headers that the relay gives to an event of a command without tenant and trace.
fn event_headers(order: usize, step: usize, event: &impl Event, position: i64) -> OwnedHeaders {
    let command_id = Uuid::now_v7().to_string();
    let mut owned = OwnedHeaders::new_with_capacity(12);
    for (key, value) in [
        (headers::SPECVERSION, "1.0".to_owned()),
        (headers::ID, Uuid::now_v7().to_string()),
        (
            headers::SOURCE,
            "/millrace/0190b1f5-7c0a-7aaa-8000-000000000000".to_owned(),
        ),
        (headers::TYPE, ce_type("order", event.event_type())),
        (headers::SUBJECT, format!("order-{order}")),
        (headers::TIME, headers::time(Utc::now())),
        (headers::CONTENT_TYPE, "application/avro".to_owned()),
        (headers::SEQUENCE, (step + 1).to_string()),
        (headers::SCHEMA_VERSION, "1".to_owned()),
        (
            headers::POSITION,
            JournalPosition {
                generation: 1,
                xid: 700 + position / 100,
                position,
            }
            .to_string(),
        ),
        (headers::CORRELATION_ID, command_id.clone()),
        (headers::CAUSATION_ID, command_id),
    ] {
        owned = owned.insert(Header {
            key,
            value: Some(&value),
        });
    }
    owned
}
