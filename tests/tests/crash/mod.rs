//! The crash test: a load of commands while every process and server is killed, then an oracle's verdict.
//!
//! `MILLRACE_KILLS=N` deals N blows at random instead of 30, `MILLRACE_SEED` repeats a schedule, `MILLRACE_CRASH_DIR` keeps the
//! logs of the roles, `MILLRACE_POINTS=rebuild.` arms only the fail points of that prefix. `./dev crash` sets them. `./dev sabotage` takes one safeguard out at a time: then it must fail.

mod after;
mod dice;
mod drained;
mod facts;
mod fleet;
mod flow;
pub(crate) mod fold;
mod kills;
mod load;
pub(crate) mod oracle;
mod outside;
mod plan;
mod points;
mod run;
mod slow;
pub(crate) mod verdict;

use anyhow::Result;

use plan::Plan;
use run::Run;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_pipeline_survives_kills() -> Result<()> {
    crash(Plan::whole()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "fails on purpose: the crash test with the safeguard taken out that MILLRACE_SABOTAGE names"]
async fn sabotage() -> Result<()> {
    crash(Plan::sabotaged(&std::env::var("MILLRACE_SABOTAGE")?)?).await
}

async fn crash(plan: Plan) -> Result<()> {
    let mut run = Run::prepare(&plan).await?;
    let mut findings = run.batter().await?;
    run.drain(&mut findings).await?;
    findings.merge(run.judge(&[], 0).await?);
    findings.verdict()?;
    run.say("checks 1 to 4 and 6 to 10 hold");
    let planted = [after::plant_duplicate(&run.oracle).await?];
    run.quiesce().await?;
    run.judge(&planted, 0).await?.verdict()?;
    run.say("a duplicate in the topic changed no view");
    run.replay().await?;
    run.judge(&planted, 0).await?.verdict()?;
    run.say("check 5 holds: every view was rebuilt from the log's start and shows the same");
    run.replay_flow().await?;
    run.judge(&planted, 1).await?.verdict()?;
    run.say("processors and effect read the log again: no command took effect twice, no webhook was sent twice");
    run.lose_servers_while_idle().await?;
    run.tell().await
}
