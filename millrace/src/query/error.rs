//! Why a query has no answer, and which problem that is over HTTP.

use std::time::Duration;

use axum::http::StatusCode;

use crate::http::problem::Problem;
use crate::position::Token;
use crate::startup::postgres_is_away;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A filter, the cursor, the limit or the token cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// There is no such query.
    #[error("{0}")]
    NoQuery(String),
    /// The query found nothing under the id.
    #[error("{what} {id} is not in the view")]
    NotFound {
        /// Such as `counter`.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The view has not read up to the token yet.
    #[error(
        "view {view} did not reach {token} within {waited_ms} ms: ask again, or see `millrace status`"
    )]
    Behind {
        /// Which view.
        view: String,
        /// What was waited for.
        token: Token,
        /// How long.
        waited_ms: u128,
    },
    /// An operator skipped the token's event: the row will never show it before a rebuild.
    #[error(
        "view {view} passed {token} without applying it, because an operator skipped it: `millrace rebuild {view}` applies it"
    )]
    Skipped {
        /// Which view.
        view: String,
        /// What was waited for.
        token: Token,
    },
    /// The token's event waits in parking.
    #[error(
        "view {view} has parked {aggregate_id}, so {token} is not applied: see `millrace parked show {view} {aggregate_id}`"
    )]
    Parked {
        /// Which view.
        view: String,
        /// What was waited for.
        token: Token,
        /// The parked aggregate.
        aggregate_id: String,
    },
    /// The answer is no JSON.
    #[error("the answer of view {0} cannot be written: {1}")]
    Answer(&'static str, String),
    /// The views' Postgres is away or refused.
    #[error("the views' database: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match &error {
            QueryError::Malformed(_) => Self::malformed(error),
            QueryError::NoQuery(_) | QueryError::NotFound { .. } => Self::unknown(error),
            QueryError::Behind { .. } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "behind",
                "The view has not read that far yet",
                error,
            ),
            QueryError::Skipped { .. } => Self::new(
                StatusCode::GONE,
                "skipped",
                "An operator skipped the event",
                error,
            ),
            QueryError::Parked { aggregate_id, .. } => {
                let aggregate_id = aggregate_id.clone();
                Self::new(
                    StatusCode::CONFLICT,
                    "parked",
                    "The aggregate is parked",
                    error,
                )
                .with("aggregate_id", aggregate_id)
            }
            // 57014: our own statement timeout.
            QueryError::Database(cause) if away(cause) => {
                tracing::warn!(%error, "query not answered");
                Self::unavailable(
                    "the views' database does not answer; try again",
                    Duration::from_secs(2),
                )
            }
            QueryError::Answer(..) | QueryError::Database(_) => {
                tracing::error!(%error, "query failed");
                Self::failure("the query failed; the log of the projections says why")
            }
        }
    }
}

/// A view that does not exist yet belongs to a sink that has not started yet.
fn away(error: &sqlx::Error) -> bool {
    let missing = |code: &str| code == "42P01" || code == "3F000";
    postgres_is_away(error)
        || matches!(error, sqlx::Error::PoolClosed | sqlx::Error::Tls(_))
        || matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| missing(&code)))
}
