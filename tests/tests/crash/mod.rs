//! The crash test: a load of commands while every process and server is killed, then an oracle's verdict.
//!
//! `MILLRACE_KILLS=N` deals N blows at random instead of 30, `MILLRACE_SEED` repeats a run, `MILLRACE_CRASH_DIR` keeps the
//! logs of the roles. `MILLRACE_SABOTAGE=relay.gate cargo test -p tests crash::sabotage -- --ignored` takes
//! one safeguard out: then it must fail. `tests/sabotage.sh` does so with each of them.

mod dice;
mod fleet;
mod fold;
mod kills;
mod load;
mod oracle;
mod plan;
mod points;
mod slow;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use sqlx::Executor;
use tests::servers::{Server, Servers};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use dice::Dice;
use fleet::{Member, Role, Setting};
use kills::Storm;
use load::Load;
use oracle::{Findings, Oracle, TOPIC, VIEWS};
use plan::Plan;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_pipeline_survives_kills() -> Result<()> {
    run(Plan::whole()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "fails on purpose: the crash test with the safeguard taken out that MILLRACE_SABOTAGE names"]
async fn sabotage() -> Result<()> {
    run(Plan::sabotaged(&std::env::var("MILLRACE_SABOTAGE")?)?).await
}

async fn run(plan: Plan) -> Result<()> {
    let begun = Instant::now();
    let said = |what: &str| println!("{:6.1} s  {what}", begun.elapsed().as_secs_f32());
    println!(
        "MILLRACE_SEED={} MILLRACE_KILLS={} {:?}",
        plan.seed,
        plan.blows.len(),
        plan.failpoints
    );
    let kept = std::env::var_os("MILLRACE_CRASH_DIR");
    let temporary = tempfile::tempdir()?;
    let dir = kept
        .as_deref()
        .map_or(temporary.path(), std::path::Path::new);
    std::fs::create_dir_all(dir)?;
    let servers = tokio::task::block_in_place(Servers::start)?;
    let oracle = Oracle::new(&servers)?;
    let setting = Setting::new(&servers, dir, &plan)?;
    let member = |role, number| Member::new(&setting, role, number);
    let mut producers = [member(Role::Producer, 0)?, member(Role::Producer, 1)?];
    let mut projections = [member(Role::Projections, 0)?, member(Role::Projections, 1)?];
    let acks = dir.join("acks.ndjson");
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()?;

    // The journal and the views exist before anything is killed: what is made at the first start is not under test.
    for first in [&mut producers[0], &mut projections[0]] {
        first.start(None)?;
        first.ready(&http, Duration::from_secs(60)).await?;
        first.kill()?;
    }
    for statement in &plan.journal_sql {
        oracle
            .journal
            .execute(sqlx::AssertSqlSafe(statement.clone()))
            .await?;
    }
    said("journal, topics and views are there; the load begins");
    let urls = [producers[0].url(), producers[1].url()];
    let mut load = Load::start(urls, &acks, &plan)?;
    let slow = CancellationToken::new();
    let mut slow_writers = slow::start(servers.database_url(), plan.seed, &slow);

    let of_role = |wanted: Role| -> Result<Vec<String>> {
        let mut points = Vec::new();
        for point in &plan.points {
            if points::role(point)? == wanted {
                points.push(point.clone());
            }
        }
        Ok(points)
    };
    let (writing, reading) = (of_role(Role::Producer)?, of_role(Role::Projections)?);
    // Whatever goes wrong from here on is a finding, and the oracle still reads: its verdict says what came of it.
    let mut findings = Findings::default();
    let fired = tokio::try_join!(
        points::fire_all(&mut producers, &writing, &servers, &oracle),
        points::fire_all(&mut projections, &reading, &servers, &oracle),
    );
    if let Err(error) = fired {
        findings.add("0 every armed fail point fires", format!("{error:#}"));
    }
    // The skip that a point stands behind left this view without some events, as it was told to.
    points::ask_for_rebuild(&oracle, "customer-totals").await?;
    said(&format!(
        "fail points armed one after another: {}; now blows at random",
        plan.points.len()
    ));
    let mut storm = Storm {
        servers: &servers,
        oracle: &oracle,
        dice: Dice::new(plan.seed),
        members: producers.iter_mut().chain(&mut projections).collect(),
        stopped: Vec::new(),
    };
    if let Err(error) = storm.rage(&plan.blows, &mut load).await {
        findings.add(
            "0 the pipeline goes on after every blow",
            format!("{error:#}"),
        );
    }
    storm.until_resumed().await?;
    said("the load ends");
    slow.cancel();
    while let Some(writer) = slow_writers.join_next().await {
        writer??;
    }
    let settled = load.acks.clone();
    if let Err(error) = load.stop().await {
        findings.add("0 every command is settled", format!("{error:#}"));
    }
    said(&format!(
        "{} answers; waiting for the pipeline to drain",
        settled.settled()
    ));
    let drained_by = Instant::now() + plan.drained_within;
    let left = || drained_by.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
    for member in producers.iter_mut().chain(&mut projections) {
        if let Err(not_ready) = member.ready(&http, left()).await {
            findings.add("0 every role gets ready again", format!("{not_ready:#}"));
        }
    }
    if let Err(late) = oracle.quiesce(left()).await {
        findings.add("0 the pipeline drains", format!("{late:#}"));
    }
    said("drained; the oracle reads");
    findings.merge(oracle.judge(&acks, &[]).await?);
    findings.verdict()?;
    said("checks 1 to 4 hold");

    let planted = plant_duplicate(&oracle).await?;
    oracle.quiesce(plan.drained_within).await?;
    oracle.judge(&acks, &[planted]).await?.verdict()?;
    said("a duplicate in the topic changed no view");

    let last: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM millrace_views.resets")
        .fetch_one(&oracle.views)
        .await?;
    for view in VIEWS {
        points::reset(&servers, &oracle, view, "--to-earliest").await?;
    }
    until_rebuilt(&oracle, last.unwrap_or(0)).await?;
    oracle.quiesce(plan.drained_within).await?;
    oracle.judge(&acks, &[planted]).await?.verdict()?;
    said("check 5 holds: every view was rebuilt from the log's start and shows the same");

    for server in [Server::Kafka, Server::Postgres] {
        tokio::task::block_in_place(|| servers.kill(server))?;
        for member in &mut projections {
            member.unready(&http, plan.drained_within).await?;
        }
        tokio::task::block_in_place(|| servers.restart())?;
        for member in producers.iter_mut().chain(&mut projections) {
            member.ready(&http, plan.drained_within).await?;
        }
        said(&format!(
            "{server} was away: idle projections said so, and every role is ready again"
        ));
    }

    let mut silent = Vec::new();
    println!("{:>6}  fail point", "fired");
    for point in &plan.points {
        let fired = setting.fired(point);
        println!("{fired:>6}  {point}");
        if fired == 0 {
            silent.push(point.as_str());
        }
    }
    ensure!(silent.is_empty(), "never fired: {}", silent.join(", "));
    let events = oracle.journal().await?.len();
    said(&format!(
        "{events} events, {} blows: nothing lost, nothing twice",
        plan.blows.len()
    ));
    Ok(())
}

/// Waits until every partition that holds anything was rebuilt for a reset newer than `last`, so that a replay that
/// never began is not taken for one that changed nothing.
async fn until_rebuilt(oracle: &Oracle, last: i64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s/%s', c.view, c.partition) FROM millrace_views.checkpoints c
             WHERE c.next > 0 AND NOT EXISTS (SELECT FROM millrace_views.resets r
                 WHERE r.view = c.view AND r.topic = c.topic AND r.partition = c.partition
                   AND r.id > $1 AND r.done_at IS NOT NULL)",
        )
        .bind(last)
        .fetch_all(&oracle.views)
        .await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "not rebuilt within 120 s: {}",
            left.join(", ")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Produces an event of a draft a second time, bytes and headers as they stand in the topic.
async fn plant_duplicate(oracle: &Oracle) -> Result<Uuid> {
    let draft: Uuid = sqlx::query_scalar(
        "SELECT e.event_id FROM millrace.events e WHERE e.event_type = 'OrderItemAdded' AND NOT EXISTS
            (SELECT FROM millrace.events p WHERE p.aggregate_id = e.aggregate_id
              AND p.event_type IN ('OrderPlaced', 'OrderCancelled')) LIMIT 1",
    )
    .fetch_one(&oracle.journal)
    .await
    .context("the load left no draft with items")?;
    tokio::task::block_in_place(|| {
        let topic = oracle.topic()?;
        let record = topic.iter().find(|record| record.event_id == draft);
        let record = record.context("the draft's event is not in the topic")?;
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &oracle.kafka)
            .create::<ThreadedProducer<rdkafka::producer::DefaultProducerContext>>()?;
        let again = BaseRecord::to(TOPIC)
            .partition(record.partition)
            .key(&record.key)
            .payload(&record.payload)
            .headers(record.headers.clone());
        producer.send(again).map_err(|(error, _)| error)?;
        producer.flush(Duration::from_secs(30))?;
        Ok(draft)
    })
}
