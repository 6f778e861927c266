//! The tools that ship with Kafka, run as a user runs them: a group that they show or reset is one that works with everybody's tools.
//! Each call starts a JVM, about a second and a half.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::servers::{Servers, dev};

/// Runs a stock tool, such as `console-consumer`, on the broker of `servers` and returns what it printed to stdout. Blocks.
///
/// # Errors
/// When the tool exits with another code than 0, with what it printed.
pub fn tool(servers: &Servers, name: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(dev())
        .args(["kafka", name])
        .args(args)
        .env("KAFKA_BOOTSTRAP", servers.kafka())
        .output()
        .with_context(|| format!("./dev kafka {name} cannot be run"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{name} {}: {}\n{stdout}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}

/// Creates a topic.
///
/// # Errors
/// As [`tool`]; also when the topic exists.
pub fn create_topic(servers: &Servers, topic: &str, partitions: u32) -> Result<()> {
    tool(
        servers,
        "topics",
        &[
            "--create",
            "--topic",
            topic,
            "--partitions",
            &partitions.to_string(),
        ],
    )
    .map(drop)
}

/// The first `count` records of a topic, read committed, one a line: headers, key and value separated by tabs.
///
/// # Errors
/// As [`tool`]; also when they have not come within `timeout_ms` of silence.
pub fn read_topic(
    servers: &Servers,
    topic: &str,
    count: usize,
    timeout_ms: u32,
) -> Result<Vec<String>> {
    let (count_arg, timeout) = (count.to_string(), timeout_ms.to_string());
    let printed = tool(
        servers,
        "console-consumer",
        &[
            "--topic",
            topic,
            "--from-beginning",
            "--max-messages",
            &count_arg,
            "--timeout-ms",
            &timeout,
            "--isolation-level",
            "read_committed",
            "--formatter-property",
            "print.key=true",
            "--formatter-property",
            "print.headers=true",
        ],
    )?;
    let lines: Vec<String> = printed.lines().map(str::to_owned).collect();
    if lines.len() < count {
        bail!(
            "{topic} gave {} of {count} records before {timeout_ms} ms of silence",
            lines.len()
        );
    }
    Ok(lines)
}

/// Where a partition of a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The committed offset, if there is one.
    pub committed: Option<i64>,
    /// The topic's end, as the tool sees it.
    pub end: Option<i64>,
    /// End minus committed.
    pub lag: Option<i64>,
}

/// What `kafka-consumer-groups --describe` says of a group, by topic and partition.
///
/// # Errors
/// As [`tool`]; a group that does not exist is an empty list or an error, as the tool has it.
pub fn describe_group(servers: &Servers, group: &str) -> Result<Vec<GroupOffset>> {
    let printed = tool(
        servers,
        "consumer-groups",
        &["--describe", "--group", group],
    )?;
    let mut offsets: Vec<GroupOffset> = printed
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, topic, partition, committed, end, lag, ..] = words[..] else {
                return None;
            };
            (name == group).then(|| GroupOffset {
                topic: topic.to_owned(),
                partition: partition.parse().unwrap_or(-1),
                committed: committed.parse().ok(),
                end: end.parse().ok(),
                lag: lag.parse().ok(),
            })
        })
        .collect();
    offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(offsets)
}

/// Sets a group's offsets of a topic with `--reset-offsets … --execute`; `to` is the tool's own words, as `&["--to-earliest"]`.
///
/// # Errors
/// As [`tool`]; also when the group still has members.
pub fn reset_offsets(servers: &Servers, group: &str, topic: &str, to: &[&str]) -> Result<String> {
    let mut args = vec![
        "--group",
        group,
        "--topic",
        topic,
        "--reset-offsets",
        "--execute",
    ];
    args.extend(to);
    let printed = tool(servers, "consumer-groups", &args)?;
    // The tool says that the group is active, resets nothing, and exits with 0.
    if printed.contains("Error:") {
        bail!("{group} was not reset:\n{printed}");
    }
    Ok(printed)
}
