//! The queries over the views; each is a struct of filters and one statement.

pub mod commerce;
pub mod identity;
pub mod library;
pub mod sagas;
pub mod workspaces;

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Queries, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

mod notifications;

pub use notifications::*;

/// Every query; a new one is a line here.
pub fn queries() -> Queries {
    Queries::new()
        .query::<ListOrders>()
        .query::<GetOrder>()
        .query::<ListStock>()
        .query::<GetStock>()
        .query::<ListCustomerTotals>()
        .query::<GetCustomerTotal>()
        .query::<ListEvents>()
        .query::<ListNotifications>()
        .query::<GetNotification>()
        .query::<identity::ListUsers>()
        .query::<identity::GetUser>()
        .query::<identity::ListTenants>()
        .query::<identity::GetTenant>()
        .query::<workspaces::ListWorkspaces>()
        .query::<workspaces::GetWorkspace>()
        .query::<workspaces::ListWorkspaceMembers>()
        .query::<identity::ListRegistrations>()
        .query::<identity::GetRegistration>()
        .query::<commerce::ListPayments>()
        .query::<commerce::GetPayment>()
        .query::<commerce::ListProducts>()
        .query::<commerce::GetProduct>()
        .query::<commerce::ListSalesDigests>()
        .query::<commerce::GetSalesDigest>()
        .query::<sagas::ListSagaInstances>()
        .query::<sagas::GetSagaInstance>()
        .query::<sagas::ListSagaSteps>()
        .query::<sagas::GetSagaSteps>()
        .query::<library::SearchCards>()
        .query::<library::GetCard>()
        .query::<library::ListLibraryActivity>()
        .query::<library::GetLibraryActivity>()
        .query::<library::ListRecommendations>()
        .query::<library::GetRecommendation>()
        .query::<library::ListOwnerStatistics>()
        .query::<library::GetOwnerStatistic>()
        .query::<library::ListProfiles>()
        .query::<library::GetProfile>()
}

/// Paths of their own, besides `/views/<view>`.
pub const ALIASES: [(&str, &str); 2] = [
    ("/events/list", "event-log"),
    ("/events/projections/users", "users"),
];

/// An order as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// Who ordered.
    pub customer_id: String,
    /// Where it stands, such as `placed`.
    pub status: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Number of lines.
    pub line_count: i64,
    /// Sum over the lines.
    pub total_cents: i64,
    /// When the customer placed it.
    pub placed_at: Option<DateTime<Utc>>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Orders by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOrders {
    /// Only this customer's.
    pub customer_id: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListOrders {
    const VIEW: &'static str = "orders";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Order>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Order> = sqlx::query_as(
            "SELECT order_id, customer_id, status, currency, line_count, total_cents, placed_at,
                    updated_at, version
             FROM views.orders
             WHERE ($1 IS NULL OR customer_id = $1) AND ($2 IS NULL OR status = $2)
               AND ($3 IS NULL OR order_id > $3)
             ORDER BY order_id LIMIT $4",
        )
        .bind(&self.customer_id)
        .bind(&self.status)
        .bind(page.key::<String>("orders")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("orders", rows, |row| row.order_id.clone()))
    }
}

/// One order.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetOrder {
    /// Its id.
    pub id: String,
}

impl Query for GetOrder {
    const VIEW: &'static str = "orders";
    const SHAPE: Shape = Shape::One;
    type Answer = Order;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Order, QueryError> {
        sqlx::query_as(
            "SELECT order_id, customer_id, status, currency, line_count, total_cents, placed_at,
                    updated_at, version
             FROM views.orders WHERE order_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "order",
            id: self.id.clone(),
        })
    }
}

/// What there is of a product; available + reserved + shipped out = received.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Stock {
    /// Which product.
    pub product_id: String,
    /// All that ever came in; 0 where the product is not tracked.
    pub received: i64,
    /// What can be reserved.
    pub available: i64,
    /// What is set aside for orders.
    pub reserved: i64,
    /// What left.
    pub shipped_out: i64,
    /// What orders reserved before the product was tracked; in none of the numbers above.
    pub untracked: i64,
    /// How many reservations were refused.
    pub refusals: i64,
    /// At how many it is low; 0 where it never is.
    pub reorder_level: i64,
    /// How often it ran low.
    pub times_low: i64,
    /// What is available is at the reorder level or below it.
    pub low: bool,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Products by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListStock {
    /// Only products that are low.
    pub low: Option<Low>,
}

/// The one value of a filter that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub enum Low {
    /// Those that are low.
    #[serde(rename = "true")]
    Only,
}

impl Query for ListStock {
    const VIEW: &'static str = "stock";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Stock>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Stock> = sqlx::query_as(
            "SELECT product_id, received, available, reserved, shipped_out, untracked, refusals,
                    reorder_level, times_low, low, updated_at, version
             FROM views.stock WHERE ($1 IS NULL OR product_id > $1) AND (low OR NOT $2)
             ORDER BY product_id LIMIT $3",
        )
        .bind(page.key::<String>("stock")?)
        .bind(self.low.is_some())
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("stock", rows, |row| row.product_id.clone()))
    }
}

/// One product.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetStock {
    /// Its id.
    pub id: String,
}

impl Query for GetStock {
    const VIEW: &'static str = "stock";
    const SHAPE: Shape = Shape::One;
    type Answer = Stock;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Stock, QueryError> {
        sqlx::query_as(
            "SELECT product_id, received, available, reserved, shipped_out, untracked, refusals,
                    reorder_level, times_low, low, updated_at, version
             FROM views.stock WHERE product_id = $1",
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

/// What a customer ordered.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct CustomerTotal {
    /// Who.
    pub customer_id: String,
    /// Orders placed.
    pub orders: i64,
    /// Their sum.
    pub total_cents: i64,
}

/// Customers by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListCustomerTotals {}

impl Query for ListCustomerTotals {
    const VIEW: &'static str = "customer-totals";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<CustomerTotal>;
    const BY_POSITION: bool = true;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<CustomerTotal> = sqlx::query_as(
            "SELECT customer_id, orders, total_cents FROM views.customer_totals WHERE ($1 IS NULL OR customer_id > $1)
             ORDER BY customer_id LIMIT $2",
        )
        .bind(page.key::<String>("customer-totals")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("customer-totals", rows, |row| row.customer_id.clone()))
    }
}

/// One customer.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetCustomerTotal {
    /// Who.
    pub id: String,
}

impl Query for GetCustomerTotal {
    const VIEW: &'static str = "customer-totals";
    const SHAPE: Shape = Shape::One;
    type Answer = CustomerTotal;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<CustomerTotal, QueryError> {
        sqlx::query_as("SELECT customer_id, orders, total_cents FROM views.customer_totals WHERE customer_id = $1")
            .bind(&self.id)
            .fetch_optional(db)
            .await?
            .ok_or_else(|| QueryError::NotFound {
                what: "customer",
                id: self.id.clone(),
            })
    }
}

/// An event as the log shows it.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, schemars::JsonSchema)]
pub struct LoggedEvent {
    /// Its id.
    pub event_id: Uuid,
    /// Aggregate type.
    pub aggregate: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// Version of the aggregate, from 1.
    pub sequence: i64,
    /// Name of its Avro record.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Version of its schema file.
    pub schema_version: i32,
    /// When the command was accepted.
    pub occurred_at: DateTime<Utc>,
    /// What set the chain off.
    pub correlation_id: Option<String>,
    /// Id of the command.
    pub causation_id: Option<String>,
    /// The record.
    #[schemars(with = "serde_json::Value")]
    pub data: Json<serde_json::Value>,
}

/// Events by time, oldest first.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListEvents {
    /// Only of this aggregate type.
    pub aggregate: Option<String>,
    /// Only of this aggregate.
    #[serde(alias = "id")]
    pub aggregate_id: Option<String>,
    /// Only of this type, such as `OrderPlaced`.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Not before, RFC 3339.
    pub from: Option<DateTime<Utc>>,
    /// Before, RFC 3339.
    pub to: Option<DateTime<Utc>>,
    /// Only of this chain.
    pub correlation_id: Option<String>,
}

/// Time alone does not tell two events apart; within an aggregate the sequence keeps its order.
type EventKey = (DateTime<Utc>, String, String, i64);

impl Query for ListEvents {
    const VIEW: &'static str = "event-log";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<LoggedEvent>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (at, aggregate, id, sequence) = match page.key::<EventKey>("event-log")? {
            Some((at, aggregate, id, sequence)) => {
                (Some(at), Some(aggregate), Some(id), Some(sequence))
            }
            None => (None, None, None, None),
        };
        let rows: Vec<LoggedEvent> = sqlx::query_as(
            "SELECT event_id, aggregate, aggregate_id, sequence, event_type, schema_version,
                    occurred_at, correlation_id, causation_id, data
             FROM views.event_log
             WHERE ($1 IS NULL OR aggregate = $1) AND ($2 IS NULL OR aggregate_id = $2)
               AND ($3 IS NULL OR event_type = $3) AND ($4 IS NULL OR occurred_at >= $4)
               AND ($5 IS NULL OR occurred_at < $5) AND ($6 IS NULL OR correlation_id = $6)
               AND ($7 IS NULL
                    OR (occurred_at, aggregate, aggregate_id, sequence) > ($7, $8, $9, $10))
             ORDER BY occurred_at, aggregate, aggregate_id, sequence LIMIT $11",
        )
        .bind(&self.aggregate)
        .bind(&self.aggregate_id)
        .bind(&self.event_type)
        .bind(self.from)
        .bind(self.to)
        .bind(&self.correlation_id)
        .bind(at)
        .bind(aggregate)
        .bind(id)
        .bind(sequence)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("event-log", rows, |row| {
            (
                row.occurred_at,
                row.aggregate.clone(),
                row.aggregate_id.clone(),
                row.sequence,
            )
        }))
    }
}
