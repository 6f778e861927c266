//! Starting: a server that is away is waited for, anything else stops the start with its reason.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::http::health::Component;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// An error that says whether waiting helps.
pub trait StartError: Display {
    /// True where a server is away.
    fn is_transient(&self) -> bool;
}

/// Tries until it works, telling `component` what is waited for; `None` at shutdown.
pub async fn wait_for<T, E: StartError, F: Future<Output = Result<T, E>>>(
    component: &Component,
    shutdown: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, E> {
    let mut said = String::new();
    loop {
        let result = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            result = attempt() => result,
        };
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.is_transient() => {
                let reason = error.to_string();
                component.not_ready(format!("waiting: {reason}"));
                // Once for each reason: a log that repeats itself twice a second hides the rest.
                if reason != said {
                    tracing::warn!(reason, "waiting");
                    said = reason;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

impl StartError for crate::journal::JournalError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Postgres(error) => postgres_is_away(error),
            Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => postgres_is_away(error),
            _ => false,
        }
    }
}

impl StartError for crate::registry::RegistryError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Journal(error) => postgres_is_away(error),
            other => other.is_transient(),
        }
    }
}

impl StartError for crate::projection::sink::SinkError {
    fn is_transient(&self) -> bool {
        use crate::projection::builds::BuildError;
        match self {
            Self::Database(error) | Self::Build(BuildError::Database(error)) => {
                postgres_is_away(error)
            }
            Self::Build(BuildError::Migrate(sqlx::migrate::MigrateError::Execute(error))) => {
                postgres_is_away(error)
            }
            _ => false,
        }
    }
}

impl StartError for crate::effect::EffectError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) | Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => {
                postgres_is_away(error)
            }
            _ => false,
        }
    }
}

impl StartError for crate::log::topics::TopicError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Kafka { .. } | Self::Unseen { .. })
    }
}

/// True where Postgres does not answer, is starting or stopping, or has no room for a connection.
pub fn postgres_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "40"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}
