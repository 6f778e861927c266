//! The fail points that the source has, and what makes each of them fire.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tests::servers::Servers;
use tests::stock;

use super::fleet::{Ended, Member, Role};
use super::oracle::{Oracle, TOPIC, VIEWS};

/// Longest until an armed point has fired.
const FIRES_WITHIN: Duration = Duration::from_secs(90);
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
    points.sort_by_key(|point| (point.starts_with("rebuild."), point.clone()));
    points.dedup();
    Ok(points)
}

/// The role whose process a point belongs to.
pub(super) fn role(point: &str) -> Result<Role> {
    match point.split('.').next() {
        Some("journal" | "relay" | "inbox" | "timer") => Ok(Role::Producer),
        Some("sink" | "rebuild") => Ok(Role::Projections),
        _ => bail!("nobody said which role has the fail point {point}: add it to points::role"),
    }
}

/// Starts the members of one role, each armed with the next point as soon as the last one has fired, until all have.
pub(super) async fn fire_all(
    members: &mut [Member; 2],
    points: &[String],
    servers: &Servers,
    oracle: &Oracle,
) -> Result<()> {
    let mut waiting: VecDeque<String> = points.iter().cloned().collect();
    for member in members.iter_mut() {
        member.start(waiting.pop_front())?;
    }
    let mut nudged = Instant::now();
    loop {
        for member in members.iter_mut() {
            match member.ended()? {
                None => {}
                Some(Ended::Fired(point)) => {
                    println!(
                        "  {point} fired in {} after {:.1} s",
                        member.name,
                        member.since.elapsed().as_secs_f32()
                    );
                    member.start(waiting.pop_front())?;
                    nudged = Instant::now();
                }
                Some(Ended::ByItself(how)) => bail!(how),
            }
        }
        let armed: Vec<(usize, String)> = (0..2)
            .filter_map(|index| Some((index, members[index].armed.clone()?)))
            .collect();
        if armed.is_empty() {
            return Ok(());
        }
        for (index, point) in &armed {
            if members[*index].since.elapsed() > FIRES_WITHIN {
                println!("{}", oracle.state_of_views().await);
                bail!(
                    "{point} did not fire in {} within {FIRES_WITHIN:?}",
                    members[*index].name
                );
            }
        }
        if nudged.elapsed() > NUDGE_AFTER {
            for (index, point) in &armed {
                nudge(members, *index, point, servers, oracle)
                    .await
                    .with_context(|| format!("provoking {point}"))?;
            }
            nudged = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Brings about what a point stands behind, where the load alone does not.
async fn nudge(
    members: &mut [Member; 2],
    index: usize,
    point: &str,
    servers: &Servers,
    oracle: &Oracle,
) -> Result<()> {
    let other = &mut members[1 - index];
    match point {
        // The lease is the other's; a killed one leaves it to expire. One that is armed too ends by itself: if each
        // killed the other, neither would live to be the leader.
        _ if point.starts_with("relay.") => {
            if other.armed.is_none() && other.since.elapsed() > Duration::from_secs(8) {
                other.kill()?;
                other.start(None)?;
            }
            Ok(())
        }
        "sink.after-reset-recorded" => reset(servers, oracle, "orders", "--to-earliest").await,
        "sink.after-skip-recorded" => {
            reset(servers, oracle, "customer-totals", "--to-latest").await
        }
        _ if point.starts_with("sink.") => {
            // A member that was assigned nothing gets everything.
            if other.armed.is_none() && other.since.elapsed() > Duration::from_secs(8) {
                other.kill()?;
                other.start(None)?;
            }
            Ok(())
        }
        _ if point.starts_with("rebuild.") => {
            for view in VIEWS {
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
    pause(oracle, view, true).await?;
    let deadline = Instant::now() + Duration::from_secs(45);
    let done = loop {
        let tool =
            tokio::task::block_in_place(|| stock::reset_offsets(servers, &group, TOPIC, &[to]));
        match tool {
            Ok(_) => break Ok(()),
            Err(error) if Instant::now() > deadline => break Err(error),
            Err(_) => {} // it still has members
        }
    };
    pause(oracle, view, false).await?;
    done
}

async fn pause(oracle: &Oracle, view: &str, paused: bool) -> Result<()> {
    sqlx::query("UPDATE millrace_views.views SET paused = $2 WHERE name = $1")
        .bind(view)
        .bind(paused)
        .execute(&oracle.views)
        .await?;
    Ok(())
}
