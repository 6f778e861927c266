//! Kills at random: of roles, of the broker, of Postgres; and processes that stop for longer than they may.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::servers::{Server, Servers};

use super::dice::Dice;
use super::fleet::{Ended, Member, Role};
use super::load::Load;
use super::oracle::Oracle;

/// Longer than the relay's lease, the consumers' sessions, the commands' timeout, the processors' transactions and the time after
/// which a call of an effect is in doubt.
const STOPPED_FOR: Duration = Duration::from_secs(15);
/// Longest that the load may stand still.
const PROGRESS_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    Kill,
    StopRelay,
    StopProcessors,
    StopProjections,
    /// The same, as often as it is in the schedule: the last one has woken up before.
    Zombie,
    Kafka,
    Postgres,
}

/// As many blows as asked for, every kind among them, in an order by chance.
pub(super) fn schedule(count: usize, dice: &mut Dice) -> Vec<Blow> {
    let mut blows: Vec<Blow> = (0..count)
        .map(|number| match number % 10 {
            0 => Blow::StopRelay,
            1 => Blow::StopProjections,
            2 => Blow::StopProcessors,
            4 => Blow::Postgres,
            7 if number % 20 == 7 => Blow::Kafka,
            _ => Blow::Kill,
        })
        .collect();
    dice.shuffle(&mut blows);
    blows
}

pub(super) struct Storm<'s> {
    pub(super) servers: &'s Servers,
    pub(super) oracle: &'s Oracle,
    pub(super) dice: Dice,
    pub(super) members: Vec<&'s mut Member>,
    /// Members to go on, and when.
    pub(super) stopped: Vec<(usize, Instant)>,
}

impl Storm<'_> {
    /// Deals the blows while the load runs, the next as soon as the load has got on a little.
    pub(super) async fn rage(&mut self, blows: &[Blow], load: &mut Load) -> Result<()> {
        for (number, blow) in blows.iter().enumerate() {
            println!("  blow {} of {}: {blow:?}", number + 1, blows.len());
            self.deal(*blow)
                .await
                .with_context(|| format!("blow {}, {blow:?}", number + 1))?;
            let enough = load.acks.settled() + 20 + self.dice.roll(150);
            self.until_settled(enough, load).await?;
        }
        Ok(())
    }

    async fn deal(&mut self, blow: Blow) -> Result<()> {
        match blow {
            Blow::Kill => {
                let running: Vec<usize> = (0..self.members.len())
                    .filter(|index| !self.members[*index].stopped)
                    .collect();
                let victim = running[self.dice.roll(running.len() as u64) as usize];
                self.members[victim].kill()?;
                self.members[victim].start(None)
            }
            Blow::StopRelay => {
                let leader: Option<String> = sqlx::query_scalar(
                    "SELECT holder_info FROM millrace.leases WHERE name = 'relay'",
                )
                .fetch_optional(&self.oracle.journal)
                .await?;
                let leader = leader.unwrap_or_default();
                let leads = |member: &Member| {
                    let pid = member.pid().to_string();
                    leader
                        .split(|c: char| !c.is_ascii_digit())
                        .any(|word| word == pid)
                };
                self.stop(Role::Producer, leads)
            }
            Blow::StopProcessors => {
                let name = format!("processors-{}", self.dice.roll(2));
                self.stop(Role::Processors, |member| member.name == name)
            }
            Blow::StopProjections => self.stop_projections(),
            Blow::Zombie => {
                self.until_resumed().await?;
                self.stop_projections()
            }
            Blow::Kafka => self.restart(Server::Kafka),
            Blow::Postgres => self.restart(Server::Postgres),
        }
    }

    fn stop_projections(&mut self) -> Result<()> {
        let name = format!("projections-{}", self.dice.roll(2));
        self.stop(Role::Projections, |member| member.name == name)
    }

    /// Stops the member of a role that is wanted, or the other one; never both at once.
    fn stop(&mut self, role: Role, wanted: impl Fn(&Member) -> bool) -> Result<()> {
        let of_role = |member: &Member| member.role == role;
        if self
            .members
            .iter()
            .any(|member| of_role(member) && member.stopped)
        {
            return Ok(()); // the last one still sleeps, and somebody must work
        }
        let found = self
            .members
            .iter()
            .position(|member| of_role(member) && wanted(member));
        let index = found.or_else(|| self.members.iter().position(|member| of_role(member)));
        let index = index.context("no member of that role")?;
        self.members[index].signal("STOP")?;
        self.stopped.push((index, Instant::now() + STOPPED_FOR));
        Ok(())
    }

    fn restart(&self, server: Server) -> Result<()> {
        tokio::task::block_in_place(|| {
            self.servers.kill(server)?;
            self.servers.restart()
        })
    }

    /// Lets those go on whose time has come.
    fn resume(&mut self) -> Result<()> {
        let now = Instant::now();
        for (index, until) in std::mem::take(&mut self.stopped) {
            if until <= now {
                self.members[index].signal("CONT")?;
            } else {
                self.stopped.push((index, until));
            }
        }
        Ok(())
    }

    /// The same, and looks whether anyone ended by itself.
    fn tend(&mut self) -> Result<()> {
        self.resume()?;
        for member in &mut self.members {
            if let Some(ended) = member.ended()? {
                let (Ended::ByItself(how) | Ended::Fired(how)) = ended;
                bail!(how);
            }
        }
        Ok(())
    }

    async fn until_settled(&mut self, enough: u64, load: &mut Load) -> Result<()> {
        let deadline = Instant::now() + PROGRESS_WITHIN;
        while load.acks.settled() < enough {
            self.tend()?;
            load.check()?;
            ensure!(
                Instant::now() < deadline,
                "the load stood still for {PROGRESS_WITHIN:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until nobody is stopped any more.
    pub(super) async fn until_resumed(&mut self) -> Result<()> {
        while !self.stopped.is_empty() {
            self.resume()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}
