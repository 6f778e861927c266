//! A stack with `millrace` processes on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::servers::Servers;

pub(crate) use tests::wait::LONGEST as LONG;

/// Partitions of the topics: enough to tell them apart. A broker makes a hundred topics of twelve in three times the time.
pub(crate) const PARTITIONS: i32 = 5;

/// How much is in the totals: orders and cents.
pub(crate) type Sums = (i64, i64);

pub(crate) struct World {
    pub(crate) servers: Servers,
    pub(crate) dir: tempfile::TempDir,
    /// Where the producer listens.
    pub(crate) url: String,
    pub(crate) producer_at: String,
    pub(crate) projections_at: String,
}

/// A `millrace` process; dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    at: String,
}

/// The program that `./dev test` built, or the one beside the test.
fn program() -> PathBuf {
    std::env::var_os("MILLRACE_BIN").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.parent().unwrap().parent().unwrap().join("millrace")
        },
        PathBuf::from,
    )
}

pub(crate) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let servers = Servers::start()?;
        // After the servers: a port is only free until somebody takes it.
        let (producer_at, projections_at) = (free_address()?, free_address()?);
        Ok(Self {
            servers,
            dir: tempfile::tempdir()?,
            url: format!("http://{producer_at}"),
            producer_at,
            projections_at,
        })
    }

    /// The program with the addresses of this stack; it ends when this process ends.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program())
            .args(arguments)
            .env("KAFKA_BOOTSTRAP", self.servers.kafka())
            .env("SCHEMA_REGISTRY_URL", self.servers.registry())
            .env("DATABASE_URL", self.servers.database_url())
            .env("VIEWS_DATABASE_URL", self.servers.views_database_url())
            .env("MILLRACE_URL", &self.url)
            .env("NO_COLOR", "1")
            .env("TOPIC_PARTITIONS", PARTITIONS.to_string())
            // On a busy machine a command is late and not refused, and a member leaves its group before its process ends.
            .env("COMMAND_TIMEOUT_MS", "60000")
            .env("DRAIN_TIMEOUT_MS", "60000")
            .env("MILLRACE_FAILPOINT_LOG", self.dir.path().join("fired"))
            .stdin(Stdio::null());
        command
    }

    /// `PATH` for scripts, in which `millrace` is the program.
    pub(crate) fn path_with_program(&self) -> Result<String> {
        let programs = self.dir.path().join("programs");
        let named = programs.join("millrace");
        if !named.exists() {
            std::fs::create_dir_all(&programs)?;
            std::os::unix::fs::symlink(program().canonicalize()?, named)?;
        }
        let others = std::env::var("PATH").unwrap_or_default();
        Ok(format!("{}:{others}", programs.display()))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Runs a command that must succeed; what it printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "millrace {}: {}\n{printed}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(printed)
    }

    /// `millrace status --json`, whatever its exit code.
    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.run(&["status", "--json"])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn producer(&self) -> Result<Process> {
        let projections = format!("http://{}", self.projections_at);
        self.spawn(
            &["producer", "--projections-url", &projections],
            &self.producer_at,
            "",
        )
    }

    /// A projections process; `failpoints` as in `MILLRACE_FAILPOINTS`.
    pub(crate) fn projections(&self, failpoints: &str) -> Result<Process> {
        self.spawn(&["projections"], &self.projections_at, failpoints)
    }

    pub(crate) fn up(&self) -> Result<Process> {
        self.spawn(&["up"], &self.producer_at, "")
    }

    /// The producer alone, with further environment.
    pub(crate) fn producer_with(&self, environment: &[(&str, &str)]) -> Result<Process> {
        let projections = format!("http://{}", self.projections_at);
        self.spawn_with(
            &["producer", "--projections-url", &projections],
            &self.producer_at,
            environment,
        )
    }

    /// The processors alone, on a port of their own.
    pub(crate) fn processors(&self) -> Result<Process> {
        self.spawn(&["processors"], &free_address()?, "")
    }

    /// All roles, with further environment.
    pub(crate) fn up_with(&self, environment: &[(&str, &str)]) -> Result<Process> {
        self.spawn_with(&["up"], &self.producer_at, environment)
    }

    fn spawn(&self, arguments: &[&str], at: &str, failpoints: &str) -> Result<Process> {
        self.spawn_with(arguments, at, &[("MILLRACE_FAILPOINTS", failpoints)])
    }

    /// A role that listens there, with further environment.
    pub(crate) fn spawn_with(
        &self,
        arguments: &[&str],
        at: &str,
        environment: &[(&str, &str)],
    ) -> Result<Process> {
        let log = self
            .dir
            .path()
            .join(format!("{}.log", uuid::Uuid::now_v7().simple()));
        let printed = File::create(&log)?;
        let child = self
            .command(arguments)
            .env("LISTEN", at)
            .envs(environment.iter().copied())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .context("setpriv or the program cannot be run")?;
        Ok(Process {
            child,
            log,
            at: at.to_owned(),
        })
    }

    /// One number of the views' database.
    pub(crate) async fn number(&self, sql: &str) -> Result<i64> {
        value(self.servers.views_database_url(), sql).await
    }

    /// One value of the journal's database.
    pub(crate) async fn journal<T: Scalar>(&self, sql: &str) -> Result<T> {
        value(self.servers.database_url(), sql).await
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let mut connection = PgConnection::connect(self.servers.views_database_url()).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    /// Waits until a number of the views' database is as given.
    pub(crate) async fn until_number(&self, sql: &str, wanted: i64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let found = self.number(sql).await;
            if found.as_ref().is_ok_and(|found| *found == wanted) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < LONG,
                "{sql} gave {found:?}, not {wanted}\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The ends of all logs, for a failure.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).into_iter().flatten();
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|end| end == "log"))
            .map(|file| tail(&file.path()))
            .collect()
    }

    pub(crate) async fn customer_totals(&self) -> Result<BTreeMap<String, Sums>> {
        let mut connection = PgConnection::connect(self.servers.views_database_url()).await?;
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT customer_id, orders, total_cents FROM views.customer_totals")
                .fetch_all(&mut connection)
                .await?;
        Ok(rows
            .into_iter()
            .map(|(customer, orders, cents)| (customer, (orders, cents)))
            .collect())
    }

    /// Sends orders through `millrace send` and returns its summary and exit code.
    pub(crate) fn send(&self, name: &str, orders: &Orders) -> Result<(Value, i32)> {
        let file = self.dir.path().join(name);
        std::fs::write(&file, orders.ndjson())?;
        let acks = self.dir.path().join(format!("{name}.acks"));
        let output = self.run(&[
            "send",
            path(&file),
            "--as",
            "order.PlaceOrder",
            "--id",
            "order_id",
            "--acks",
            path(&acks),
            "--json",
        ])?;
        let summary = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((summary, output.status.code().unwrap_or(-1)))
    }

    /// The lines of an acks or a rejects file.
    pub(crate) fn lines(&self, name: &str) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.dir.path().join(name))?;
        Ok(text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }
}

/// What a column of one row can be read as.
pub(crate) trait Scalar:
    for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin
{
}

impl<T> Scalar for T where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin
{
}

async fn value<T: Scalar>(database_url: &str, sql: &str) -> Result<T> {
    let mut connection = PgConnection::connect(database_url).await?;
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await?)
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n") + "\n--\n"
}

impl Process {
    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = reqwest::get(format!("http://{}/health/ready", self.at)).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}\n{}", self.printed());
            }
            ensure!(begun.elapsed() < LONG, "not ready\n{}", self.printed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What `/health/ready` says now; empty while nobody listens.
    pub(crate) async fn health(&self) -> String {
        match reqwest::get(format!("http://{}/health/ready", self.at)).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                begun.elapsed() < LONG,
                "it still runs (is the program built with --features cli/failpoints?)\n{}",
                self.printed()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and waits for its end, which must be a good one.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status()?;
        let status = self.ended().await?;
        ensure!(status.success(), "{status}\n{}", self.printed());
        Ok(())
    }

    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Orders with a computation of their own of what the views must show.
pub(crate) struct Orders {
    records: Vec<Value>,
}

impl Orders {
    /// `count` orders of 60 customers with ids from `first` on; every hundredth holds a quantity of 0.
    pub(crate) fn new(first: usize, count: usize) -> Self {
        let record = |n: usize| {
            let lines: Vec<Value> = (0..1 + n % 4)
                .map(|line| {
                    let quantity = usize::from(line > 0 || n % 100 != 99) * (1 + (n + line) % 5);
                    json!({"product_id": format!("p{}", (n * 7 + line) % 90), "quantity": quantity,
                           "total_cents": 100 + (n * 31 + line * 17) % 9_000})
                })
                .collect();
            json!({"order_id": format!("o{n}"), "customer_id": format!("c{}", n * n % 60),
                   "currency": "EUR", "placed_at": "2026-03-01T10:00:00Z",
                   // No processor acts on it, so that what is counted is what was sent.
                   "coordination": "orchestration", "lines": lines})
        };
        Self {
            records: (first..first + count).map(record).collect(),
        }
    }

    fn ndjson(&self) -> String {
        self.records
            .iter()
            .map(|record| format!("{record}\n"))
            .collect()
    }

    fn good(&self) -> impl Iterator<Item = &Value> {
        self.records.iter().filter(|record| {
            let lines = record["lines"].as_array().unwrap();
            lines.iter().all(|line| line["quantity"] != 0)
        })
    }

    /// How many must be accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.good().count()
    }

    /// Total of each accepted order.
    pub(crate) fn totals(&self) -> BTreeMap<String, i64> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let cents = |order: &Value| {
            let lines = order["lines"].as_array().unwrap();
            lines
                .iter()
                .map(|line| line["total_cents"].as_i64().unwrap())
                .sum()
        };
        self.good()
            .map(|order| (text(&order["order_id"]), cents(order)))
            .collect()
    }

    /// What each customer ordered.
    pub(crate) fn of_customers(&self) -> BTreeMap<String, Sums> {
        let totals = self.totals();
        let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
        for order in self.good() {
            let customer = order["customer_id"].as_str().unwrap().to_owned();
            let sum = sums.entry(customer).or_default();
            sum.0 += 1;
            sum.1 += totals[order["order_id"].as_str().unwrap()];
        }
        sums
    }
}
