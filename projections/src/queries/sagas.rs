//! The queries over the sagas of orders.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// Where the saga of an order is.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct SagaInstance {
    /// Whose.
    pub order_id: String,
    /// `running`, `compensating`, `stuck`, `completed` or `compensated`.
    pub status: String,
    /// The step that it is at, where it is at one.
    pub step: Option<String>,
    /// How often that step was tried.
    pub attempt: i64,
    /// Since when it is there.
    pub since: DateTime<Utc>,
    /// Why it waits beyond its time, or why it is undone.
    pub reason: Option<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

const INSTANCE: &str =
    "SELECT order_id, status, step, attempt, since, reason, started_at, ended_at, version
    FROM views.saga_instances";

/// Sagas by order.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSagaInstances {
    /// Only those that stand there.
    pub status: Option<String>,
    /// Only those that are at this step.
    pub step: Option<String>,
}

impl Query for ListSagaInstances {
    const VIEW: &'static str = "saga-instances";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<SagaInstance>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let sql = format!(
            "{INSTANCE} WHERE ($1 IS NULL OR status = $1) AND ($2 IS NULL OR step = $2)
               AND ($3 IS NULL OR order_id > $3) ORDER BY order_id LIMIT $4"
        );
        let rows: Vec<SagaInstance> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&self.status)
            .bind(&self.step)
            .bind(page.key::<String>("saga-instances")?)
            .bind(page.fetch_limit())
            .fetch_all(db)
            .await?;
        Ok(page.listed("saga-instances", rows, |row| row.order_id.clone()))
    }
}

/// One order's saga.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetSagaInstance {
    /// The order's id.
    pub id: String,
}

impl Query for GetSagaInstance {
    const VIEW: &'static str = "saga-instances";
    const SHAPE: Shape = Shape::One;
    type Answer = SagaInstance;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<SagaInstance, QueryError> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{INSTANCE} WHERE order_id = $1"
        )))
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "saga",
            id: self.id.clone(),
        })
    }
}

/// A step of a saga.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct SagaStep {
    /// Whose.
    pub order_id: String,
    /// Which step of the saga, from 1.
    pub number: i64,
    /// Such as `reserve`.
    pub step: String,
    /// `waiting`, `overdue`, `given_up`, `done` or `failed`.
    pub status: String,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was begun.
    pub since: DateTime<Utc>,
    /// What had not answered when its time was over.
    pub waits_for: Option<String>,
    /// Why it failed, or why it undoes what was done.
    pub reason: Option<String>,
    /// When it was done or failed.
    pub ended_at: Option<DateTime<Utc>>,
}

const STEP: &str =
    "SELECT order_id, number, step, status, attempts, since, waits_for, reason, ended_at
    FROM views.saga_steps";

/// Steps by order, in the order in which they were begun.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSagaSteps {
    /// Only this step's, such as `refund`.
    pub step: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListSagaSteps {
    const VIEW: &'static str = "saga-steps";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<SagaStep>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (order_id, number) = page.key::<(String, i64)>("saga-steps")?.unzip();
        let sql = format!(
            "{STEP} WHERE ($1 IS NULL OR step = $1) AND ($2 IS NULL OR status = $2)
               AND ($3 IS NULL OR (order_id, number) > ($3, $4)) ORDER BY order_id, number LIMIT $5"
        );
        let rows: Vec<SagaStep> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&self.step)
            .bind(&self.status)
            .bind(order_id)
            .bind(number)
            .bind(page.fetch_limit())
            .fetch_all(db)
            .await?;
        let key = |row: &SagaStep| (row.order_id.clone(), row.number);
        Ok(page.listed("saga-steps", rows, key))
    }
}

/// All steps of one order's saga.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetSagaSteps {
    /// The order's id.
    pub id: String,
}

impl Query for GetSagaSteps {
    const VIEW: &'static str = "saga-steps";
    const SHAPE: Shape = Shape::One;
    type Answer = Vec<SagaStep>;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Vec<SagaStep>, QueryError> {
        let sql = format!("{STEP} WHERE order_id = $1 ORDER BY number");
        let rows: Vec<SagaStep> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&self.id)
            .fetch_all(db)
            .await?;
        if rows.is_empty() {
            return Err(QueryError::NotFound {
                what: "saga",
                id: self.id.clone(),
            });
        }
        Ok(rows)
    }
}
