//! Postgres connections of sinks and builders: every wait on them ends.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::config::ViewsConfig;
use crate::journal::BY_KEY;

/// Longest that any step may take: a server that vanished without a word must not hold the thread for ever.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects with limits on every wait inside the server.
pub(crate) async fn connect(
    config: &ViewsConfig,
    name: &'static str,
) -> Result<PgConnection, sqlx::Error> {
    let options = options(config, name)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(connected) => connected,
        Err(_) => Err(timed_out("connecting")),
    }
}

/// Limits inside the server; `name` is what `pg_stat_activity` shows.
pub(crate) fn options(
    config: &ViewsConfig,
    name: &'static str,
) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(
        PgConnectOptions::from_str(config.views_database_url.expose())?
            .application_name(name)
            .options(BY_KEY)
            .options([
                ("lock_timeout", "10s"),
                ("statement_timeout", "50s"),
                ("idle_in_transaction_session_timeout", "30s"),
            ]),
    )
}

/// Bounds a step.
pub(crate) async fn bounded<T, E: From<sqlx::Error>>(
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    bounded_by(STEP_TIMEOUT, step).await
}

/// Bounds a step that may take longer, or shorter, than most.
pub(crate) async fn bounded_by<T, E: From<sqlx::Error>>(
    limit: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limit, step).await {
        Ok(done) => done,
        Err(_) => Err(timed_out("a statement").into()),
    }
}

fn timed_out(what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("{what} took too long"),
    ))
}
