//! Figures for `docs/decisions/`: run by hand, on servers that do nothing else.
//!
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p tests --test main relay::speed -- --ignored --nocapture --test-threads 1`

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace::log::client;
use millrace::log::topics::{self, Kind, Topic};
use millrace::relay::RelayRole;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{DEADLINE, PARTITIONS, Rig, append, header, next};

const EVENTS: usize = 300_000;
const PER_TRANSACTION: usize = 5000;

/// 200-byte events of 10,000 aggregates, in transactions of 100.
async fn fill(rig: &Rig) -> Result<()> {
    rig.execute(&format!(
        "DO $$ BEGIN FOR batch IN 0..{} LOOP
            INSERT INTO millrace.events (generation, aggregate_type, aggregate_id, sequence, event_id, event_type,
                                         schema_id, payload, headers, occurred_at)
            SELECT 1, '{}', 'aggregate-' || (batch % 100) * 100 + n, 1 + batch / 100, gen_random_uuid(), 'Happened', 7,
                   '\\x0000000007'::bytea || convert_to(rpad(md5(n::text || batch), 195, md5(batch::text)), 'UTF8'), '{{}}', now()
            FROM generate_series(0, 99) AS n ORDER BY n;
            COMMIT;
         END LOOP; END $$",
        EVENTS / 100 - 1,
        rig.aggregate
    ))
    .await?;
    rig.execute("ANALYZE millrace.events").await
}

/// The same number of records by the client alone, from memory.
fn raw(rig: &Rig, topic: &str, with_headers: bool) -> Result<f64> {
    let producer: BaseProducer = client::transactional_producer(&rig.kafka, topic).create()?;
    producer.init_transactions(DEADLINE)?;
    let payload = "0123456789abcdef".repeat(13);
    let started = Instant::now();
    for transaction in 0..EVENTS / PER_TRANSACTION {
        producer.begin_transaction()?;
        for number in 0..PER_TRANSACTION {
            let key = format!(
                "aggregate-{}",
                (transaction * PER_TRANSACTION + number) % 10_000
            );
            let mut record = BaseRecord::to(topic)
                .key(&key)
                .payload(&payload.as_bytes()[..200]);
            if with_headers {
                let mut headers = OwnedHeaders::new_with_capacity(10);
                for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
                    headers = headers.insert(Header {
                        key: name,
                        value: Some("a value of 24 characters"),
                    });
                }
                record = record.headers(headers);
            }
            producer.send(record).map_err(|(error, _)| error)?;
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_micros(200));
        }
        producer.commit_transaction(DEADLINE)?;
    }
    Ok(EVENTS as f64 / started.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn events_per_second_from_a_filled_journal() -> Result<()> {
    let rig = Rig::new("speed").await?;
    fill(&rig).await?;
    let names = ["plain", "headers"].map(|name| format!("{}.raw.{name}", rig.aggregate));
    let wanted: Vec<Topic> = names
        .iter()
        .map(|name| Topic {
            name: name.clone(),
            kind: Kind::Events,
        })
        .collect();
    topics::ensure(&rig.kafka, &wanted).await?;
    for round in 0..2 {
        let rate = tokio::task::block_in_place(|| raw(&rig, &names[0], false))?;
        eprintln!("round {round}: raw rdkafka, no headers: {rate:.0} records/s");
        let rate = tokio::task::block_in_place(|| raw(&rig, &names[1], true))?;
        eprintln!("round {round}: raw rdkafka, ten headers: {rate:.0} records/s");
    }
    let mut reader = millrace::relay::read::Reader::new(
        millrace::relay::read::connect(&rig.url).await?,
        Default::default(),
        rig.config.limits(),
        millrace::relay::gate::GateRule::JournalWriters,
    );
    let (started, mut read) = (Instant::now(), 0);
    while read < EVENTS {
        read += reader.next().await?.events.len();
    }
    eprintln!(
        "reading and checking alone: {:.0} events/s",
        EVENTS as f64 / started.elapsed().as_secs_f64()
    );

    let mut relay = rig.start();
    relay
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    let started = Instant::now();
    relay
        .until("published", |status| status.published >= EVENTS as u64)
        .await?;
    let rate = EVENTS as f64 / started.elapsed().as_secs_f64();
    eprintln!("relay: {rate:.0} events/s");
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn milliseconds_from_commit_to_a_reader_at_100_events_a_second() -> Result<()> {
    let rig = Rig::new("latency").await?;
    let mut relay = rig.start();
    relay
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    let (arrived, arrivals) = mpsc::channel();
    let (bootstrap, topic) = (rig.kafka.kafka_bootstrap.clone(), rig.topic());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "relay-tests")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(&topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    const COUNT: usize = 1000;
    let reading = tokio::task::spawn_blocking(move || {
        for _ in 0..COUNT {
            let message = next(&consumer)?;
            let at = Instant::now();
            arrived.send((
                String::from_utf8(message.key().context("no key")?.to_vec())?,
                at,
            ))?;
            header(&message, "ce_id")?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let mut connection = rig.connect().await?;
    let mut sent = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for number in 0..COUNT {
        ticks.tick().await;
        let id = format!("n{number}");
        append(&mut connection, &rig.aggregate, &[(id.as_str(), 1)]).await?;
        sent.insert(id, Instant::now());
        relay.wake.notify_one();
    }
    reading.await??;
    let mut micros: Vec<u128> = arrivals
        .iter()
        .map(|(id, at)| at.saturating_duration_since(sent[&id]).as_micros())
        .collect();
    micros.sort_unstable();
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let index = ((micros.len() - 1) as f64 * share) as usize;
        eprintln!("{name} {:.1} ms", micros[index] as f64 / 1000.0);
    }
    relay.stop().await??;
    Ok(())
}
