//! The in-house gateway's books, in Postgres: they survive whatever happens to the process that keeps them.
//!
//! Invariant: a key has one row, and the row says at once what became of it for ever. Racing requests of one key meet at the primary
//! key; whoever comes second reads what the first one wrote.

use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{Charge, ChargeRequest, ChargeState, Refund, RefundRequest};

/// The gateway's books. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: PgPool,
}

#[derive(FromRow)]
struct ChargeRow {
    charge_id: String,
    amount_cents: i64,
    state: String,
    reason: Option<String>,
}

impl From<ChargeRow> for Charge {
    fn from(row: ChargeRow) -> Self {
        Self {
            state: match row.state.as_str() {
                "charged" => ChargeState::Charged,
                "declined" => ChargeState::Declined,
                _ => ChargeState::Void,
            },
            charge_id: row.charge_id,
            amount_cents: row.amount_cents,
            reason: row.reason,
        }
    }
}

/// What all charged and refunded payments come to, by payment id.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Balance {
    /// Whose.
    pub payment_id: String,
    /// How often money was taken.
    pub charges: i64,
    /// How much was taken, less what went back.
    pub cents: i64,
}

impl Ledger {
    /// Opens the books, and makes them where there are none. Several processes may do so at once.
    pub async fn open(pool: PgPool) -> Result<Self, sqlx::Error> {
        let mut tx = pool.begin().await?;
        // Two that create the same at once fail without it.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('gateway'))")
            .execute(&mut *tx)
            .await?;
        sqlx::raw_sql(include_str!("../../migrations/gateway.sql"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Self { pool })
    }

    /// Charges or declines a key that never came; what became of it if it did.
    pub(super) async fn charge(
        &self,
        key: Uuid,
        request: &ChargeRequest,
        declined: Option<&str>,
    ) -> Result<Charge, sqlx::Error> {
        let state = match declined {
            None => "charged",
            Some(_) => "declined",
        };
        self.enter(key, request, state, declined).await
    }

    /// Voids a key that never came; what became of it if it did.
    pub(super) async fn void(&self, key: Uuid) -> Result<Charge, sqlx::Error> {
        let nothing = ChargeRequest {
            payment_id: String::new(),
            currency: String::new(),
            amount_cents: 0,
        };
        self.enter(key, &nothing, "void", None).await
    }

    async fn enter(
        &self,
        key: Uuid,
        request: &ChargeRequest,
        state: &str,
        reason: Option<&str>,
    ) -> Result<Charge, sqlx::Error> {
        let row: ChargeRow = sqlx::query_as(
            "INSERT INTO gateway.charges
                 (key, charge_id, payment_id, currency, amount_cents, state, reason)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (key) DO UPDATE SET asked = charges.asked + 1
             RETURNING charge_id, amount_cents, state, reason",
        )
        .bind(key)
        .bind(format!("ch-{}", key.simple()))
        .bind(&request.payment_id)
        .bind(&request.currency)
        .bind(request.amount_cents)
        .bind(state)
        .bind(reason)
        .fetch_one(&self.pool)
        .await?;
        Ok(row.into())
    }

    /// What became of a charge's key.
    pub(super) async fn find_charge(&self, key: Uuid) -> Result<Option<Charge>, sqlx::Error> {
        let row: Option<ChargeRow> = sqlx::query_as(
            "SELECT charge_id, amount_cents, state, reason FROM gateway.charges WHERE key = $1",
        )
        .bind(key)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(Charge::from))
    }

    /// Gives back; none if there is no such charge, or less of it is left than is asked for.
    pub(super) async fn refund(
        &self,
        key: Uuid,
        request: &RefundRequest,
    ) -> Result<Option<Refund>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        // Refunds of one charge follow each other: two that race must not both see all of it.
        let charged: Option<i64> = sqlx::query_scalar(
            "SELECT amount_cents FROM gateway.charges WHERE charge_id = $1 AND state = 'charged' FOR UPDATE",
        )
        .bind(&request.charge_id)
        .fetch_optional(&mut *tx)
        .await?;
        let done = self.find_refund(key).await?;
        let Some(charged) = charged.filter(|_| done.is_none()) else {
            return Ok(done);
        };
        let back: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(amount_cents), 0)::bigint FROM gateway.refunds WHERE charge_id = $1",
        )
        .bind(&request.charge_id)
        .fetch_one(&mut *tx)
        .await?;
        if charged - back < request.amount_cents {
            return Ok(None);
        }
        let refund = Refund {
            refund_id: format!("re-{}", key.simple()),
            amount_cents: request.amount_cents,
        };
        sqlx::query(
            "INSERT INTO gateway.refunds (key, refund_id, charge_id, payment_id, amount_cents)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(key)
        .bind(&refund.refund_id)
        .bind(&request.charge_id)
        .bind(&request.payment_id)
        .bind(request.amount_cents)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(refund))
    }

    /// What became of a refund's key.
    pub(super) async fn find_refund(&self, key: Uuid) -> Result<Option<Refund>, sqlx::Error> {
        let row: Option<(String, i64)> =
            sqlx::query_as("SELECT refund_id, amount_cents FROM gateway.refunds WHERE key = $1")
                .bind(key)
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(|(refund_id, amount_cents)| Refund {
            refund_id,
            amount_cents,
        }))
    }

    /// What is left of every payment that was ever charged.
    pub async fn balances(&self) -> Result<Vec<Balance>, sqlx::Error> {
        sqlx::query_as(
            "SELECT c.payment_id, count(*) AS charges,
                    (sum(c.amount_cents) - coalesce(sum(r.back), 0))::bigint AS cents
             FROM gateway.charges c
             LEFT JOIN (SELECT charge_id, sum(amount_cents) AS back FROM gateway.refunds GROUP BY charge_id) r
                    ON r.charge_id = c.charge_id
             WHERE c.state = 'charged' GROUP BY c.payment_id ORDER BY c.payment_id",
        )
        .fetch_all(&self.pool)
        .await
    }
}
