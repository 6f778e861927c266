//! Members of a group as processes of their own, so that they can be killed and stopped: this test binary, run again.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use millrace::effect::{RuleName, effect};
use serde::{Deserialize, Serialize};

use tests::wait::eventually;

use super::world::{Post, World, kafka_config, quick, start};

const ENV: &str = "MILLRACE_EFFECT_MEMBER";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    bootstrap: String,
    database: String,
    name: String,
    topic: String,
    url: String,
    rule: String,
    point: String,
    signal: String,
}

/// What a member does to itself when it first comes to a point.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Kill,
    Stop,
}

/// A member as a process. Dropping it kills it.
pub(super) struct Member {
    child: Child,
}

impl Member {
    /// Starts one that kills or stops itself at the point.
    pub(super) fn start(world: &World<'_>, rule: RuleName, at: (&str, At)) -> Result<Self> {
        let settings = Settings {
            bootstrap: world.servers.kafka().to_owned(),
            database: world.database.clone(),
            name: world.name(),
            topic: world.topic.clone(),
            url: world.receiver.server.url(),
            rule: format!("{rule:?}"),
            point: at.0.to_owned(),
            signal: match at.1 {
                At::Kill => "KILL".to_owned(),
                At::Stop => "STOP".to_owned(),
            },
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["effects::member::process", "--exact", "--ignored"])
            .env(ENV, serde_json::to_string(&settings)?)
            // Its end is ours: the process exits with it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("this test binary cannot be run again")?;
        Ok(Self { child })
    }

    /// Waits until it has killed itself.
    pub(super) async fn killed(mut self) -> Result<()> {
        let mut ended: Option<ExitStatus> = None;
        let child = &mut self.child;
        let waited = eventually("the member is dead", || {
            ended = child.try_wait().ok().flatten();
            let dead = ended.is_some();
            async move { dead }
        });
        waited.await?;
        match ended.and_then(|status| status.signal()) {
            Some(9) => Ok(()),
            _ => bail!("the member was not killed at its point: {ended:?}"),
        }
    }

    /// Waits until it has stopped itself: `T` in its stat.
    pub(super) async fn stopped(&self) -> Result<()> {
        let stat = format!("/proc/{}/stat", self.child.id());
        eventually("the member is stopped", || async {
            std::fs::read_to_string(&stat).is_ok_and(|text| {
                text.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.starts_with(" T"))
            })
        })
        .await
    }

    /// Lets it go on.
    pub(super) fn wake(&self) -> Result<()> {
        let sent = Command::new("kill")
            .args(["-CONT", &self.child.id().to_string()])
            .status()?;
        anyhow::ensure!(sent.success(), "kill -CONT: {sent}");
        Ok(())
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself; runs until it is killed or its starter is gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a member process of the other tests"]
async fn process() -> Result<()> {
    let Ok(settings) = std::env::var(ENV) else {
        return Ok(());
    };
    let settings: Settings = serde_json::from_str(&settings)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let signal = format!("-{}", settings.signal);
    let hit = AtomicBool::new(false);
    fail::cfg_callback(settings.point.as_str(), move || {
        if !hit.swap(true, Ordering::SeqCst) {
            let id = std::process::id().to_string();
            let _ = Command::new("kill").args([&signal, &id]).status();
        }
    })
    .map_err(anyhow::Error::msg)?;
    let post = Post {
        name: settings.name,
        topic: settings.topic,
        url: settings.url,
        rule: match settings.rule.as_str() {
            "AskByKey" => RuleName::AskByKey,
            "SafeToRepeat" => RuleName::SafeToRepeat,
            _ => RuleName::NeverRepeat,
        },
    };
    let kafka = kafka_config(&settings.bootstrap);
    let mut running = start(&kafka, &settings.database, effect(post, quick())).await?;
    Ok(running.ended().await?)
}
