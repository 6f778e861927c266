//! One run, step by step.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::Executor;
use tempfile::TempDir;
use tests::servers::{Server, Servers};
use tests::wait::LONGEST;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::after;
use super::dice::Dice;
use super::facts::EFFECT;
use super::fleet::{Member, Role, Setting};
use super::kills::Storm;
use super::load::Load;
use super::oracle::{GROUPS, Oracle, TOPIC, VIEWS};
use super::outside::Outside;
use super::plan::Plan;
use super::points;
use super::slow;
use super::verdict::Findings;

pub(super) struct Run<'p> {
    plan: &'p Plan,
    begun: Instant,
    // Before the servers: the processes end while these are still there.
    producers: [Member; 2],
    processors: [Member; 2],
    projections: [Member; 2],
    setting: Arc<Setting>,
    pub(super) oracle: Oracle,
    outside: Outside,
    servers: Servers,
    acks: PathBuf,
    http: reqwest::Client,
    _dir: TempDir,
}

impl<'p> Run<'p> {
    /// Starts the servers, and each role once: what is made at the first start is not under test.
    pub(super) async fn prepare(plan: &'p Plan) -> Result<Self> {
        println!(
            "MILLRACE_SEED={} MILLRACE_KILLS={} {:?}",
            plan.seed,
            plan.blows.len(),
            plan.failpoints
        );
        let begun = Instant::now();
        let temporary = tempfile::tempdir()?;
        let kept = std::env::var_os("MILLRACE_CRASH_DIR").map(PathBuf::from);
        let dir = kept.as_deref().unwrap_or(temporary.path());
        std::fs::create_dir_all(dir)?;
        let servers = tokio::task::block_in_place(Servers::start)?;
        let outside = Outside::start().await?;
        let setting = Setting::new(&servers, outside.url(), dir, plan)?;
        let member = |role, number| Member::new(&setting, role, number);
        let mut run = Self {
            plan,
            begun,
            producers: [member(Role::Producer, 0)?, member(Role::Producer, 1)?],
            processors: [member(Role::Processors, 0)?, member(Role::Processors, 1)?],
            projections: [member(Role::Projections, 0)?, member(Role::Projections, 1)?],
            oracle: Oracle::new(&servers)?,
            acks: dir.join("acks.ndjson"),
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(5))
                .build()?,
            setting,
            outside,
            servers,
            _dir: temporary,
        };
        for first in [
            &mut run.producers[0],
            &mut run.processors[0],
            &mut run.projections[0],
        ] {
            first.start(None)?;
            first.ready(&run.http, LONGEST).await?;
            if first.role == Role::Processors {
                // From here on it is told of every order; what was confirmed before it began would be nobody's news.
                run.oracle.until_effect_stands().await?;
            }
            first.kill()?;
        }
        for statement in &plan.journal_sql {
            let statement = sqlx::AssertSqlSafe(statement.clone());
            run.oracle.journal.execute(statement).await?;
        }
        run.say("journal, topics and views are there; the load begins");
        Ok(run)
    }

    pub(super) fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f32());
    }

    /// The load, the fail points one after another, the blows. Whatever goes wrong is a finding, and the oracle still reads:
    /// its verdict says what came of it.
    pub(super) async fn batter(&mut self) -> Result<Findings> {
        let mut findings = Findings::default();
        let urls = [self.producers[0].url(), self.producers[1].url()];
        let mut load = Load::start(urls, &self.acks, self.plan)?;
        let slow = CancellationToken::new();
        let mut slow_writers = slow::start(self.servers.database_url(), self.plan.seed, &slow);
        if let Err(error) = self.fire_points().await {
            findings.add("0 every armed fail point fires", format!("{error:#}"));
        }
        let points = self.plan.points.len();
        self.say(&format!(
            "fail points armed one after another: {points}; now blows at random"
        ));
        let writing = self.producers.iter_mut().chain(&mut self.processors);
        let members = writing.chain(&mut self.projections);
        let mut storm = Storm {
            servers: &self.servers,
            oracle: &self.oracle,
            dice: Dice::new(self.plan.seed),
            members: members.collect(),
            stopped: Vec::new(),
        };
        if let Err(error) = storm.rage(&self.plan.blows, &mut load).await {
            findings.add(
                "0 the pipeline goes on after every blow",
                format!("{error:#}"),
            );
        }
        storm.until_resumed().await?;
        slow.cancel();
        while let Some(writer) = slow_writers.join_next().await {
            writer??;
        }
        let acks = load.acks.clone();
        if let Err(error) = load.stop().await {
            findings.add("0 every command is settled", format!("{error:#}"));
        }
        self.say(&format!(
            "the load has ended with {} answers",
            acks.settled()
        ));
        Ok(findings)
    }

    async fn fire_points(&mut self) -> Result<()> {
        let (mut writing, mut acting, mut reading) = (Vec::new(), Vec::new(), Vec::new());
        for point in &self.plan.points {
            match points::role(point)? {
                Role::Producer => writing.push(point.clone()),
                Role::Processors => acting.push(point.clone()),
                Role::Projections => reading.push(point.clone()),
            }
        }
        let oracle = &self.oracle;
        let world = points::World {
            servers: &self.servers,
            oracle,
            outside: &self.outside,
        };
        // Each to its end, whatever becomes of the others: one that is broken off leaves members stopped, and a view set forward.
        let fired = tokio::join!(
            points::fire_all(&mut self.producers, &writing, &world),
            points::fire_all(&mut self.processors, &acting, &world),
            points::fire_all(&mut self.projections, &reading, &world),
        );
        let skip = "sink.after-skip-recorded";
        let healed = match self.plan.points.iter().any(|point| point == skip) {
            true => points::heal_skip(oracle).await,
            false => Ok(()),
        };
        fired.0.and(fired.1).and(fired.2).and(healed)
    }

    /// Waits until every role is ready and the pipeline has drained; what is not in time is a finding.
    pub(super) async fn drain(&mut self, findings: &mut Findings) -> Result<()> {
        let by = Instant::now() + self.plan.drained_within;
        let left = || by.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let writing = self.producers.iter_mut().chain(&mut self.processors);
        for member in writing.chain(&mut self.projections) {
            if let Err(not_ready) = member.ready(&self.http, left()).await {
                findings.add("0 every role gets ready again", format!("{not_ready:#}"));
            }
        }
        if let Err(late) = self.oracle.quiesce(left()).await {
            findings.add("0 the pipeline drains", format!("{late:#}"));
        }
        self.say("drained; the oracle reads");
        Ok(())
    }

    pub(super) async fn quiesce(&self) -> Result<()> {
        self.oracle.quiesce(self.plan.drained_within).await
    }

    pub(super) async fn judge(&self, planted: &[Uuid], replays: usize) -> Result<Findings> {
        let (acks, outside) = (&self.acks, &self.outside);
        self.oracle.judge(acks, outside, planted, replays).await
    }

    /// Sets the processors and the effect back to the log's start with the stock tool, and waits until they are through again.
    pub(super) async fn replay_flow(&mut self) -> Result<()> {
        let events = self.oracle.journal().await?.len();
        for member in &mut self.processors {
            member.kill()?;
        }
        let noted = after::effect_resets(&self.oracle).await?;
        let resets = noted + after::effect_partitions(&self.oracle).await?;
        let effect = (&*format!("millrace.effect.{}", EFFECT), TOPIC);
        for (group, topic) in [GROUPS[0], GROUPS[1], effect] {
            points::set_group(&self.servers, group, topic, "--to-earliest")?;
        }
        for member in &mut self.processors {
            member.start(None)?;
        }
        for member in &mut self.processors {
            member.ready(&self.http, self.plan.drained_within).await?;
        }
        after::until_effect_was_reset(&self.oracle, resets).await?;
        self.quiesce().await?;
        let now = self.oracle.journal().await?.len();
        ensure!(
            now == events,
            "{events} events before the processors were reset, {now} after"
        );
        Ok(())
    }

    /// Sets every view back to the log's start with the stock tool and waits until all are rebuilt.
    pub(super) async fn replay(&self) -> Result<()> {
        let last: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM millrace_views.resets")
            .fetch_one(&self.oracle.views)
            .await?;
        for (view, _) in VIEWS {
            points::reset(&self.servers, &self.oracle, view, "--to-earliest").await?;
        }
        after::until_rebuilt(&self.oracle, last.unwrap_or(0)).await?;
        self.quiesce().await
    }

    /// With nothing to publish and nothing to write, an outage must be noticed and its end too.
    pub(super) async fn lose_servers_while_idle(&mut self) -> Result<()> {
        let within = self.plan.drained_within;
        for server in [Server::Kafka, Server::Postgres] {
            tokio::task::block_in_place(|| self.servers.kill(server))?;
            for member in &mut self.projections {
                member.unready(&self.http, within).await?;
            }
            tokio::task::block_in_place(|| self.servers.restart())?;
            let writing = self.producers.iter_mut().chain(&mut self.processors);
            for member in writing.chain(&mut self.projections) {
                member.ready(&self.http, within).await?;
            }
            self.say(&format!(
                "{server} was away: idle projections said so, and every role is ready again"
            ));
        }
        Ok(())
    }

    /// How often each fail point fired; zero is a failure.
    pub(super) async fn tell(&self) -> Result<()> {
        let mut silent = Vec::new();
        println!("{:>6}  fail point", "fired");
        for point in &self.plan.points {
            let fired = self.setting.fired(point);
            println!("{fired:>6}  {point}");
            if fired == 0 {
                silent.push(point.as_str());
            }
        }
        for (point, why) in points::NOT_YET {
            println!("   not  {point}: {why}");
        }
        ensure!(silent.is_empty(), "never fired: {}", silent.join(", "));
        let events = self.oracle.journal().await?.len();
        let blows = self.plan.blows.len();
        self.say(&format!(
            "{events} events, {blows} blows: nothing lost, nothing twice"
        ));
        Ok(())
    }
}
