//! Roles as processes of their own: the `millrace` command, as a user runs it.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::http::Client;
use crate::world::World;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running role. Dropping it kills it.
pub(crate) struct Role {
    pub(crate) listen: String,
    /// From the process's start until `/health/ready` said so.
    pub(crate) ready_after: Duration,
    child: Child,
}

impl Role {
    /// Starts `millrace NAME` on the world's servers and waits until it is ready.
    pub(crate) async fn start(world: &World, name: &str) -> Result<Self> {
        let binary = binary().await?;
        let listen = format!(
            "127.0.0.1:{}",
            TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()
        );
        let log = world.servers.dir().join(format!("logs/bench-{name}.log"));
        let started = Instant::now();
        let child = Command::new(binary)
            .arg(name)
            .env("LISTEN", &listen)
            .env("KAFKA_BOOTSTRAP", world.servers.kafka())
            .env("SCHEMA_REGISTRY_URL", world.servers.registry())
            .env("DATABASE_URL", world.servers.database_url())
            .env("VIEWS_DATABASE_URL", world.servers.views_database_url())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} cannot be run", binary.display()))?;
        let mut role = Self {
            listen,
            child,
            ready_after: Duration::ZERO,
        };
        while !role.is_ready().await {
            if let Some(status) = role.child.try_wait()? {
                bail!("{name} ended, {status}:\n{}", fs::read_to_string(&log)?);
            }
            ensure!(
                started.elapsed() < READY_WITHIN,
                "{name} was not ready within {READY_WITHIN:?}:\n{}",
                fs::read_to_string(&log)?
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        role.ready_after = started.elapsed();
        Ok(role)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn is_ready(&self) -> bool {
        let asked = async {
            let mut client = Client::connect(&self.listen).await?;
            client.get("/health/ready").await
        };
        matches!(asked.await, Ok((200, _)))
    }

    /// Ends it as an operator does, so that it gives back its leases.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status()?;
        ensure!(told.success(), "process {pid} could not be told to stop");
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < READY_WITHIN,
                "process {pid} did not stop within {READY_WITHIN:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `MILLRACE_BIN`, or the one beside this program, which is built first: cargo builds no other crate's program.
async fn binary() -> Result<&'static PathBuf> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY
        .get_or_try_init(|| async {
            if let Some(path) = env::var_os("MILLRACE_BIN") {
                return Ok(PathBuf::from(path));
            }
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let build = Command::new(cargo)
                .args([
                    "build",
                    "--quiet",
                    "--release",
                    "-p",
                    "cli",
                    "--manifest-path",
                ])
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
                .status()
                .context("cargo cannot be run; set MILLRACE_BIN to a built millrace")?;
            ensure!(build.success(), "the millrace command was not built");
            let own = env::current_exe()?;
            let directory = own.parent().context("this program lies in no directory")?;
            Ok(directory.join("millrace"))
        })
        .await
}
