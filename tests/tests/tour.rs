//! The tour in `docs/tour.md`: its commands are run as they stand there, on servers of the test's own, and what they print is what the
//! document shows, but for ids, times and places. `MILLRACE_WRITE_TOUR=1` writes what they print into the document instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex_lite::Regex;
use serde_json::Value;

use crate::operate::world::{LONG, World};

/// Stands before the output of a command, and between it and the command's exit code; no tool prints it.
const MARK: char = '\u{1e}';

/// What a command may show another time, and what stands for it. In this order: a time holds what looks like a position.
const PLACEHOLDERS: [(&str, &str); 6] = [
    (
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "<uuid>",
    ),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b\d{4}-\d\d-\d\d\b", "<day>"),
    (r"\b\d+:\d+:\d+\b", "<position>"),
    (r"\b00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b", "<trace>"),
    // Columns are as wide as what stood in them.
    (r"(<\w+>) +", "$1  "),
];

const PARTITIONS: i64 = 12;

/// A part of the document.
enum Part {
    /// A line that is no command and no output.
    Text(String),
    /// A command, and what it printed.
    Run { command: String, printed: String },
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tour.md")
}

/// In a block of `console`, `$ ` begins a command, `> ` goes on with it, and the rest is what it printed.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut in_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_console = line == "```console";
        } else if in_console {
            match (line.strip_prefix("$ "), parts.last_mut()) {
                (Some(begins), _) => {
                    parts.push(Part::Run {
                        command: begins.to_owned(),
                        printed: String::new(),
                    });
                    continue;
                }
                (None, Some(Part::Run { command, printed })) => {
                    match line.strip_prefix("> ") {
                        Some(goes_on) if printed.is_empty() => {
                            command.push('\n');
                            command.push_str(goes_on);
                        }
                        _ => {
                            printed.push_str(line);
                            printed.push('\n');
                        }
                    }
                    continue;
                }
                (None, _) => {}
            }
        }
        parts.push(Part::Text(line.to_owned()));
    }
    parts
}

fn written(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(line) => text.push_str(&format!("{line}\n")),
            Part::Run { command, printed } => {
                let command = command.replace('\n', "\n> ");
                text.push_str(&format!("$ {command}\n{printed}"));
            }
        }
    }
    text
}

fn with_placeholders(printed: &str) -> String {
    let mut text = printed.to_owned();
    for (pattern, placeholder) in PLACEHOLDERS {
        let pattern = Regex::new(pattern).unwrap();
        text = pattern.replace_all(&text, placeholder).into_owned();
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What each command printed, in one shell, at the root of the checkout.
fn run(world: &World, commands: &[&str]) -> Result<Vec<String>> {
    let mut script = String::new();
    for command in commands {
        script.push_str(&format!(
            "printf '\\036'\n{{ {command}\n}} 2>&1 </dev/null\nprintf '\\036%s' $?\n"
        ));
    }
    let file = world.dir.path().join("tour.sh");
    std::fs::write(&file, script)?;
    // The shell ends with the test, and a command that hangs ends both.
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "timeout", "1500", "bash"])
        .arg(&file)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("PATH", world.path_with_program()?)
        .env("MILLRACE_URL", &world.url)
        .env("KAFKA_BOOTSTRAP", world.servers.kafka())
        .env("SCHEMA_REGISTRY_URL", world.servers.registry())
        .env("DATABASE_URL", world.servers.database_url())
        .env("VIEWS_DATABASE_URL", world.servers.views_database_url())
        .env("TMPDIR", world.dir.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut pieces = printed.split(MARK).skip(1);
    let mut all = Vec::new();
    for command in commands {
        let printed = pieces.next();
        let status = pieces.next();
        match (printed, status) {
            (Some(printed), Some("0")) => all.push(with_placeholders(printed)),
            (printed, status) => bail!(
                "{command}\nended with {status:?} and printed\n{}\n{}",
                printed.unwrap_or_default(),
                world.logs()
            ),
        }
    }
    Ok(all)
}

/// All three effects tell of what happens from when they first hold their partitions, and a processor that holds none yet is in no
/// count of what is left.
async fn handlers_hold_their_partitions(world: &World) -> Result<()> {
    let held = "SELECT count(*) FROM millrace_effects.checkpoints WHERE epoch > 0";
    world.until_number(held, 3 * PARTITIONS).await?;
    let begun = Instant::now();
    loop {
        let answer = reqwest::get(format!("{}/status/processors", world.url)).await?;
        let processors: Vec<Value> = answer.json().await?;
        let holds = |one: &Value| one["partitions"].as_i64() >= Some(PARTITIONS);
        if processors.iter().all(holds) {
            return Ok(());
        }
        ensure!(begun.elapsed() < LONG, "{processors:#?}\n{}", world.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_shows_what_its_commands_print() -> Result<()> {
    let text = std::fs::read_to_string(document())?;
    let mut parts = parts(&text);
    assert_eq!(written(&parts), text, "the document reads back as it is");
    let world = World::start()?;
    let mut up = world.up_with(&[
        // As `./dev up` does it: partitions stand in what is printed.
        ("TOPIC_PARTITIONS", "12"),
        ("EMAIL_ADAPTER", "log"),
        ("SMS_ADAPTER", "log"),
        ("PAYMENT_GATEWAY_URL", "in-house"),
    ])?;
    up.ready().await?;
    handlers_hold_their_partitions(&world).await?;
    let commands: Vec<&str> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Run { command, .. } => Some(command.as_str()),
            Part::Text(_) => None,
        })
        .collect();
    let found = run(&world, &commands)?;
    let mut found = found.into_iter();
    let mut stale = Vec::new();
    for part in &mut parts {
        if let Part::Run { command, printed } = part {
            let found = found.next().context("a command was not run")?;
            if found != *printed {
                stale.push(format!("$ {command}\nshown:\n{printed}found:\n{found}"));
                *printed = found;
            }
        }
    }
    let now = written(&parts);
    if std::env::var_os("MILLRACE_WRITE_TOUR").is_some() {
        std::fs::write(document(), &now)?;
    } else {
        ensure!(
            stale.is_empty(),
            "docs/tour.md is stale; MILLRACE_WRITE_TOUR=1 writes it anew:\n{}",
            stale.join("\n")
        );
    }
    every_event_topic_is_read(&world, &now)?;
    up.stop().await
}

/// Below the name of each topic that exists stands a record, with its key and headers, or that there is none.
fn every_event_topic_is_read(world: &World, text: &str) -> Result<()> {
    let topics = tests::stock::tool(&world.servers, "topics", &["--list"])?;
    // What the consumer of all the rest is told to read; what begins with two underscores is Kafka's own.
    let rest = text.lines().find_map(|line| {
        let (_, pattern) = line.split_once("--include '")?;
        Regex::new(&format!("^(?:{})$", pattern.split_once('\'')?.0)).ok()
    });
    let rest = rest.context("no topics are read by a pattern")?;
    let (events, others): (Vec<&str>, Vec<&str>) = topics
        .lines()
        .filter(|topic| !topic.starts_with("__"))
        .partition(|topic| topic.ends_with(".events") || topic.ends_with(".published"));
    for topic in others {
        ensure!(rest.is_match(topic), "{topic} is not read");
    }
    let mut below: BTreeMap<&str, &str> = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        if let Some((topic, count)) = pair[0].split_once(": ")
            && ["all its records", "no records"].contains(&count)
        {
            below.insert(topic, pair[1]);
        }
    }
    let mut read = 0;
    for topic in events {
        let record = below
            .get(topic)
            .with_context(|| format!("{topic} is not read"))?;
        let named = record.starts_with("ce_specversion:1.0,ce_id:")
            && record.contains(",ce_type:")
            && record.split('\t').nth(1).is_some_and(|key| !key.is_empty());
        ensure!(named || *record == "(empty)", "{topic}: {record}");
        read += 1;
    }
    ensure!(read >= 16, "only {read} topics exist");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_story_that_a_flow_does_not_go_on_with_says_what_is_missing_and_goes_on_from_there()
-> Result<()> {
    let world = World::start()?;
    // Nobody charges: the story can come as far as its first payment.
    let mut up = world.up_with(&[("EMAIL_ADAPTER", "log")])?;
    up.ready().await?;
    let http = reqwest::Client::new();
    let begun = Instant::now();
    let problem = loop {
        let answer = http
            .post(format!("{}/events/demo?timeout_ms=1000", world.url))
            .header("idempotency-key", "unpaid")
            .send()
            .await?;
        ensure!(answer.status() == 504, "{}", answer.text().await?);
        let problem: Value = answer.json().await?;
        ensure!(problem["type"] == "story-stopped", "{problem}");
        if problem["domain"] == "commerce" {
            break problem;
        }
        ensure!(begun.elapsed() < LONG, "{problem}\n{}", world.logs());
    };
    assert_eq!(problem["missing"], "PaymentReceived", "{problem:#}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("PAYMENT_GATEWAY_URL"), "{detail}");
    // However often it was told, each command was taken once, and all of it has one correlation id.
    let twice = "SELECT count(*) FROM (SELECT aggregate, aggregate_id FROM views.event_log
        WHERE event_type IN ('OrderPlaced', 'CardAddedToLibrary', 'RegistrationStarted')
        GROUP BY 1, 2 HAVING count(*) > 1) AS repeated";
    world
        .until_number(
            "SELECT count(*) FROM views.event_log WHERE event_type = 'OrderPlaced'",
            1,
        )
        .await?;
    assert_eq!(world.number(twice).await?, 0);
    let others =
        "SELECT count(*) FROM views.event_log WHERE correlation_id IS DISTINCT FROM 'demo-unpaid'";
    assert_eq!(world.number(others).await?, 0);
    up.stop().await
}
