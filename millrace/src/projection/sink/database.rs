//! The sink's one Postgres connection.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::config::ViewsConfig;

/// Longest that any step may take: a server that vanished without a word must not hold the thread for ever.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects with limits on every wait inside the server.
pub(super) async fn connect(config: &ViewsConfig) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::from_str(config.views_database_url.expose())?
        .application_name("millrace view")
        .options([
            ("lock_timeout", "10s"),
            ("statement_timeout", "50s"),
            ("idle_in_transaction_session_timeout", "30s"),
        ]);
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(connected) => connected,
        Err(_) => Err(timed_out("connecting")),
    }
}

/// Bounds a step.
pub(super) async fn bounded<T, E: From<sqlx::Error>>(
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(STEP_TIMEOUT, step).await {
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
