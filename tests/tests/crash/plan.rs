//! What a run of the crash test does.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::dice::Dice;
use super::kills::{self, Blow};
use super::points;

pub(super) struct Plan {
    pub(super) seed: u64,
    /// Set in every process, as in MILLRACE_FAILPOINTS.
    pub(super) failpoints: String,
    /// Points to fire once each, in this order by role.
    pub(super) points: Vec<String>,
    /// At which hit a point fires.
    pub(super) hit: u32,
    pub(super) blows: Vec<Blow>,
    /// Done to the journal before the load.
    pub(super) journal_sql: Vec<String>,
    /// Longest until a command is settled, a process ready, the pipeline drained.
    pub(super) drained_within: Duration,
}

impl Plan {
    /// Every fail point, then 30 blows.
    pub(super) fn whole() -> Result<Self> {
        let mut plan = Self::new()?;
        let kills = match std::env::var("MILLRACE_KILLS") {
            Ok(text) => text.parse().context("MILLRACE_KILLS")?,
            Err(_) => 30,
        };
        plan.points = points::in_source()?;
        // Some of them again, when the cause of a failure is looked for.
        if let Ok(prefix) = std::env::var("MILLRACE_POINTS") {
            plan.points.retain(|point| point.starts_with(&prefix));
        }
        plan.blows = kills::schedule(kills, &mut Dice::new(plan.seed));
        Ok(plan)
    }

    /// A shorter run, with blows of the kind that the safeguard is there for; `none` takes nothing out.
    pub(super) fn sabotaged(safeguard: &str) -> Result<Self> {
        let mut plan = Self::new()?;
        if safeguard != "none" {
            // What is broken for good must not be waited for long.
            plan.drained_within = Duration::from_secs(30);
            plan.failpoints = format!("sabotage.{safeguard}=return");
        }
        plan.blows = kills::schedule(6, &mut Dice::new(plan.seed));
        // A batch in hand that is not yet written: held there for long enough that a stop hits it, with the safeguard as
        // without it. Whoever stops inside the transaction holds the checkpoint's lock, and no one passes him.
        let slow_sink = ";sink.before-checkpoint=sleep(100)";
        match safeguard {
            "none" => {
                plan.failpoints += slow_sink;
                plan.points = vec!["relay.after-commit".to_owned(); 3];
                plan.blows.extend([Blow::Zombie; 4]);
            }
            "relay.gate" | "journal.outcomes" | "fold.guard" => {}
            // The backstop alone would still refuse the second writer.
            "journal.compare-and-set" => plan
                .journal_sql
                .push("ALTER TABLE millrace.events DROP CONSTRAINT events_pkey".to_owned()),
            "sink.checkpoint" => {
                plan.failpoints += slow_sink;
                plan.blows = vec![Blow::Zombie; 4];
                // The views are slow and not broken: what is found must not be that they are late.
                plan.drained_within = Duration::from_secs(120);
            }
            // Not the first batch: a relay that finds events and no position stops, and names its runbook.
            "relay.position" => {
                plan.points = vec!["relay.after-commit".to_owned(); 3];
                plan.hit = 20;
            }
            // Commands that were produced and never committed, or calls that were made and never recorded.
            "processor.offsets" => plan.points = vec!["processor.after-produce".to_owned(); 4],
            "effect.calling" => plan.points = vec!["effect.after-call".to_owned(); 4],
            _ => bail!("MILLRACE_SABOTAGE={safeguard} is none of the safeguards"),
        }
        Ok(plan)
    }

    fn new() -> Result<Self> {
        let seed = match std::env::var("MILLRACE_SEED") {
            Ok(text) => text.parse().context("MILLRACE_SEED")?,
            Err(_) => uuid::Uuid::now_v7().as_u128() as u64 & 0xffff_ffff,
        };
        Ok(Self {
            seed,
            failpoints: String::new(),
            points: Vec::new(),
            hit: 1,
            blows: Vec::new(),
            journal_sql: Vec::new(),
            drained_within: Duration::from_secs(120),
        })
    }
}
