//! A start that must not succeed yet, or not at all.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::servers::Server;

use super::world::{LONG, World};

const SUBJECT: &str = "order.events-commerce.OrderPlaced";

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_registry_and_refuses_a_schema_that_is_not_compatible() -> Result<()>
{
    let world = World::start()?;
    // Our file with one field more, which has no default: its readers could not read what we write.
    let mut wrong: Value = serde_json::from_str(include_str!(
        "../../../schemas/avro/commerce/OrderPlaced.v2.avsc"
    ))?;
    let fields = wrong["fields"].as_array_mut().context("no fields")?;
    fields.push(json!({"name": "warehouse", "type": "string"}));
    let answer = reqwest::Client::new()
        .post(format!(
            "{}/subjects/{SUBJECT}/versions",
            world.servers.registry()
        ))
        .json(&json!({"schema": wrong.to_string()}))
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{}", answer.text().await?);

    world.servers.kill(Server::Registry)?;
    let mut starting = world.up()?;
    let begun = Instant::now();
    while !starting.health().await.contains("registry") {
        ensure!(begun.elapsed() < LONG, "{}", starting.printed());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    world.servers.restart()?;
    let status = starting.ended().await?;
    let told = starting.printed();
    assert_eq!(status.code(), Some(1), "{told}");
    for named in [SUBJECT, "version 1", "warehouse"] {
        assert!(told.contains(named), "{named} is not named in\n{told}");
    }
    let checked = world.run(&["schemas", "check"])?;
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stderr).contains("warehouse"));
    Ok(())
}
