//! Kafka, the schema registry and Postgres, started by a test and gone after it.
//!
//! A stack is a child process, `./dev servers keep DIR`, which does what it is told on its stdin and wipes the servers when that
//! pipe ends. The kernel closes the pipe when the test's process ends, however it ends (a return, a panic, `SIGKILL`), so
//! nothing survives a test and no exit hook is needed. The keeper takes one order after another, so a start that was under way when the
//! test died is finished before it is wiped, never after.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{env, fmt, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, Executor, PgConnection};

/// One of the servers of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The broker, with its controller in the same process.
    Kafka,
    /// Postgres: the postmaster and every session of it.
    Postgres,
    /// The schema registry, which keeps its schemas in Postgres.
    Registry,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
            Self::Registry => "registry",
        })
    }
}

/// A running stack on ports and in a directory of its own. Dropping it stops and wipes it, and waits until that is done.
#[derive(Debug)]
pub struct Servers {
    dir: PathBuf,
    addresses: HashMap<String, String>,
    keeper: Mutex<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Servers {
    /// Starts a stack and returns when all three servers answer, which takes 5 to 10 seconds. Blocks.
    ///
    /// # Errors
    /// When a server does not start; the error holds the end of what `./dev` printed.
    pub fn start() -> Result<Self> {
        Self::start_as("small")
    }

    /// The same with the broker's compiler and Postgres' buffers as `./dev up` has them: for measuring.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_full() -> Result<Self> {
        Self::start_as("full")
    }

    fn start_as(size: &str) -> Result<Self> {
        let dir = new_directory()?;
        let mut child = Command::new("setsid") // a Ctrl-C at the terminal must not reach the keeper before its work is done
            .arg(dev())
            .args(["servers", "keep"])
            .arg(&dir)
            .env("MILLRACE_SERVERS", size)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("./dev servers keep cannot be run")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the keeper has no stdout")?);
        let mut servers = Self {
            dir,
            addresses: HashMap::new(),
            keeper: Mutex::new(Keeper {
                child,
                orders,
                answers,
            }),
        };
        servers.order("start")?;
        servers.addresses = read_env(&servers.dir.join("env"))?;
        for name in [
            "KAFKA_BOOTSTRAP",
            "SCHEMA_REGISTRY_URL",
            "DATABASE_URL",
            "VIEWS_DATABASE_URL",
        ] {
            ensure!(
                servers.addresses.contains_key(name),
                "{name} is missing in {}/env",
                servers.dir.display()
            );
        }
        Ok(servers)
    }

    /// The stack that all tests of this process share, started by the first that asks. It ends with the process. A test that
    /// kills a server starts its own.
    ///
    /// # Panics
    /// When the stack does not start; every test that needs it fails with the same reason.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Servers, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}"))) {
            Ok(servers) => servers,
            Err(reason) => panic!("no servers: {reason}"),
        }
    }

    /// `host:port` of the broker.
    #[must_use]
    pub fn kafka(&self) -> &str {
        &self.addresses["KAFKA_BOOTSTRAP"]
    }

    /// URL of the registry's Confluent API.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.addresses["SCHEMA_REGISTRY_URL"]
    }

    /// URL of the database `millrace`, empty at the start.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.addresses["DATABASE_URL"]
    }

    /// URL of the database `views` on the same Postgres, empty at the start.
    #[must_use]
    pub fn views_database_url(&self) -> &str {
        &self.addresses["VIEWS_DATABASE_URL"]
    }

    /// The directory of the stack; `logs/` in it holds what the servers print.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes an empty database for one test and returns its URL. Its name begins with `name` (letters, digits, `_`) and is used once,
    /// so tests that run at the same time never meet.
    ///
    /// # Errors
    /// When Postgres does not answer or refuses.
    pub async fn fresh_database(&self, name: &str) -> Result<String> {
        ensure!(
            !name.is_empty()
                && name.len() <= 30
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{name:?} is no name for a database: 1 to 30 letters, digits or _"
        );
        let database = format!(
            "{}_{}",
            name.to_ascii_lowercase(),
            uuid::Uuid::now_v7().simple()
        );
        let mut connection = PgConnection::connect(self.database_url()).await?;
        let statement = format!(r#"CREATE DATABASE "{database}""#);
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
        connection.close().await?;
        let (server, _) = self
            .database_url()
            .rsplit_once('/')
            .context("DATABASE_URL names no database")?;
        Ok(format!("{server}/{database}"))
    }

    /// Ends a server with `SIGKILL` and returns when it is gone. Blocks.
    ///
    /// # Errors
    /// When the keeper cannot do it.
    pub fn kill(&self, server: Server) -> Result<()> {
        self.order(&format!("kill {server}"))
    }

    /// Starts what is dead, on the same ports and data, and returns when all three answer. Blocks.
    ///
    /// # Errors
    /// When a server does not come back; the error holds the end of what `./dev` printed.
    pub fn restart(&self) -> Result<()> {
        self.order("start")
    }

    /// Lets the broker stand still for that long, as a long pause of its machine does. Blocks.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stand_still(&self, time: Duration) -> Result<()> {
        let pid = fs::read_to_string(self.dir.join("run/kafka.pid"))?;
        let signal = |name: &str| -> Result<()> {
            let sent = Command::new("kill")
                .args(["-s", name, pid.trim()])
                .status()?;
            ensure!(sent.success(), "the broker was not sent {name}");
            Ok(())
        };
        signal("STOP")?;
        thread::sleep(time);
        signal("CONT")
    }

    fn order(&self, order: &str) -> Result<()> {
        // A panic in another test's order leaves the pipe as it was: each order is one line out and one line back.
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = keeper.orders.as_mut().context("the servers are stopped")?;
        writeln!(orders, "{order}").context("the keeper of the servers is gone")?;
        let mut answer = String::new();
        keeper
            .answers
            .read_line(&mut answer)
            .context("the keeper of the servers does not answer")?;
        if answer.trim() != "ok" {
            let printed = fs::read_to_string(self.dir.join("dev.log")).unwrap_or_default();
            let lines: Vec<&str> = printed.lines().collect();
            bail!(
                "{order}: the servers in {} failed:\n{}",
                self.dir.display(),
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let keeper = self
            .keeper
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        drop(keeper.orders.take());
        if let Err(error) = keeper.child.wait() {
            eprintln!(
                "the servers in {} may still run: {error}",
                self.dir.display()
            );
        }
    }
}

/// The script of this checkout.
pub(crate) fn dev() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev")
}

/// A directory of its own, in the one that `./dev test` looks after or else in the system's. Others may pass through it, because Postgres
/// runs as another user where the test runs as root.
fn new_directory() -> Result<PathBuf> {
    let parent = env::var_os("MILLRACE_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new()
        .prefix("millrace-servers-")
        .permissions(fs::Permissions::from_mode(0o711))
        .tempdir_in(&parent)
        .with_context(|| format!("no directory for the servers in {}", parent.display()))?;
    Ok(dir.keep()) // the keeper removes it
}

fn read_env(path: &Path) -> Result<HashMap<String, String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
