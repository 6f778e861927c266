//! A server that is away is waited for.

use anyhow::{Result, ensure};
use millrace::codec::{frame, unframe};
use millrace::command::inbox::{CommandOutcome, InboxOptions};
use millrace::log::headers;
use serde_json::json;
use std::time::{Duration, Instant};
use tests::hall::ReserveSeat;
use tests::servers::{Server, Servers};

use super::rig::{DEADLINE, LETTERS, Rig, unique};

fn reserve(guest: usize) -> ReserveSeat {
    ReserveSeat {
        guest: format!("g{guest}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_journal_and_registry_and_none_is_lost_or_becomes_a_letter() -> Result<()>
{
    let servers = Servers::start()?;
    let rig = Rig::on(&servers, "inbox_away").await?;
    // Another text of the same schema: an id that nobody here has met.
    let schema = json!({"type": "record", "name": "ReserveSeat", "namespace": "venue", "doc": "Met later.",
        "fields": [{"name": "guest", "type": "string"}]});
    let registered: serde_json::Value = reqwest::Client::new()
        .post(format!(
            "{}/subjects/hall.commands-venue.ReserveSeat/versions",
            servers.registry()
        ))
        .json(&json!({"schema": schema.to_string()}))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let unmet = registered["id"].as_u64().unwrap() as u32;
    let member = rig.member(InboxOptions::default()).await?;
    until(&rig, true).await?;
    // The registry keeps its schemas in the same Postgres; both are away at once, then only the registry.
    tokio::task::block_in_place(|| servers.kill(Server::Registry))?;
    tokio::task::block_in_place(|| servers.kill(Server::Postgres))?;
    let hall = unique("h");
    let ids: Vec<String> = (0..40).map(|_| unique("c")).collect();
    for (guest, id) in ids.iter().enumerate() {
        let (schema_id, payload) = rig.registry.codec().encode_command(&reserve(guest))?;
        let (_, body) = unframe(&payload)?;
        let id_to_use = if guest == 20 { unmet } else { schema_id };
        rig.send_raw(&hall, &frame(id_to_use, body), &[(headers::ID, id)])?;
    }
    rig.flush()?;
    until(&rig, false).await?;
    assert!(
        rig.committed()?.values().all(|(next, _)| *next == 0),
        "nothing was answered, so nothing is committed"
    );
    tokio::task::block_in_place(|| servers.restart())?;
    let replies = rig.replies(&ids, 1)?;
    for all in replies.values() {
        assert_eq!(all[0].1.outcome, CommandOutcome::Accepted);
    }
    let wanted: Vec<String> = (0..40).map(|guest| format!("g{guest}")).collect();
    assert_eq!(rig.guests(&hall).await?, wanted);
    rig.until_committed().await?;
    until(&rig, true).await?;

    // Kafka away: what is under way is answered when it is back.
    tokio::task::block_in_place(|| servers.kill(Server::Kafka))?;
    until(&rig, false).await?;
    tokio::task::block_in_place(|| servers.restart())?;
    let (other, id) = (unique("h"), unique("c"));
    rig.send(&other, &id, &reserve(0))?;
    rig.flush()?;
    rig.replies(std::slice::from_ref(&id), 1)?;
    assert_eq!(rig.guests(&other).await?, ["g0"]);
    until(&rig, true).await?;
    let ends = tests::stock::tool(&servers, "get-offsets", &["--topic", LETTERS])?;
    assert!(ends.lines().all(|line| line.ends_with(":0")), "{ends}");
    member.stop().await
}

/// Waits until the inbox says that it is ready, or that it is not.
async fn until(rig: &Rig<'_>, ready: bool) -> Result<()> {
    let begun = Instant::now();
    while rig.health.is_ready() != ready {
        ensure!(begun.elapsed() < DEADLINE, "ready {ready} was expected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
