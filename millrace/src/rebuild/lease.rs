//! The builder's right to write, checked inside each transaction that it writes in.

use sqlx::PgConnection;

use crate::rebuild::RebuildError;
use crate::rebuild::plan::Plan;

/// A lease's name and the epoch that we hold it with.
#[derive(Debug, Clone)]
pub(super) struct Tenure {
    pub(super) name: String,
    pub(super) epoch: i64,
}

impl Tenure {
    /// The lease must be ours now. The lock lets renewals and a take-over pass: what a take-over would
    /// change under us is guarded by compare-and-set and by the build's row.
    pub(super) async fn check(&self, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let ours: Option<bool> = sqlx::query_scalar(
            "SELECT true FROM millrace_views.leases
             WHERE name = $1 AND epoch = $2 AND expires_at > clock_timestamp() FOR KEY SHARE",
        )
        .bind(&self.name)
        .bind(self.epoch)
        .fetch_optional(tx)
        .await?;
        Ok(ours.is_some())
    }

    /// First statements of every shadow transaction: the lease is ours and the build is still being built.
    pub(super) async fn hold(
        &self,
        tx: &mut PgConnection,
        plan: &Plan,
    ) -> Result<(), RebuildError> {
        let fenced = |reason| RebuildError::Fenced {
            view: plan.build.view.clone(),
            build: plan.build.number,
            reason,
        };
        if !self.check(tx).await? {
            return Err(fenced("the lease is another's"));
        }
        let building: Option<bool> = sqlx::query_scalar(
            "SELECT true FROM millrace_views.builds
             WHERE view = $1 AND build = $2 AND state = 'building' FOR SHARE",
        )
        .bind(&plan.build.view)
        .bind(plan.build.number)
        .fetch_optional(tx)
        .await?;
        match building {
            Some(_) => Ok(()),
            None => Err(fenced("another process has ended it")),
        }
    }
}
