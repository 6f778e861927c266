//! The servers that all other suites run on.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Connection, PgConnection, Row};
use tests::servers::{Server, Servers};
use tests::stock;
use tests::wait::LONGEST;

/// The topics that the broker names, asked over a connection of its own.
fn topics(servers: &Servers) -> Result<Vec<String>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers.kafka())
        .create()?;
    let metadata = consumer.fetch_metadata(None, LONGEST)?;
    ensure!(
        metadata.brokers().len() == 1,
        "{} brokers",
        metadata.brokers().len()
    );
    Ok(metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned())
        .collect())
}

async fn subjects(servers: &Servers) -> Result<Vec<String>> {
    let answer = reqwest::get(format!("{}/subjects", servers.registry())).await?;
    Ok(answer.error_for_status()?.json().await?)
}

async fn number(url: &str, sql: &'static str) -> Result<i32> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query(sql)
        .fetch_one(&mut connection)
        .await?
        .try_get(0)?)
}

async fn register(servers: &Servers, subject: &str) -> Result<()> {
    reqwest::Client::new()
        .post(format!(
            "{}/subjects/{subject}/versions",
            servers.registry()
        ))
        .json(&serde_json::json!({ "schema": r#"{"type":"record","name":"A","fields":[]}"# }))
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_test_starts_answer_and_survive_a_broker_kill() -> Result<()> {
    let servers = Servers::start()?;
    stock::create_topic(&servers, "kept", 2)?;
    register(&servers, "kept-A").await?;
    let database = servers.fresh_database("kept").await?;
    assert_eq!(number(&database, "SELECT 1").await?, 1);

    for server in [Server::Kafka, Server::Registry, Server::Postgres] {
        servers.kill(server)?;
        let answers = match server {
            Server::Kafka => TcpStream::connect(servers.kafka()).is_ok(),
            Server::Registry => subjects(&servers).await.is_ok(),
            Server::Postgres => number(&database, "SELECT 1").await.is_ok(),
        };
        assert!(!answers, "{server} answers after it was killed");
        servers
            .restart()
            .with_context(|| format!("after {server} was killed"))?;
        assert!(
            topics(&servers)?.contains(&"kept".to_owned()),
            "the topic is gone after {server} was killed"
        );
        assert_eq!(
            subjects(&servers).await?,
            ["kept-A"],
            "after {server} was killed"
        );
        assert_eq!(
            number(&database, "SELECT 1").await?,
            1,
            "after {server} was killed"
        );
    }

    let dir = servers.dir().to_owned();
    let url = servers.database_url().to_owned();
    drop(servers);
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "Postgres still runs"
    );
    Ok(())
}

#[test]
fn a_group_that_the_stock_tool_resets_reads_from_there_again() -> Result<()> {
    let servers = Servers::shared();
    stock::create_topic(servers, "reset", 1)?;
    let producer: rdkafka::producer::BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers.kafka())
        .create()?;
    for value in ["a", "b", "c"] {
        let record = rdkafka::producer::BaseRecord::to("reset")
            .key("k")
            .payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    rdkafka::producer::Producer::flush(&producer, LONGEST)?;
    assert_eq!(stock::read_topic(servers, "reset", 3, 60_000)?.len(), 3);

    let group = "tests.reset";
    stock::tool(
        servers,
        "console-consumer",
        &[
            "--topic",
            "reset",
            "--group",
            group,
            "--from-beginning",
            "--max-messages",
            "3",
            "--timeout-ms",
            "60000",
        ],
    )?;
    let read = stock::describe_group(servers, group)?;
    assert_eq!((read[0].committed, read[0].lag), (Some(3), Some(0)));
    stock::reset_offsets(servers, group, "reset", &["--to-offset", "1"])?;
    let reset = stock::describe_group(servers, group)?;
    assert_eq!(
        (reset[0].committed, reset[0].end, reset[0].lag),
        (Some(1), Some(3), Some(2))
    );
    Ok(())
}
