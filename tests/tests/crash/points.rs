//! The fail points that the source has, and what makes each of them fire.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use tests::servers::Servers;
use tests::stock;
use uuid::Uuid;

use super::facts::EFFECT;
use super::fleet::{Ended, Member, Role};
use super::oracle::{Oracle, TOPIC, VIEWS};
use super::outside::Outside;

/// Longest until an armed point has fired. The slowest wait for a member to be thrown out of its group and to come back,
/// 10 s and more each time; five such rounds have been seen.
const FIRES_WITHIN: Duration = Duration::from_secs(240);
/// After that it is helped along, and again each time.
const NUDGE_AFTER: Duration = Duration::from_secs(4);

/// Every fail point of the library, sabotage left out, those of the rebuild last. Read from the source, so that a new one
/// cannot be forgotten.
pub(super) fn in_source() -> Result<Vec<String>> {
    let mut points = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../millrace/src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            continue;
        }
        let source = std::fs::read_to_string(&path)?;
        for call in [
            "fail_point!(",
            "fail_point(",
            "crash_point!(",
            "crash_point(",
        ] {
            for (at, _) in source.match_indices(call) {
                let name = source[at + call.len()..].trim_start().strip_prefix('"');
                let name = name.and_then(|rest| rest.split('"').next());
                points.extend(name.map(str::to_owned));
            }
        }
    }
    points.retain(|point| !point.starts_with("sabotage."));
    points.sort_by_key(|point| {
        let last = point.starts_with("rebuild.") || needs_partner(point);
        (last, point.clone())
    });
    points.dedup();
    for (point, _) in NOT_YET {
        ensure!(
            points.iter().any(|found| found == point),
            "{point} stands in NOT_YET and not in the source"
        );
    }
    points.retain(|point| NOT_YET.iter().all(|(not_yet, _)| not_yet != point));
    Ok(points)
}

/// Fail points that this test cannot provoke yet, and why; it prints them.
pub(super) const NOT_YET: [(&str, &str); 3] = [
    (
        "effect.after-answer",
        "no effect that runs here asks by key; tests::effects provokes it",
    ),
    (
        "effect.after-answer-recorded",
        "no effect that runs here asks by key; tests::effects provokes it",
    ),
    (
        "effect.after-settled",
        "no effect that runs here returns a command; tests::effects provokes it",
    ),
];

/// Keys of what the test puts into a topic of commands and is none.
pub(super) const POISON: &str = "poison-";

/// The role whose process a point belongs to.
pub(super) fn role(point: &str) -> Result<Role> {
    match point.split('.').next() {
        Some("journal" | "relay" | "inbox" | "timer") => Ok(Role::Producer),
        Some("processor" | "effect") => Ok(Role::Processors),
        Some("sink" | "rebuild") => Ok(Role::Projections),
        _ => bail!("nobody said which role has the fail point {point}: add it to points::role"),
    }
}

/// Points that only the other member can bring about, by standing still or by ending: it must not be armed itself.
fn needs_partner(point: &str) -> bool {
    ["effect.after-uncertain", "inbox.after-commit"].contains(&point)
}

/// The next point for a member; none while the partner that it needs is armed. That one takes it when its own has fired:
/// armed both, each would wait for the other.
fn next_point(waiting: &mut VecDeque<String>, partner_is_armed: bool) -> Option<String> {
    if partner_is_armed && needs_partner(waiting.front()?) {
        return None;
    }
    waiting.pop_front()
}

/// Starts the members of one role, each armed with the next point as soon as the last one has fired, until all have.
pub(super) async fn fire_all(
    members: &mut [Member; 2],
    points: &[String],
    world: &World<'_>,
) -> Result<()> {
    let mut waiting: VecDeque<String> = points.iter().cloned().collect();
    for index in 0..2 {
        let partner_is_armed = members[1 - index].armed.is_some();
        members[index].start(next_point(&mut waiting, partner_is_armed))?;
    }
    let mut nudged = Instant::now();
    loop {
        for index in 0..2 {
            let partner_is_armed = members[1 - index].armed.is_some();
            let member = &mut members[index];
            match member.ended()? {
                None => {}
                Some(Ended::Fired(point)) => {
                    println!(
                        "  {point} fired in {} after {:.1} s",
                        member.name,
                        member.since.elapsed().as_secs_f32()
                    );
                    member.start(next_point(&mut waiting, partner_is_armed))?;
                    nudged = Instant::now();
                }
                Some(Ended::ByItself(how)) => bail!(how),
            }
        }
        let armed: Vec<(usize, String)> = (0..2)
            .filter_map(|index| Some((index, members[index].armed.clone()?)))
            .collect();
        if armed.is_empty() {
            return wake(members);
        }
        for (index, point) in &armed {
            if members[*index].since.elapsed() > FIRES_WITHIN {
                println!("{}", world.oracle.state_of_views().await);
                wake(members)?;
                bail!(
                    "{point} did not fire in {} within {FIRES_WITHIN:?}",
                    members[*index].name
                );
            }
        }
        if nudged.elapsed() > NUDGE_AFTER {
            for (index, point) in &armed {
                nudge(members, *index, point, world)
                    .await
                    .with_context(|| format!("provoking {point}"))?;
            }
            nudged = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Lets those go on that a nudge had stopped.
fn wake(members: &mut [Member; 2]) -> Result<()> {
    let mut stopped = members.iter_mut().filter(|member| member.stopped);
    stopped.try_for_each(|member| member.signal("CONT"))
}

/// What a nudge works on.
pub(super) struct World<'w> {
    pub(super) servers: &'w Servers,
    pub(super) oracle: &'w Oracle,
    pub(super) outside: &'w Outside,
}

/// Brings about what a point stands behind, where the load alone does not.
async fn nudge(
    members: &mut [Member; 2],
    index: usize,
    point: &str,
    world: &World<'_>,
) -> Result<()> {
    let World {
        servers,
        oracle,
        outside,
    } = *world;
    let armed = members[index].name.clone();
    let other = &mut members[1 - index];
    let free = other.armed.is_none() && other.since.elapsed() > Duration::from_secs(8);
    match point {
        "inbox.before-dead-letter" => produce_poison(oracle),
        // As an operator asks for it who does not see that another one has done it: the key has no block.
        "processor.before-redrive" => {
            let request = json!({"id": Uuid::now_v7()}).to_string();
            let (key, topic) = ("redrive/order.events/nobody", "order-stock.blocked");
            produce(
                oracle,
                &format!("millrace.processor.{topic}"),
                key,
                request.as_bytes(),
            )
        }
        // Another process of the same name fences its producer.
        "processor.after-rebuild" => tokio::task::block_in_place(|| {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", &oracle.kafka)
                .set(
                    "transactional.id",
                    format!("millrace.processor.order-stock.{armed}"),
                )
                .create()?;
            Ok(producer.init_transactions(Duration::from_secs(10))?)
        }),
        "effect.after-produce" | "effect.after-dead" => {
            outside.refuse_next();
            Ok(())
        }
        "effect.after-reset-recorded" => reset_effect(servers, oracle).await,
        // A member that stands still in a call loses its partitions, and whoever gets them finds the call in doubt. It may
        // have been in none: it goes on then, and is stopped once more.
        "effect.after-uncertain" => {
            let long_ago = other.signalled.elapsed() > Duration::from_secs(20);
            if other.stopped && long_ago {
                other.signal("CONT")?;
            } else if free && !other.stopped {
                outside.hold(true);
                tokio::time::sleep(Duration::from_secs(1)).await;
                other.signal("STOP")?;
                outside.hold(false);
            }
            Ok(())
        }
        // The client tells of no asynchronous commit; one that is waited for comes when partitions are given up, so to a member
        // that stood still until it had lost all of its own. There must be something to commit at that moment, which
        // 100 ms earlier was not there.
        "inbox.after-commit" => {
            let long_ago = other.signalled.elapsed() > Duration::from_secs(10);
            match other.stopped {
                true if long_ago => {
                    other.signal("CONT")?;
                    keep_inbox_busy(oracle).await
                }
                false if long_ago && free => other.signal("STOP"),
                _ => Ok(()),
            }
        }
        // The lease is the other's; a killed one leaves it to expire. One that is armed too ends by itself: if each
        // killed the other, neither would live to be the leader.
        _ if point.starts_with("relay.") => {
            if free {
                other.kill()?;
                other.start(None)?;
            }
            Ok(())
        }
        "sink.after-reset-recorded" => reset(servers, oracle, "orders", "--to-earliest").await,
        "sink.after-skip-recorded" => {
            reset(servers, oracle, "customer-totals", "--to-latest").await
        }
        _ if ["sink.", "processor.", "effect.", "inbox."]
            .iter()
            .any(|kind| point.starts_with(kind)) =>
        {
            // A member that was assigned nothing gets everything.
            if free {
                other.kill()?;
                other.start(None)?;
            }
            Ok(())
        }
        _ if point.starts_with("rebuild.") => {
            for (view, _) in VIEWS {
                ask_for_rebuild(oracle, view).await?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Rebuilds the view that was set forward, as its operator would once the skip is through: a member that dies in the middle
/// leaves partitions whose skip is still to be read from Kafka, and a rebuild before that would not cover it.
pub(super) async fn heal_skip(oracle: &Oracle) -> Result<()> {
    let deadline = Instant::now() + FIRES_WITHIN;
    loop {
        let unseen = tokio::task::block_in_place(|| unseen_resets(oracle, "customer-totals"))?;
        if unseen == 0 {
            return ask_for_rebuild(oracle, "customer-totals").await;
        }
        if Instant::now() > deadline {
            bail!(
                "{unseen} partitions still stand where the stock tool set them after {FIRES_WITHIN:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Partitions whose committed offset has no metadata: it is the stock tool's, and the sink has not seen it.
fn unseen_resets(oracle: &Oracle, view: &str) -> Result<usize> {
    let wait = Duration::from_secs(30);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &oracle.kafka)
        .set("group.id", format!("millrace.view.{view}"))
        .create()?;
    let metadata = consumer.fetch_metadata(Some(TOPIC), wait)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition(TOPIC, partition.id());
    }
    let committed = consumer.committed_offsets(list, wait)?;
    let by_tool = |element: &&TopicPartitionListElem<'_>| {
        matches!(element.offset(), Offset::Offset(_)) && element.metadata().is_empty()
    };
    Ok(committed.elements().iter().filter(by_tool).count())
}

/// As `millrace rebuild VIEW` does, unless one was asked for that has not begun: it will cover this one too.
async fn ask_for_rebuild(oracle: &Oracle, view: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO millrace_views.resets (view, topic, partition, target, next)
         SELECT view, topic, partition, 0, next FROM millrace_views.checkpoints
         WHERE view = $1 AND NOT EXISTS
             (SELECT FROM millrace_views.resets WHERE view = $1 AND done_at IS NULL AND build IS NULL)",
    )
    .bind(view)
    .execute(&oracle.views)
    .await?;
    Ok(())
}

/// Pauses a view, sets its group with the stock tool once the group is empty, and resumes it.
pub(super) async fn reset(servers: &Servers, oracle: &Oracle, view: &str, to: &str) -> Result<()> {
    let group = format!("millrace.view.{view}");
    let topics = VIEWS.iter().find(|(name, _)| *name == view);
    let topics = topics.context("no such view")?.1;
    pause(oracle, "millrace_views.views", view, true).await?;
    let mut done = Ok(());
    for topic in topics {
        done = done.and(set_group(servers, &group, topic, to));
    }
    pause(oracle, "millrace_views.views", view, false).await?;
    done
}

/// The same for the effect, back to the log's start.
async fn reset_effect(servers: &Servers, oracle: &Oracle) -> Result<()> {
    let group = format!("millrace.effect.{EFFECT}");
    pause(oracle, "millrace_effects.effects", EFFECT, true).await?;
    let done = set_group(servers, &group, TOPIC, "--to-earliest");
    pause(oracle, "millrace_effects.effects", EFFECT, false).await?;
    done
}

/// Sets a group with the stock tool, as soon as it has no members.
pub(super) fn set_group(servers: &Servers, group: &str, topic: &str, to: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        match tokio::task::block_in_place(|| stock::reset_offsets(servers, group, topic, &[to])) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {} // it still has members
        }
    }
}

async fn pause(oracle: &Oracle, table: &str, name: &str, paused: bool) -> Result<()> {
    let update = format!("UPDATE {table} SET paused = $2 WHERE name = $1");
    sqlx::query(sqlx::AssertSqlSafe(update))
        .bind(name)
        .bind(paused)
        .execute(&oracle.views)
        .await?;
    Ok(())
}

/// Something to answer in every partition, all the time that a member takes to come back to its group.
async fn keep_inbox_busy(oracle: &Oracle) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        produce_poison(oracle)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn produce_poison(oracle: &Oracle) -> Result<()> {
    let key = format!("{POISON}{}", Uuid::now_v7());
    produce(oracle, "order.commands", &key, b"no command")
}

/// Puts a record into every partition of a topic.
fn produce(oracle: &Oracle, topic: &str, key: &str, payload: &[u8]) -> Result<()> {
    tokio::task::block_in_place(|| {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &oracle.kafka)
            .create()?;
        let wait = Duration::from_secs(30);
        let metadata = producer.client().fetch_metadata(Some(topic), wait)?;
        for partition in metadata.topics()[0].partitions() {
            let record = BaseRecord::to(topic)
                .partition(partition.id())
                .key(key)
                .payload(payload);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(wait)?)
    })
}
