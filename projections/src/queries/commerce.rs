//! The queries over payments, products, sagas and sales.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// What became of an order's money.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Payment {
    /// Whose.
    pub order_id: String,
    /// Who pays.
    pub customer_id: String,
    /// Where it stands, such as `received`.
    pub status: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much was asked for.
    pub requested_cents: i64,
    /// How much the gateway took.
    pub charged_cents: i64,
    /// How much of it went back.
    pub refunded_cents: i64,
    /// Why it failed or is not wanted any longer.
    pub reason: Option<String>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

const PAYMENT: &str =
    "SELECT order_id, customer_id, status, currency, requested_cents, charged_cents,
    refunded_cents, reason, updated_at, version FROM views.payments";

/// Payments by order.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListPayments {
    /// Only this customer's.
    pub customer_id: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListPayments {
    const VIEW: &'static str = "payments";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Payment>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let sql = format!(
            "{PAYMENT} WHERE ($1 IS NULL OR customer_id = $1) AND ($2 IS NULL OR status = $2)
               AND ($3 IS NULL OR order_id > $3) ORDER BY order_id LIMIT $4"
        );
        let rows: Vec<Payment> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&self.customer_id)
            .bind(&self.status)
            .bind(page.key::<String>("payments")?)
            .bind(page.fetch_limit())
            .fetch_all(db)
            .await?;
        Ok(page.listed("payments", rows, |row| row.order_id.clone()))
    }
}

/// One order's payment.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetPayment {
    /// The order's id.
    pub id: String,
}

impl Query for GetPayment {
    const VIEW: &'static str = "payments";
    const SHAPE: Shape = Shape::One;
    type Answer = Payment;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Payment, QueryError> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{PAYMENT} WHERE order_id = $1"
        )))
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "payment",
            id: self.id.clone(),
        })
    }
}

/// What is sold.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Product {
    /// Its id, which is that of its stock too.
    pub product_id: String,
    /// What it is called.
    pub name: String,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// Price of one.
    pub price_cents: Option<i64>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Products by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListProducts {}

impl Query for ListProducts {
    const VIEW: &'static str = "products";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Product>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Product> = sqlx::query_as(
            "SELECT product_id, name, currency, price_cents, updated_at, version FROM views.products
             WHERE ($1 IS NULL OR product_id > $1) ORDER BY product_id LIMIT $2",
        )
        .bind(page.key::<String>("products")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("products", rows, |row| row.product_id.clone()))
    }
}

/// One product.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetProduct {
    /// Its id.
    pub id: String,
}

impl Query for GetProduct {
    const VIEW: &'static str = "products";
    const SHAPE: Shape = Shape::One;
    type Answer = Product;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Product, QueryError> {
        sqlx::query_as(
            "SELECT product_id, name, currency, price_cents, updated_at, version FROM views.products
             WHERE product_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "product",
            id: self.id.clone(),
        })
    }
}

/// What was sold on a day in one currency.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct DaySales {
    /// In UTC, such as `2026-01-31`.
    pub day: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How many orders.
    pub orders: i64,
    /// What they cost.
    pub total_cents: i64,
    /// Of the digest, from 1.
    pub revision: i64,
    /// When the digest came.
    pub issued_at: DateTime<Utc>,
}

/// Days and their currencies, oldest first.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSalesDigests {
    /// Only of this currency.
    pub currency: Option<String>,
}

impl Query for ListSalesDigests {
    const VIEW: &'static str = "sales-digests";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<DaySales>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (day, currency) = page.key::<(String, String)>("sales-digests")?.unzip();
        let rows: Vec<DaySales> = sqlx::query_as(
            "SELECT day, currency, orders, total_cents, revision, issued_at FROM views.sales_digests
             WHERE ($1 IS NULL OR currency = $1) AND ($2 IS NULL OR (day, currency) > ($2, $3))
             ORDER BY day, currency LIMIT $4",
        )
        .bind(&self.currency)
        .bind(day)
        .bind(currency)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        let key = |row: &DaySales| (row.day.clone(), row.currency.clone());
        Ok(page.listed("sales-digests", rows, key))
    }
}

/// One day, with all its currencies.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetSalesDigest {
    /// The day, such as `2026-01-31`.
    pub id: String,
}

impl Query for GetSalesDigest {
    const VIEW: &'static str = "sales-digests";
    const SHAPE: Shape = Shape::One;
    type Answer = Vec<DaySales>;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Vec<DaySales>, QueryError> {
        let rows: Vec<DaySales> = sqlx::query_as(
            "SELECT day, currency, orders, total_cents, revision, issued_at FROM views.sales_digests
             WHERE day = $1 ORDER BY currency",
        )
        .bind(&self.id)
        .fetch_all(db)
        .await?;
        if rows.is_empty() {
            return Err(QueryError::NotFound {
                what: "sales digest",
                id: self.id.clone(),
            });
        }
        Ok(rows)
    }
}
