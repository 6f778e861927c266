//! Where a password and its hash are not.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::wait::LONGEST;

use super::{Town, ada, but};
use crate::operate::world::LONG;

const SECRET: &str = "hunter2-hunter2-hunter2";
/// As a number it is no password, and an error about it might quote it.
const NUMBER: u64 = 90_817_263_544;

/// The tables of a database that hold one of these, as text or as bytes; the one of the hashes left out.
async fn tables_with(url: &str, needles: &[&str]) -> Result<Vec<String>> {
    let mut database = PgConnection::connect(url).await?;
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND (n.nspname, c.relname) <> ('identity', 'credentials')",
    )
    .fetch_all(&mut database)
    .await?;
    let patterns: Vec<String> = needles
        .iter()
        .flat_map(|needle| [format!("%{needle}%"), format!("%{}%", hex(needle))])
        .collect();
    let mut found = Vec::new();
    for (schema, table) in tables {
        let sql = format!(
            r#"SELECT count(*) FROM "{schema}"."{table}" AS it WHERE it::text LIKE ANY ($1)"#
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(&patterns)
            .fetch_one(&mut database)
            .await?;
        if rows > 0 {
            found.push(format!("{schema}.{table}"));
        }
    }
    Ok(found)
}

fn hex(text: &str) -> String {
    let mut hex = String::new();
    for byte in text.bytes() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The topics that hold one of these, in a key, a value or a header; all topics from the first record to the last.
fn topics_with(bootstrap: &str, needles: &[&str]) -> Result<Vec<String>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "identity-secrets")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let metadata = consumer.fetch_metadata(None, LONGEST)?;
    let mut all = TopicPartitionList::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|of| !of.name().starts_with("__"))
    {
        for partition in topic.partitions() {
            all.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
        }
    }
    consumer.assign(&all)?;
    let mut open = all.count();
    let mut found = Vec::new();
    let begun = Instant::now();
    while open > 0 {
        ensure!(begun.elapsed() < LONG, "{open} partitions were not read");
        match consumer.poll(Duration::from_millis(500)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => bail!(error),
            Some(Ok(record)) => {
                let mut bytes = record.payload().unwrap_or_default().to_vec();
                bytes.extend_from_slice(record.key().unwrap_or_default());
                for header in record.headers().into_iter().flat_map(|of| of.iter()) {
                    bytes.extend_from_slice(header.value.unwrap_or_default());
                }
                if holds(&bytes, needles) {
                    found.push(record.topic().to_owned());
                }
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn holds(bytes: &[u8], needles: &[&str]) -> bool {
    let holds = |needle: &&str| {
        let needle = needle.as_bytes();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    needles.iter().any(holds)
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_password_nor_its_hash_is_in_events_topics_views_answers_or_logs() -> Result<()> {
    let town = Town::open()?;
    let mut up = town.world.up_with(&[("RUST_LOG", "debug")])?;
    up.ready().await?;
    town.register(&but(ada(), json!({"password": SECRET})))
        .await?;
    town.ended("ada", "completed").await?;

    // What goes wrong must not tell either.
    let number = NUMBER.to_string();
    for wrong in [
        json!({"password": NUMBER}),
        json!({"password": {"is": SECRET}}),
        json!({"password": [SECRET]}),
        json!({"password": SECRET, "pass": "x"}),
        json!({"password": SECRET, "registration_id": "b", "email": "no address"}),
        json!({"password": SECRET, "registration_id": "", "first_name": ""}),
    ] {
        let (status, body) = town
            .post("/identity/registrations", &but(ada(), wrong.clone()))
            .await?;
        ensure!(status == 400 || status == 422, "{wrong}: {status} {body}");
        let body = body.to_string();
        ensure!(!body.contains(SECRET) && !body.contains(&number), "{body}");
    }
    let as_command = json!({"password": SECRET});
    let (status, body) = town
        .command("registration", "c", "RegisterUser", as_command)
        .await?;
    ensure!(
        status == 400 && !body.to_string().contains(SECRET),
        "{body}"
    );
    for password in [SECRET, "hunter3-hunter3-hunter3"] {
        town.post(
            "/identity/users/ada/password-checks",
            &json!({"password": password}),
        )
        .await?;
    }

    let mut journal = PgConnection::connect(town.world.servers.database_url()).await?;
    let hash: String = sqlx::query_scalar("SELECT hash FROM identity.credentials")
        .fetch_one(&mut journal)
        .await?;
    let end = hash.rsplit('$').next().context("no PHC string")?;
    ensure!(hash.starts_with("$argon2id$") && end.len() > 40, "{hash}");
    let secrets = [SECRET, number.as_str(), end, "hunter3-hunter3-hunter3"];
    let servers = &town.world.servers;
    let urls = [servers.database_url(), servers.views_database_url()];
    for url in urls {
        assert_eq!(tables_with(url, &secrets).await?, Vec::<String>::new());
    }
    let kafka = servers.kafka();
    assert_eq!(topics_with(kafka, &secrets)?, Vec::<String>::new());
    let logs = up.printed();
    ensure!(
        logs.contains("DEBUG"),
        "the log is not the one of all details"
    );
    for secret in secrets {
        ensure!(!logs.contains(secret), "a secret is in the log");
    }
    // The search finds what is there: the address, which is in the events and not in the log.
    let address = ["ada@example.com"];
    ensure!(!logs.contains(address[0]), "an address is in the log");
    ensure!(topics_with(kafka, &address)?.contains(&"user.events".to_owned()));
    let journal = tables_with(urls[0], &address).await?;
    ensure!(
        journal.iter().any(|of| of.contains("events")),
        "{journal:?}"
    );
    let views = tables_with(urls[1], &address).await?;
    ensure!(views.contains(&"views.users".to_owned()), "{views:?}");
    up.stop().await
}
