//! The relay alone, from a journal that was filled before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::config::{JournalConfig, Secret};
use millrace::event::events_topic;
use millrace::journal::Journal;
use millrace::log::headers;
use millrace::relay::{Relay, RelayConfig};
use rdkafka::message::{Header, OwnedHeaders};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cpu::CpuPerEvent;
use crate::figure::Figure;
use crate::raw::{self, Prepared};
use crate::world::{World, settings};

const DEADLINE: Duration = Duration::from_secs(120);
const PAYLOAD_BYTES: usize = 200;

pub(crate) async fn run(world: &World) -> Result<Vec<Figure>> {
    let config: RelayConfig = settings();
    let topic = world.new_topic("raw-relay").await?;
    let (kafka, events) = (world.kafka.clone(), world.scale.events);
    let per_transaction = config.relay_batch_events_max as usize;
    let ceiling = tokio::task::spawn_blocking(move || {
        let records = prepared(events);
        let rate = raw::produce(&kafka, &topic, records, per_transaction)?;
        let (held, _) = raw::consume(&kafka, &topic)?;
        ensure!(
            held == events,
            "{events} records sent, {topic} holds {held}"
        );
        Ok(rate)
    })
    .await??;
    let (rate, cpu) = relayed(world, config).await?;
    let figure = Figure::new("relay", "events/s", rate);
    Ok(vec![figure.beside(ceiling).costing(cpu)])
}

/// As large as what the relay publishes, with as many headers.
fn prepared(events: usize) -> Vec<Prepared> {
    let id = Uuid::now_v7().to_string();
    let mut owned = OwnedHeaders::new_with_capacity(12);
    for (key, value) in [
        (headers::SPECVERSION, "1.0"),
        (headers::ID, &id),
        (headers::SOURCE, &format!("/millrace/{id}")),
        (headers::TYPE, "order.happened"),
        (headers::SUBJECT, "aggregate-12345"),
        (headers::TIME, "2026-11-21T07:00:00.000000Z"),
        (headers::CONTENT_TYPE, "application/avro"),
        (headers::SEQUENCE, "17"),
        (headers::SCHEMA_VERSION, "1"),
        (headers::POSITION, "1:12345:1234567"),
        (headers::CORRELATION_ID, &id),
        (headers::CAUSATION_ID, &id),
    ] {
        owned = owned.insert(Header {
            key,
            value: Some(value),
        });
    }
    (0..events)
        .map(|number| Prepared {
            key: format!("aggregate-{}", number % 10_000),
            payload: format!("{number:0>200}").into_bytes(),
            headers: owned.clone(),
        })
        .collect()
}

async fn relayed(world: &World, mut config: RelayConfig) -> Result<(f64, CpuPerEvent)> {
    let events = world.scale.events;
    let unique = Uuid::now_v7().simple().to_string();
    let aggregate = format!("relayed_{}", &unique[20..]);
    let url = world.servers.fresh_database("relay").await?;
    let journal = JournalConfig {
        database_url: Secret::from(url.as_str()),
    };
    Journal::open(&journal, &[aggregate.as_str()]).await?;
    fill(&url, &aggregate, events).await?;
    config.relay_position_topic = format!("_millrace.{aggregate}");
    config.relay_transactional_id = format!("millrace.{aggregate}");

    let relay = Relay::new(config, world.kafka.clone(), journal);
    let mut status = relay.status();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(relay.run(Arc::new(Notify::new()), shutdown.clone()));
    // From the first batch on: lease, topics and the producer's start are measured elsewhere.
    let first = tokio::time::timeout(DEADLINE, status.wait_for(|status| status.published > 0));
    let already = first.await??.published;
    let (started, meter) = (Instant::now(), world.meter(&[]));
    let all = status.wait_for(|status| status.published >= events as u64);
    let reached = tokio::time::timeout(DEADLINE, all)
        .await
        .map(|seen| seen.is_ok());
    if reached != Ok(true) {
        bail!("the relay published too little: {:?}", *status.borrow());
    }
    let published = events as u64 - already;
    let rate = published as f64 / started.elapsed().as_secs_f64();
    let cpu = meter.per_event(published);
    shutdown.cancel();
    task.await??;

    let (kafka, topic) = (world.kafka.clone(), events_topic(&aggregate));
    let (held, _) = tokio::task::spawn_blocking(move || raw::consume(&kafka, &topic)).await??;
    ensure!(
        held == events,
        "{events} events in the journal, {held} in Kafka"
    );
    Ok((rate, cpu))
}

/// Events of 10,000 aggregates in transactions of 100, with the headers of a command without tenant and trace.
async fn fill(url: &str, aggregate: &str, events: usize) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("INSERT INTO millrace.schemas VALUES (7, $1, 1, '', '{}')")
        .bind(format!("{aggregate}.events-test.Happened"))
        .execute(&mut connection)
        .await?;
    let random = PAYLOAD_BYTES - 5;
    let statement = format!(
        "DO $$ BEGIN FOR batch IN 0..{} LOOP
            INSERT INTO millrace.events (generation, aggregate_type, aggregate_id, sequence, event_id, event_type,
                                         schema_id, payload, headers, occurred_at)
            SELECT 1, '{aggregate}', 'aggregate-' || (batch % 100) * 100 + n, 1 + batch / 100, id, 'Happened', 7,
                   '\\x0000000007'::bytea || convert_to(rpad(md5(n::text || batch), {random}, md5(batch::text)), 'UTF8'),
                   jsonb_build_object('correlationid', id, 'causationid', id), now()
            FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(0, 99) AS n) AS made ORDER BY n;
            COMMIT;
         END LOOP; END $$",
        events / 100 - 1
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .context("the journal was not filled")?;
    sqlx::raw_sql("ANALYZE millrace.events")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}
