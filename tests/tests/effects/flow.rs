//! The plain way, failures by class, resets.

use std::time::Duration;

use anyhow::Result;
use millrace::effect::{RuleName, Start};
use tests::servers::Servers;
use tests::stock;
use tests::wait::eventually;

use super::receiver::Mode;
use super::world::{World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_called_once_in_order_and_its_outcome_comes_back_as_a_command() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    let mut ids = Vec::new();
    for guest in 0..20 {
        for hall in ["north", "south"] {
            ids.push(world.reserve(hall, &format!("g{guest}"))?);
        }
        world.release("north", "nobody")?;
    }
    let running = world.run(RuleName::SafeToRepeat, quick()).await?;
    world.until("settled", 40).await?;
    let in_order: Vec<String> = (0..20).map(|guest| format!("g{guest}")).collect();
    assert_eq!(world.receiver.posts("north"), in_order);
    assert_eq!(world.receiver.posts("south"), in_order);
    let commands = world.records(&world.commands_topic())?;
    assert_eq!(commands.len(), 40);
    let north: Vec<_> = commands.iter().filter(|one| one.key == "north").collect();
    let guests: Vec<String> = north
        .iter()
        .map(|one| String::from_utf8_lossy(&one.value).into_owned())
        .collect();
    assert_eq!(guests, in_order);
    assert_eq!(north[0].headers["ce_correlationid"], "corr-north");
    assert_eq!(north[0].headers["ce_causationid"], ids[0].to_string());
    let group = world.group();
    running.stop().await?;
    let lag: i64 = stock::describe_group(world.servers, &group)?
        .iter()
        .filter_map(|one| one.lag)
        .sum();
    assert_eq!(lag, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_set_back_by_the_stock_tool_sends_nothing_again() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    for guest in 0..10 {
        world.reserve("north", &format!("g{guest}"))?;
    }
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    world.until("settled", 10).await?;
    running.stop().await?;
    // Without the rows only the mark is left to keep it silent.
    sqlx::query("DELETE FROM millrace_effects.calls")
        .execute(&world.pool)
        .await?;
    stock::reset_offsets(
        world.servers,
        &world.group(),
        &world.topic,
        &["--to-earliest"],
    )?;
    world.reserve("north", "last")?;
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    world.until("settled", 1).await?;
    assert_eq!(world.receiver.posts("north").len(), 11);
    assert_eq!(
        world
            .count("SELECT count(*) FROM millrace_effects.resets WHERE to_offset = 0")
            .await,
        1
    );
    running.stop().await?;
    // And without the mark the rows do.
    sqlx::query(
        "UPDATE millrace_effects.checkpoints SET generation = NULL, xid = NULL, position = NULL",
    )
    .execute(&world.pool)
    .await?;
    stock::reset_offsets(
        world.servers,
        &world.group(),
        &world.topic,
        &["--shift-by", "-1"],
    )?;
    world.reserve("north", "very last")?;
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    world.until("settled", 2).await?;
    assert_eq!(world.receiver.posts("north").len(), 12);
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_starts_now_never_calls_for_what_came_before() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    for hall in ["north", "south", "east", "west"] {
        world.reserve(hall, "before")?;
    }
    let mut registration = quick();
    registration.start = Start::Now;
    let running = world
        .run(RuleName::NeverRepeat, registration.clone())
        .await?;
    let claimed = "SELECT count(*) FROM millrace_effects.checkpoints WHERE epoch > 0";
    eventually("all partitions claimed", || async {
        world.count(claimed).await == 3
    })
    .await?;
    world.reserve("north", "after")?;
    world.until("settled", 1).await?;
    running.stop().await?;
    stock::reset_offsets(
        world.servers,
        &world.group(),
        &world.topic,
        &["--to-earliest"],
    )?;
    let running = world.run(RuleName::NeverRepeat, registration).await?;
    world.reserve("south", "after")?;
    world.until("settled", 2).await?;
    for hall in ["north", "south"] {
        assert_eq!(world.receiver.posts(hall), ["after"]);
    }
    for hall in ["east", "west"] {
        assert!(world.receiver.posts(hall).is_empty());
    }
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_burns_no_attempts_and_ends_by_itself() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    world.receiver.server.go_down().await;
    world.reserve("north", "g1")?;
    world.reserve("north", "g2")?;
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    // Far more calls than attempts are allowed: none of them is counted.
    let called = "SELECT coalesce(max(calls), 0)::bigint FROM millrace_effects.calls";
    eventually("ten calls", || async { world.count(called).await >= 10 }).await?;
    let attempts = "SELECT max(attempts)::bigint FROM millrace_effects.calls";
    assert_eq!(world.count(attempts).await, 0);
    // The second waits for the first.
    assert_eq!(
        world
            .count("SELECT min(calls)::bigint FROM millrace_effects.calls")
            .await,
        0
    );
    world.receiver.server.come_back().await?;
    world.until("settled", 2).await?;
    assert_eq!(world.receiver.posts("north"), ["g1", "g2"]);
    assert!(
        world
            .records(&millrace::effect::dead_letters_topic(&world.name()))?
            .is_empty()
    );
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_becomes_a_dead_letter_and_holds_back_its_key_only() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    world.receiver.set("north", Mode::Refuses(422));
    world.receiver.set("east", Mode::Refuses(500));
    let bad = world.reserve("north", "g1")?;
    world.reserve("north", "g2")?;
    world.reserve("east", "g1")?;
    world.reserve("south", "g1")?;
    world.produce_raw("west", b"\0\0\0\x03\xe7poison")?;
    world.reserve("west", "g1")?;
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    world.until("dead", 3).await?;
    world.until("settled", 1).await?;
    assert_eq!(world.rows("pending").await, 2);
    assert_eq!(world.receiver.posts("north"), ["g1"]);
    assert_eq!(world.receiver.posts("east"), ["g1", "g1", "g1"]);
    assert_eq!(world.receiver.posts("south"), ["g1"]);
    assert!(world.receiver.posts("west").is_empty());
    let letters = world.records(&millrace::effect::dead_letters_topic(&world.name()))?;
    let of = |hall: &str| letters.iter().find(|one| one.key == hall).unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(of("north").headers["ce_id"], bad.to_string());
    assert_eq!(of("north").headers["millrace_dlq_cause"], "permanent");
    assert_eq!(of("east").headers["millrace_dlq_attempts"], "3");
    assert_eq!(of("west").value, b"\0\0\0\x03\xe7poison");
    assert_eq!(of("west").headers["millrace_dlq_cause"], "poison");
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_a_pause_gets_it() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    world.receiver.set("north", Mode::Busy(3_000));
    world.reserve("north", "g1")?;
    let running = world.run(RuleName::NeverRepeat, quick()).await?;
    let paused = "SELECT count(*) FROM millrace_effects.calls WHERE state = 'pending' AND class = 'retry_after'
                  AND attempts = 0 AND due_at > now() + interval '40 minutes'";
    eventually("paused", || async { world.count(paused).await == 1 }).await?;
    world.receiver.set("north", Mode::Well);
    sqlx::query("UPDATE millrace_effects.calls SET due_at = now()")
        .execute(&world.pool)
        .await?;
    world.until("settled", 1).await?;
    assert_eq!(world.receiver.posts("north"), ["g1", "g1"]);
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_is_settled_as_its_rule_says() -> Result<()> {
    for (rule, mode) in [
        (RuleName::SafeToRepeat, Mode::BreaksOff),
        (RuleName::AskByKey, Mode::BreaksOff),
        (RuleName::AskByKey, Mode::Slow(Duration::from_secs(60))),
        (RuleName::NeverRepeat, Mode::Slow(Duration::from_secs(60))),
    ] {
        let mut world = World::new(Servers::shared()).await?;
        world.receiver.set("north", mode);
        world.reserve("north", "g1")?;
        world.reserve("north", "g2")?;
        let mut registration = quick();
        registration.call_timeout = Duration::from_secs(3);
        let running = world.run(rule, registration).await?;
        match rule {
            RuleName::SafeToRepeat => {
                eventually("repeated", || async {
                    world.receiver.posts("north").len() > 3
                })
                .await?;
                world.receiver.set("north", Mode::Well);
                world.until("settled", 2).await?;
                // Repeats carry the same key, by which the receiver knows them.
                assert_eq!(world.receiver.carried_out().len(), 2);
                assert_eq!(world.receiver.asked(), 0);
            }
            RuleName::AskByKey => {
                world.until("settled", 2).await?;
                assert_eq!(world.receiver.posts("north"), ["g1", "g2"]);
                assert_eq!(world.receiver.asked(), 2);
            }
            RuleName::NeverRepeat => {
                world.until("uncertain", 1).await?;
                assert_eq!(world.rows("pending").await, 1);
                assert_eq!(world.receiver.posts("north"), ["g1"]);
            }
        }
        running.stop().await?;
    }
    Ok(())
}
