//! The journal: an append-only Postgres table of events, the outcomes of commands, snapshots and schemas.
//!
//! Invariants that the relay's gate rests on: an append is one autocommit statement, so that its first write
//! locks `streams` before a transaction id is taken and its rows are visible before the lock is dropped; loading and
//! deciding come before it; nothing is ever updated or deleted in `events`.

pub mod append;
pub mod load;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::config::{JournalConfig, Secret};
use crate::migration;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Postgres does not answer or refused.
    #[error("journal: {0}; check that Postgres runs and DATABASE_URL")]
    Postgres(#[from] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("journal migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The server is a standby, where commits show in another order than on the primary.
    #[error("journal: DATABASE_URL names a replica; it must be the primary")]
    Replica,
    /// An aggregate type that cannot name a table.
    #[error("aggregate type {0:?} is not snake case: use a-z, 0-9 and _, at most 40 characters")]
    AggregateType(String),
}

/// A journal that is ready for use.
#[derive(Clone)]
pub struct Journal {
    pool: PgPool,
    options: PgConnectOptions,
    uuid: Uuid,
}

impl Journal {
    /// Connects, brings the tables up to date and makes room for these aggregate types.
    pub async fn open(config: &JournalConfig, aggregates: &[&str]) -> Result<Self, JournalError> {
        let options = connect_options(&config.database_url, "millrace-journal")?;
        let mut connection = PgConnection::connect_with(&options).await?;
        if sqlx::query_scalar("SELECT pg_is_in_recovery()")
            .fetch_one(&mut connection)
            .await?
        {
            return Err(JournalError::Replica);
        }
        migrate(&mut connection).await?;
        for aggregate in aggregates {
            add_partition(&mut connection, aggregate).await?;
        }
        let uuid = sqlx::query_scalar("SELECT uuid FROM millrace.journal")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(Self {
            pool: pool(options.clone()),
            options,
            uuid,
        })
    }

    /// Connections for reading; never for appending.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The journal's identity, as in `ce_source`.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// A connection of its own for one writer.
    pub(crate) async fn writer(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self
            .options
            .clone()
            .application_name("millrace-journal-writer")
            .options(BY_KEY);
        tokio::time::timeout(Duration::from_secs(5), PgConnection::connect_with(&options))
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// For sessions whose statements are few and look everything up by key.
///
/// Before the first ANALYZE of a new database the planner takes a table for a page or two and reads it whole, each time; so it may
/// not, and the statements keep look-ups apart by LATERAL, which no join order undoes. And it holds a plan for one
/// array of values to be cheaper than one for any, so that it plans each small batch anew, for longer than the batch takes.
pub(crate) const BY_KEY: [(&str, &str); 4] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// Connections of a role that only reads the journal, which need not be there.
pub fn reader(config: &JournalConfig) -> Result<PgPool, JournalError> {
    Ok(pool(connect_options(
        &config.database_url,
        "millrace-journal-reader",
    )?))
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options)
}

/// Options of every connection to the journal.
pub fn connect_options(url: &Secret, name: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(url
        .expose()
        .parse::<PgConnectOptions>()?
        .application_name(name)
        .options([
            // A session that forgot its transaction would hold the relay back.
            ("idle_in_transaction_session_timeout", "10000"),
            ("statement_timeout", "30000"),
            // A command that was acknowledged is on disk.
            ("synchronous_commit", "on"),
        ])
        .disable_statement_logging())
}

/// Brings schema `millrace` up to date; several processes may start at once.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), JournalError> {
    let migrator = sqlx::migrate!("migrations/journal");
    migration::run(connection, &["millrace"], migrator).await
}

/// Events are partitioned by aggregate type: a type must have its partition before its first event.
async fn add_partition(connection: &mut PgConnection, aggregate: &str) -> Result<(), JournalError> {
    let is_snake = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if aggregate.is_empty() || aggregate.len() > 40 || !aggregate.bytes().all(is_snake) {
        return Err(JournalError::AggregateType(aggregate.to_owned()));
    }
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("millrace.events_{aggregate}"))
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        // Adding a partition locks `events`: only when there is one to add, and never for long. IF NOT EXISTS alone does not stand
        // two producers that start at once: both find nothing, and the second one's CREATE fails. The lock ends with the statements.
        let statement = format!(
            "SET lock_timeout = '5s';
             SELECT pg_advisory_xact_lock(hashtext('millrace'));
             CREATE TABLE IF NOT EXISTS millrace.events_{aggregate}
             PARTITION OF millrace.events FOR VALUES IN ('{aggregate}')"
        );
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
