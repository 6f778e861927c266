//! `millrace topics`: what is in Kafka.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use millrace::config::KafkaConfig;
use millrace::log::client;
use rdkafka::consumer::{BaseConsumer, Consumer};

const TIMEOUT: Duration = Duration::from_secs(10);

/// List topics with their partitions, replicas and offsets.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaConfig,
    /// Print one JSON object a topic.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let rows = tokio::task::spawn_blocking(move || read(&args.kafka)).await??;
    if !json {
        crate::output::table(&["TOPIC", "PARTITIONS", "REPLICAS", "OFFSETS"], &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    for row in rows {
        let number = |column: usize| row[column].parse::<i64>().unwrap_or_default();
        let line = serde_json::json!({"topic": row[0], "partitions": number(1), "replicas": number(2), "offsets": number(3)});
        crate::output::line(&line.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Name, partitions, replicas and offsets in use, which count transaction markers as well as records.
fn read(config: &KafkaConfig) -> anyhow::Result<Vec<Vec<String>>> {
    let asked = || format!("kafka at {}", config.kafka_bootstrap);
    let consumer: BaseConsumer = client::reader(config, "topics").create()?;
    let metadata = consumer.fetch_metadata(None, TIMEOUT).with_context(asked)?;
    let mut rows = Vec::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|topic| !topic.name().starts_with("__"))
    {
        let mut offsets = 0;
        for partition in topic.partitions() {
            let (low, high) = consumer
                .fetch_watermarks(topic.name(), partition.id(), TIMEOUT)
                .with_context(asked)?;
            offsets += high - low;
        }
        let replicas = topic
            .partitions()
            .iter()
            .map(|partition| partition.replicas().len());
        rows.push(vec![
            topic.name().to_owned(),
            topic.partitions().len().to_string(),
            replicas.min().unwrap_or(0).to_string(),
            offsets.to_string(),
        ]);
    }
    rows.sort();
    Ok(rows)
}
