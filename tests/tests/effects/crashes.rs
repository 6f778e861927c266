//! Processes that die or stand still at the worst moment.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use millrace::effect::ops::{self, Settlement};
use millrace::effect::{RuleName, dead_letters_topic};
use tests::servers::Servers;
use tests::stock;
use tests::wait::eventually;

use super::member::{At, Member};
use super::receiver::Mode;
use super::world::{World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_call_and_record_each_rule_does_what_it_says() -> Result<()> {
    let all = [
        RuleName::SafeToRepeat,
        RuleName::AskByKey,
        RuleName::NeverRepeat,
    ];
    try_join_all(all.map(killed_after_call)).await.map(drop)
}

async fn killed_after_call(rule: RuleName) -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    let first = world.reserve("north", "g1")?;
    world.reserve("north", "g2")?;
    let member = Member::start(&world, rule, ("effect.after-call", At::Kill))?;
    member.killed().await?;
    ensure!(world.rows("calling").await == 1, "{rule:?}: not calling");
    let running = world.run(rule, quick()).await?;
    match rule {
        RuleName::SafeToRepeat => {
            world.until("settled", 2).await?;
            assert_eq!(world.receiver.posts("north"), ["g1", "g1", "g2"]);
            // The repeat had the same key: the receiver carries it out once.
            assert_eq!(world.receiver.carried_out().len(), 2);
        }
        RuleName::AskByKey => {
            world.until("settled", 2).await?;
            assert_eq!(world.receiver.posts("north"), ["g1", "g2"]);
            assert_eq!(world.receiver.asked(), 1);
        }
        RuleName::NeverRepeat => {
            world.until("uncertain", 1).await?;
            assert_eq!(world.receiver.posts("north"), ["g1"]);
            assert_eq!(world.rows("pending").await, 1);
            let name = world.name();
            let note = (Settlement::Done, "the receiver's log has it");
            ops::settle(&world.pool, &name, first, note).await?;
            world.until("settled", 2).await?;
            assert_eq!(world.receiver.posts("north"), ["g1", "g2"]);
            assert!(ops::retry(&world.pool, &name, first).await.is_err());
        }
    }
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_call_each_rule_does_what_it_says() -> Result<()> {
    let all = [
        RuleName::SafeToRepeat,
        RuleName::AskByKey,
        RuleName::NeverRepeat,
    ];
    try_join_all(all.map(killed_before_call)).await.map(drop)
}

async fn killed_before_call(rule: RuleName) -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    let first = world.reserve("north", "g1")?;
    let member = Member::start(&world, rule, ("effect.after-calling", At::Kill))?;
    member.killed().await?;
    assert!(world.receiver.posts("north").is_empty());
    let running = world.run(rule, quick()).await?;
    if rule == RuleName::NeverRepeat {
        world.until("uncertain", 1).await?;
        assert!(world.receiver.posts("north").is_empty());
        ops::retry(&world.pool, &world.name(), first).await?;
    }
    world.until("settled", 1).await?;
    assert_eq!(world.receiver.posts("north"), ["g1"]);
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_everything_is_called_once_and_settled() -> Result<()> {
    let points = [
        "effect.after-claim",
        "effect.before-checkpoint",
        "effect.after-checkpoint",
        "effect.after-rows",
        "effect.after-commit",
        "effect.after-kafka-commit",
        "effect.before-calling",
        "effect.after-outcome",
        "effect.after-produce",
        "effect.after-settled",
        "effect.after-dead",
        "effect.after-uncertain",
        "effect.after-answer",
        "effect.after-answer-recorded",
        "effect.after-reset-recorded",
    ];
    // Each in a group of its own, some at once: a dead member holds its group up for six seconds.
    for some in points.chunks(3) {
        let some = some.iter().map(|point| async move {
            killed_at(point)
                .await
                .map_err(|error| error.context(*point))
        });
        try_join_all(some).await?;
    }
    Ok(())
}

async fn killed_at(point: &str) -> Result<()> {
    let rule = RuleName::AskByKey;
    let mut world = World::new(Servers::shared()).await?;
    world.receiver.set("dead", Mode::Refuses(410));
    let mut events = BTreeSet::new();
    for guest in ["g1", "g2", "g3"] {
        for hall in ["north", "south", "east"] {
            events.insert(world.reserve(hall, guest)?);
        }
    }
    world.reserve("dead", "g1")?;
    match point {
        "effect.after-uncertain" | "effect.after-answer" | "effect.after-answer-recorded" => {
            let before = Member::start(&world, rule, ("effect.after-call", At::Kill))?;
            before.killed().await?;
        }
        "effect.after-reset-recorded" => {
            let running = world.run(rule, quick()).await?;
            world.until("settled", 9).await?;
            world.until("dead", 1).await?;
            running.stop().await?;
            let (group, topic) = (world.group(), world.topic.clone());
            tokio::task::block_in_place(|| {
                stock::reset_offsets(world.servers, &group, &topic, &["--to-earliest"])
            })?;
        }
        _ => {}
    }
    let member = Member::start(&world, rule, (point, At::Kill))?;
    member.killed().await?;
    let running = world.run(rule, quick()).await?;
    world.until("settled", 9).await?;
    world.until("dead", 1).await?;
    for hall in ["north", "south", "east"] {
        assert_eq!(world.receiver.posts(hall), ["g1", "g2", "g3"], "{point}");
    }
    let carried_out = world.receiver.carried_out();
    assert!(carried_out.values().all(|times| *times == 1), "{point}");
    // A record may come twice, never under another id.
    let mut commands: BTreeMap<String, String> = BTreeMap::new();
    for record in world.records(&world.commands_topic())? {
        let id = record.headers["ce_id"].clone();
        commands.insert(record.headers["ce_causationid"].clone(), id);
    }
    let causes: BTreeSet<String> = events.iter().map(ToString::to_string).collect();
    assert_eq!(commands.keys().cloned().collect::<BTreeSet<_>>(), causes);
    assert_eq!(commands.values().collect::<BTreeSet<_>>().len(), 9);
    let letters = world.records(&dead_letters_topic(&world.name()))?;
    assert!((1..=2).contains(&letters.len()), "{point}: {letters:?}");
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_wakes_after_its_lease_calls_nobody() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    world.reserve("north", "g1")?;
    let rule = RuleName::AskByKey;
    // It has said that it calls, and stands still before it does.
    let zombie = Member::start(&world, rule, ("effect.after-calling", At::Stop))?;
    zombie.stopped().await?;
    assert_eq!(world.rows("calling").await, 1);
    let running = world.run(rule, quick()).await?;
    world.until("settled", 1).await?;
    assert_eq!(world.receiver.posts("north"), ["g1"]);
    zombie.wake()?;
    // Back in the group it has partitions, and nothing is called for twice.
    let owns = format!(
        "SELECT count(*) FROM millrace_effects.checkpoints WHERE claimed_by LIKE '{}/%' AND epoch > 1",
        zombie.id()
    );
    eventually("it is a member again", || async {
        world.count(&owns).await > 0
    })
    .await?;
    for hall in ["north", "south", "east", "west", "attic", "cellar"] {
        world.reserve(hall, "g2")?;
    }
    world.until("settled", 7).await?;
    assert_eq!(world.receiver.posts("north"), ["g1", "g2"]);
    assert!(
        world
            .receiver
            .carried_out()
            .values()
            .all(|times| *times == 1)
    );
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_word_of_a_stopped_member_settles_what_was_uncertain() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    world.reserve("north", "g1")?;
    let rule = RuleName::NeverRepeat;
    let late = Member::start(&world, rule, ("effect.after-call", At::Stop))?;
    late.stopped().await?;
    let running = world.run(rule, quick()).await?;
    world.until("uncertain", 1).await?;
    late.wake()?;
    world.until("settled", 1).await?;
    assert_eq!(world.receiver.posts("north"), ["g1"]);
    assert_eq!(world.records(&world.commands_topic())?.len(), 1);
    running.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_keys_and_call_for_nothing_twice() -> Result<()> {
    let mut world = World::new(Servers::shared()).await?;
    let rule = RuleName::NeverRepeat;
    let first = world.run(rule, quick()).await?;
    let halls: Vec<String> = (0..12).map(|hall| format!("hall{hall}")).collect();
    for guest in 0..10 {
        for hall in &halls {
            world.reserve(hall, &format!("g{guest}"))?;
        }
    }
    // Joins in the middle, so partitions change hands with calls under way.
    let second = world.run(rule, quick()).await?;
    for guest in 10..20 {
        for hall in &halls {
            world.reserve(hall, &format!("g{guest}"))?;
        }
    }
    let shared = "SELECT count(DISTINCT claimed_by) FROM millrace_effects.checkpoints";
    eventually("both have partitions", || async {
        world.count(shared).await == 2
    })
    .await?;
    for guest in 20..30 {
        for hall in &halls {
            world.reserve(hall, &format!("g{guest}"))?;
        }
    }
    first.stop().await?;
    world.until("settled", 360).await?;
    let in_order: Vec<String> = (0..30).map(|guest| format!("g{guest}")).collect();
    for hall in &halls {
        assert_eq!(world.receiver.posts(hall), in_order, "{hall}");
    }
    second.stop().await?;
    Ok(())
}
