//! The roles as processes of the real program, which a test kills, stops and starts again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::servers::Servers;

use super::plan::Plan;

/// How long an order waits for its confirmation. Short, so that timers fire all the time; long enough for most orders to be
/// confirmed by the flow before.
const CONFIRMATION_TIMEOUT_MS: &str = "20000";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Producer,
    Processors,
    Projections,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Processors => "processors",
            Self::Projections => "projections",
        }
    }
}

/// Ends every process that it was told of when the pipe to it closes, which the kernel does however the test ends.
pub(super) struct Reaper(Mutex<ChildStdin>);

const REAP: &str = r#"
declare -A alive
while read -r order pid; do
    if [[ $order == add ]]; then alive[$pid]=1; else unset "alive[$pid]"; fi
done
for pid in "${!alive[@]}"; do kill -s KILL "$pid"; done"#;

impl Reaper {
    pub(super) fn start() -> Result<Arc<Self>> {
        let mut child = Command::new("setsid")
            .args(["bash", "-c", REAP])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("no bash for the reaper")?;
        let orders = child.stdin.take().context("the reaper has no stdin")?;
        Ok(Arc::new(Self(Mutex::new(orders))))
    }

    fn tell(&self, order: &str, pid: u32) -> Result<()> {
        let mut orders = self.0.lock().unwrap();
        writeln!(orders, "{order} {pid}").context("the reaper is gone")
    }
}

/// What every process is started with.
pub(super) struct Setting {
    bin: PathBuf,
    pub(super) dir: PathBuf,
    env: Vec<(String, String)>,
    /// Fail points that are set in every process.
    failpoints: String,
    /// At which hit an armed point ends its process.
    hit: u32,
    reaper: Arc<Reaper>,
}

impl Setting {
    pub(super) fn new(
        servers: &Servers,
        webhook: &str,
        dir: &Path,
        plan: &Plan,
    ) -> Result<Arc<Self>> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/millrace");
        let bin = std::env::var_os("MILLRACE_BIN").map_or(built, PathBuf::from);
        ensure!(
            bin.exists(),
            "{} is not there: build it with the feature failpoints, or run ./dev test",
            bin.display()
        );
        let env = [
            ("KAFKA_BOOTSTRAP", servers.kafka()),
            ("SCHEMA_REGISTRY_URL", servers.registry()),
            ("DATABASE_URL", servers.database_url()),
            ("VIEWS_DATABASE_URL", servers.views_database_url()),
            // Small, so that the load reaches snapshots and several batches.
            ("SNAPSHOT_EVENTS", "5"),
            ("VIEW_BATCH_RECORDS", "200"),
            ("PROCESSOR_BATCH_RECORDS", "200"),
            ("ORDER_CONFIRMATION_TIMEOUT_MS", CONFIRMATION_TIMEOUT_MS),
            ("ORDER_WEBHOOK_URL", webhook),
            ("ORDER_WEBHOOK_DOUBT", "leave"),
            ("RUST_LOG", "info"),
            ("NO_COLOR", "1"),
        ];
        Ok(Arc::new(Self {
            bin,
            dir: dir.to_owned(),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
            failpoints: plan.failpoints.clone(),
            hit: plan.hit,
            reaper: Reaper::start()?,
        }))
    }

    fn fired_log(&self) -> PathBuf {
        self.dir.join("fired")
    }

    /// How often a fail point ended a process.
    pub(super) fn fired(&self, point: &str) -> usize {
        let log = std::fs::read_to_string(self.fired_log()).unwrap_or_default();
        log.lines()
            .filter(|line| line.split(' ').next() == Some(point))
            .count()
    }

    fn fired_in(&self, point: &str, pid: u32) -> bool {
        let log = std::fs::read_to_string(self.fired_log()).unwrap_or_default();
        log.lines().any(|line| line == format!("{point} {pid}"))
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// At the fail point that it was armed with.
    Fired(String),
    /// By itself, which no role may do while nobody told it to.
    ByItself(String),
}

/// One process, on a port that it keeps over its restarts.
pub(super) struct Member {
    setting: Arc<Setting>,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) port: u16,
    pub(super) armed: Option<String>,
    pub(super) since: Instant,
    pub(super) stopped: bool,
    /// When it was last stopped or let go on; at first, when it was made.
    pub(super) signalled: Instant,
    child: Option<Child>,
}

impl Member {
    pub(super) fn new(setting: &Arc<Setting>, role: Role, number: usize) -> Result<Self> {
        Ok(Self {
            setting: setting.clone(),
            name: format!("{}-{number}", role.word()),
            role,
            port: free_port()?,
            armed: None,
            since: Instant::now(),
            stopped: false,
            signalled: Instant::now(),
            child: None,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it, armed with a point that ends it.
    pub(super) fn start(&mut self, point: Option<String>) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.setting.dir.join(format!("{}.log", self.name)))?;
        let mut failpoints = self.setting.failpoints.clone();
        if let Some(point) = &point {
            failpoints = format!("{failpoints};{point}=kill*{}", self.setting.hit);
        }
        let child = Command::new(&self.setting.bin)
            .arg(self.role.word())
            .envs(self.setting.env.iter().map(|(name, value)| (name, value)))
            .env("LISTEN", format!("127.0.0.1:{}", self.port))
            // A broker that was killed looks through every partition before it answers, and there are a hundred topics.
            .env("TOPIC_PARTITIONS", "5")
            // What the oracle judges: the other domains' handlers would take what two cores have.
            .env("PROCESSORS", "order-stock,stock-order")
            .env("VIEWS", "orders,stock,customer-totals,event-log")
            .env("INBOXES", "order,stock")
            .env("PROCESSOR_MEMBER", &self.name)
            .env("MILLRACE_FAILPOINTS", failpoints)
            .env("MILLRACE_FAILPOINT_LOG", self.setting.fired_log())
            .stdin(Stdio::null())
            .stdout(Stdio::from(File::try_clone(&log)?))
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("{} cannot be run", self.setting.bin.display()))?;
        self.setting.reaper.tell("add", child.id())?;
        self.child = Some(child);
        self.armed = point;
        self.since = Instant::now();
        self.stopped = false;
        Ok(())
    }

    /// Ends it as a power cut would; at once, whatever it does.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
            self.setting.reaper.tell("drop", child.id())?;
        }
        Ok(())
    }

    /// Sends `STOP` or `CONT`.
    pub(super) fn signal(&mut self, signal: &str) -> Result<()> {
        // `kill` takes 0 for everyone in our group.
        ensure!(self.child.is_some(), "{} does not run", self.name);
        let status = Command::new("kill")
            .args(["-s", signal, &self.pid().to_string()])
            .status()?;
        ensure!(status.success(), "kill -s {signal} {}: {status}", self.name);
        self.stopped = signal == "STOP";
        self.signalled = Instant::now();
        Ok(())
    }

    /// How it ended, if it did since the last look.
    pub(super) fn ended(&mut self) -> Result<Option<Ended>> {
        let Some(child) = self.child.as_mut() else {
            return Ok(None);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(None);
        };
        let pid = child.id();
        self.child = None;
        self.setting.reaper.tell("drop", pid)?;
        Ok(Some(match self.armed.take() {
            Some(point) if self.setting.fired_in(&point, pid) => Ended::Fired(point),
            _ => Ended::ByItself(format!(
                "{} (pid {pid}) ended by itself: {status}",
                self.name
            )),
        }))
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&mut self, http: &reqwest::Client, within: Duration) -> Result<()> {
        self.says(http, within, true).await
    }

    /// Waits until it says that it is not.
    pub(super) async fn unready(&mut self, http: &reqwest::Client, within: Duration) -> Result<()> {
        self.says(http, within, false).await
    }

    async fn says(&mut self, http: &reqwest::Client, within: Duration, ready: bool) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut said = String::new();
        while Instant::now() < deadline {
            if let Some(ended) = self.ended()? {
                bail!("{}: {ended:?} while it was waited for", self.name);
            }
            match http
                .get(format!("{}/health/ready", self.url()))
                .send()
                .await
            {
                Ok(answer) if answer.status().is_success() == ready => return Ok(()),
                Ok(answer) => said = answer.text().await.unwrap_or_default(),
                Err(error) => said = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "{}: ready {ready} was expected within {within:?}, it says {said}",
            self.name
        )
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Outside the range that Linux takes outgoing ports from, so that a restart finds it free again.
fn free_port() -> Result<u16> {
    let start = 10_000 + ((uuid::Uuid::now_v7().as_u128() % 9_000) as u16);
    (start..start + 500)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
}
