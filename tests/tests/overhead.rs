//! What the metrics cost: commands in process with and without a recorder, in turns. Run it alone, on a machine that does
//! nothing else: `cargo test --release -p tests -- --ignored overhead --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use chrono::Utc;
use futures::future::try_join_all;
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace::command::{AggregateType, CommandData, CommandId, Commands, Envelope, WriteConfig};
use millrace::config::{JournalConfig, Registration, RegistryConfig, Secret};
use millrace::journal::Journal;
use millrace::registry::{Registry, SchemaSet};
use tests::hall::{Hall, HallEvent};
use tests::servers::Servers;
use tokio::sync::Notify;

const CALLERS: usize = 64;
const COMMANDS: usize = 300;
const ROUNDS: usize = 9;

/// Durable commands a second.
async fn pace(commands: &Commands, round: usize) -> Result<f64> {
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|caller| async move {
        for n in 0..COMMANDS {
            let envelope = Envelope {
                aggregate_id: format!("{round}-{caller}-{n}"),
                command_type: "ReserveSeat".to_owned(),
                data: CommandData::Json(r#"{"guest":"ada"}"#.to_owned()),
                id: CommandId::made(),
                expected_version: None,
                correlation_id: None,
                tenant_id: None,
                traceparent: None,
                now: Utc::now(),
            };
            commands.node("hall")?.handle(envelope).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(callers).await?;
    Ok((CALLERS * COMMANDS) as f64 / begun.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn what_the_metrics_cost_a_command() -> Result<()> {
    let servers = Servers::shared();
    let database = JournalConfig {
        database_url: Secret::from(servers.fresh_database("overhead").await?.as_str()),
    };
    let journal = Journal::open(&database, &["hall"]).await?;
    let registry = RegistryConfig {
        schema_registry_url: servers.registry().to_owned(),
        schema_registration: Registration::Register,
    };
    let kept = Some(journal.pool().clone());
    let registry = Registry::open(&registry, vec![SchemaSet::of::<HallEvent>()], kept).await?;
    let start = || {
        Commands::start(
            &[AggregateType::of::<Hall>()],
            journal.clone(),
            registry.clone(),
            WriteConfig::default(),
            12,
            Arc::new(Notify::new()),
        )
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.01, 0.1, 1.0])?
        .build_recorder();
    let without = start();
    let with = metrics::with_local_recorder(&recorder, start);
    let mut paces = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        let side = [&without, &with][round % 2];
        let pace = pace(side, round).await?;
        recorder.handle().run_upkeep();
        // The first of each warms up.
        if round > 1 {
            paces[round % 2].push(pace);
        }
    }
    let counted = format!("{}", ROUNDS * CALLERS * COMMANDS);
    let rendered = recorder.handle().render();
    assert!(
        rendered.contains(&counted),
        "nothing was counted:\n{rendered}"
    );
    for (name, mut paces) in ["without", "with"].into_iter().zip(paces) {
        paces.sort_by(f64::total_cmp);
        println!(
            "{name} metrics: {:.0} commands/s at {CALLERS} callers (median of {}, {:.0} to {:.0})",
            paces[paces.len() / 2],
            paces.len(),
            paces[0],
            paces[paces.len() - 1]
        );
    }
    Ok(())
}
