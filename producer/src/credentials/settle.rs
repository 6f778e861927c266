//! Hashes that are nobody's are removed.
//!
//! Invariant: the hash that the events of a user name is there; and of a registration that has ended without a user, or
//! that never began, none is left.
//!
//! The schedules that would break it, and why they do not:
//! - A producer is killed between writing the hash and asking for the registration: nobody names the row. It is removed
//!   after an hour; by then no command that names it can be on its way, for they are bounded by seconds.
//! - A registration is asked for twice, under one id, with two hashes. The one that its first event names counts, and which
//!   one that is never changes; so the other one can be removed as soon as there is a first event.
//! - A row is removed while its registration goes on. Not so: it is removed only when the registration was refused, which
//!   is an end, or was begun with another row.
//!
//! Any producer settles; two that settle one row do the same.

use std::time::Duration;

use millrace::command::{CommandError, Commands, Moment};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CredentialError, Credentials};
use crate::aggregates::identity::registration::{Registration, Status};

/// How often rows are looked for.
const EVERY: Duration = Duration::from_secs(2);

/// Rows that are looked at in a round.
const ROWS_MAX: i64 = 200;

/// A row whose registration goes on is looked at again after that.
const LOOK_AGAIN: &str = "UPDATE identity.credentials SET settle_at = now() + interval '10 seconds' WHERE credential_id = $1";

/// A row whose registration has not begun by then is nobody's.
const ORPHAN_AFTER_S: f64 = 3_600.0;

/// Settles what is open until shutdown.
pub async fn settle(credentials: Credentials, commands: Commands, shutdown: CancellationToken) {
    loop {
        match round(&credentials.pool, &commands).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "credentials wait to be settled"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What is to be done with a row.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    LookAgain,
}

fn verdict(registration: &Registration, credential_id: Uuid, orphan: bool) -> Verdict {
    match registration.credential_id() {
        None if registration.status() == Status::New && !orphan => Verdict::LookAgain,
        Some(named) if named == credential_id.to_string() => match registration.status() {
            Status::Completed => Verdict::Keep,
            Status::Refused => Verdict::Remove,
            Status::New | Status::Awaits(_) | Status::Withdrawing => Verdict::LookAgain,
        },
        _ => Verdict::Remove,
    }
}

async fn round(pool: &PgPool, commands: &Commands) -> Result<(), SettleError> {
    let open: Vec<(Uuid, String, bool)> = sqlx::query_as(
        "SELECT credential_id, registration_id, created_at < now() - make_interval(secs => $1)
         FROM identity.credentials WHERE NOT kept AND settle_at <= now()
         ORDER BY settle_at LIMIT $2",
    )
    .bind(ORPHAN_AFTER_S)
    .bind(ROWS_MAX)
    .fetch_all(pool)
    .await?;
    for (credential_id, registration_id, orphan) in open {
        let node = commands.node("registration")?;
        let state = node.state(registration_id, Moment::Now).await?.state;
        let registration: Registration = serde_json::from_value(state)?;
        let statement = match verdict(&registration, credential_id, orphan) {
            Verdict::Keep => "UPDATE identity.credentials SET kept = true WHERE credential_id = $1",
            Verdict::Remove => "DELETE FROM identity.credentials WHERE credential_id = $1",
            Verdict::LookAgain => LOOK_AGAIN,
        };
        sqlx::query(statement)
            .bind(credential_id)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// Why a round could not be finished; the next one goes on.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("registration: {0}")]
    Registration(#[from] CommandError),
    #[error("the state of a registration is not read: {0}")]
    State(#[from] serde_json::Error),
}

impl From<sqlx::Error> for SettleError {
    fn from(error: sqlx::Error) -> Self {
        Self::Credential(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::aggregate::fold;
    use schemas::identity::registration::*;

    fn begun(credential_id: Option<Uuid>) -> RegistrationEvent {
        RegistrationStarted {
            tenant_id: "acme".into(),
            tenant_name: None,
            email: "ada@example.com".into(),
            user_id: "1".into(),
            first_name: "Ada".into(),
            last_name: String::new(),
            phone: None,
            timezone: None,
            language: None,
            workspace_id: "1".into(),
            workspace_name: "Ada".into(),
            credential_id: credential_id.map(|id| id.to_string()),
        }
        .into()
    }

    fn refused() -> RegistrationEvent {
        RegistrationRefused {
            step: RegistrationStep::Email,
            reason: "taken".into(),
            tenant_id: "acme".into(),
            email: "ada@example.com".into(),
            workspace_id: "1".into(),
            give_back: Vec::new(),
        }
        .into()
    }

    fn completed() -> RegistrationEvent {
        RegistrationCompleted {
            tenant_id: "acme".into(),
            email: "ada@example.com".into(),
            user_id: "1".into(),
            workspace_id: "1".into(),
        }
        .into()
    }

    #[test]
    fn a_hash_is_kept_with_its_user_and_removed_where_it_can_be_no_users_any_more() {
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (own, others) = (begun(Some(id)), begun(Some(other)));
        for (history, expected) in [
            (vec![own.clone()], Verdict::LookAgain),
            (vec![own.clone(), completed()], Verdict::Keep),
            (vec![own, refused()], Verdict::Remove),
            (vec![others.clone()], Verdict::Remove),
            (vec![others, completed()], Verdict::Remove),
            (vec![begun(None)], Verdict::Remove),
        ] {
            for orphan in [false, true] {
                assert_eq!(
                    verdict(&fold(&history), id, orphan),
                    expected,
                    "{history:?}"
                );
            }
        }
        let never = Registration::default();
        assert_eq!(verdict(&never, id, false), Verdict::LookAgain);
        assert_eq!(verdict(&never, id, true), Verdict::Remove);
    }
}
