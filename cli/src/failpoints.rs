//! Fail points, armed from the environment: only in builds with the feature `failpoints`, for the crash test.
//!
//! `MILLRACE_FAILPOINTS="relay.after-commit=kill;sabotage.relay.gate=return"`. `kill` writes the point's name and the
//! process id to the file `MILLRACE_FAILPOINT_LOG`, then ends the process as SIGKILL would; `kill*3` does so at the third
//! hit. Anything else is an action of the `fail` crate.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, id};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};

/// Arms what the environment says; returns how many points there are.
pub(crate) fn arm() -> anyhow::Result<usize> {
    let Ok(points) = std::env::var("MILLRACE_FAILPOINTS") else {
        return Ok(0);
    };
    let points: Vec<&str> = points
        .split(';')
        .filter(|point| !point.is_empty())
        .collect();
    for point in &points {
        let (name, action) = point
            .split_once('=')
            .with_context(|| format!("MILLRACE_FAILPOINTS: {point} has no '='"))?;
        match action.strip_prefix("kill") {
            Some(hit) => {
                let hit = match hit.strip_prefix('*') {
                    Some(number) => number.parse().context("MILLRACE_FAILPOINTS: kill*N")?,
                    None => 1,
                };
                kill_at(name.to_owned(), hit)?;
            }
            None => {
                fail::cfg(name, action).map_err(|error| anyhow!("fail point {name}: {error}"))?
            }
        }
    }
    Ok(points.len())
}

fn kill_at(name: String, hit: u64) -> anyhow::Result<()> {
    let hits = AtomicU64::new(0);
    let point = name.clone();
    fail::cfg_callback(name, move || {
        if hits.fetch_add(1, Ordering::SeqCst) + 1 == hit {
            record(&point);
            die();
        }
    })
    .map_err(|error| anyhow!("fail point: {error}"))
}

/// On disk before the process ends, so that the crash test can count it.
fn record(point: &str) {
    let Some(path) = std::env::var_os("MILLRACE_FAILPOINT_LOG") else {
        return;
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut log| {
            writeln!(log, "{point} {}", id())?;
            log.sync_all()
        });
    if let Err(error) = written {
        tracing::error!(%error, point, "a fail point fired and could not be recorded");
    }
}

/// SIGKILL to ourselves: nothing of this process runs on, no destructor, no flush.
fn die() {
    let _ = Command::new("kill")
        .args(["-9", &id().to_string()])
        .status();
    // Should `kill` be missing, ending by abort is the nearest thing.
    std::process::abort();
}
