//! Ours beside the raw ceiling, on servers that the bench starts for itself.
//!
//! ```text
//! cargo run --release -p bench                      all measures, three runs each
//! cargo run --release -p bench -- --quick           one short run each
//! cargo run --release -p bench -- --only relay      those whose name begins so; may be repeated
//! cargo run --release -p bench -- --json FILE       the figures also as JSON
//! ```
//! The roles' settings are their defaults, or what the environment says: `JOURNAL_WRITERS=2 cargo run --release -p bench -- --only commands`.
//! Each run counts afterwards what was written, in Postgres or in Kafka, and fails where a number is not what it must be.

mod cpu;
mod figure;
mod filled;
mod http;
mod load;
mod measures;
mod orders;
mod raw;
mod role;
mod world;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::figure::{Figure, Row, table};
use crate::measures::{ALL, Measure};
use crate::world::{Scale, World};

/// Largest allocation that a decoded value may ask for, as in the `millrace` command.
const DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Measures Millrace beside what its servers do without it.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// One short run of each measure: shows that all of it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Only measures whose name begins with this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Runs of each measure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Writes the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table to this file as Markdown.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    apache_avro::util::max_allocation_bytes(DECODE_BYTES_MAX);
    let args = Args::parse();
    let chosen: Vec<&Measure> = ALL.iter().filter(|one| args.selects(one.name)).collect();
    ensure!(
        !chosen.is_empty(),
        "--only selects nothing; there are: {}",
        ALL.iter()
            .map(|one| one.name)
            .collect::<Vec<_>>()
            .join(", ")
    );
    let (scale, runs) = match args.quick {
        true => (Scale::quick(), 1),
        false => (Scale::full(), args.runs),
    };
    eprintln!("load average before: {}", load_average());
    let world = World::start(scale).await?;
    let mut figures: Vec<Figure> = Vec::new();
    let mut failures: Vec<String> = Vec::new();
    for measure in chosen {
        eprintln!("{}: {}", measure.name, measure.about);
        for run in 1..=runs {
            match (measure.run)(&world).await {
                Ok(found) => {
                    for figure in &found {
                        eprintln!("  {run}/{runs} {figure}");
                    }
                    figures.extend(found);
                }
                // The others go on: a run of all of them takes minutes.
                Err(error) => {
                    let failure = format!("{}, run {run}: {error:#}", measure.name);
                    eprintln!("  {failure}");
                    failures.push(failure);
                }
            }
        }
    }
    let rows = Row::all(&figures);
    let conditions = format!(
        "{} runs each, load average {} afterwards\n\n",
        runs,
        load_average()
    );
    let text = conditions + &table(&rows);
    println!("{text}");
    if let Some(path) = args.table {
        fs::write(&path, &text).with_context(|| format!("{} not written", path.display()))?;
    }
    if let Some(path) = args.json {
        let json = serde_json::to_string_pretty(&rows)?;
        fs::write(&path, json).with_context(|| format!("{} not written", path.display()))?;
    }
    ensure!(failures.is_empty(), "failed: {}", failures.join("; "));
    Ok(())
}

impl Args {
    fn selects(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

/// Whoever else uses the machine makes the figures worse: they say so themselves.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}
