//! The views computed from the journal once more, by code that shares nothing with the projections.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::oracle::Event;
use super::verdict::Findings;

/// Decodes with the schemas that the registry gives out by id.
pub(crate) struct Decoder {
    registry: String,
    http: reqwest::Client,
    schemas: HashMap<i32, Schema>,
}

impl Decoder {
    pub(crate) fn new(registry: &str) -> Result<Self> {
        Ok(Self {
            registry: registry.to_owned(),
            http: reqwest::Client::builder().build()?,
            schemas: HashMap::new(),
        })
    }

    /// The data of these events, in their order.
    pub(crate) async fn all(&mut self, journal: &[Event]) -> Result<Vec<Value>> {
        let mut data = Vec::with_capacity(journal.len());
        for event in journal {
            data.push(self.decode(event).await?);
        }
        Ok(data)
    }

    async fn decode(&mut self, event: &Event) -> Result<Value> {
        let id = event.schema_id;
        if !self.schemas.contains_key(&id) {
            let url = format!("{}/schemas/ids/{id}", self.registry);
            let answer: Value = self
                .http
                .get(url)
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            let text = answer["schema"]
                .as_str()
                .context("no schema in the answer")?;
            self.schemas.insert(id, Schema::parse_str(text)?);
        }
        let framed = [&[0][..], &id.to_be_bytes()].concat();
        let mut body = event
            .payload
            .strip_prefix(&framed[..])
            .with_context(|| format!("{} has another framing", event.event_id))?;
        let reader = GenericDatumReader::builder(&self.schemas[&id]).build()?;
        Ok(reader.read_value(&mut body)?.try_into()?)
    }
}

/// A row of `views.orders`.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(super) struct Order {
    customer_id: String,
    pub(super) status: String,
    currency: String,
    line_count: i64,
    total_cents: i64,
    placed_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
    version: i64,
}

/// A row of `views.stock`.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub(super) struct Stock {
    pub(super) received: i64,
    pub(super) available: i64,
    pub(super) reserved: i64,
    pub(super) shipped_out: i64,
    untracked: i64,
    refusals: i64,
    updated_at: DateTime<Utc>,
    version: i64,
}

/// What the views must show.
pub(super) struct Expected {
    pub(super) orders: BTreeMap<String, Order>,
    pub(super) stock: BTreeMap<String, Stock>,
    /// Orders and their sum by customer.
    totals: BTreeMap<String, (i64, i64)>,
}

pub(super) fn fold(journal: &[Event], data: &[Value]) -> Result<Expected> {
    let mut orders: BTreeMap<String, Order> = BTreeMap::new();
    let mut stock: BTreeMap<String, Stock> = BTreeMap::new();
    let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (event, data) in journal.iter().zip(data) {
        if event.aggregate_type == "stock" {
            let product = stock.entry(event.aggregate_id.clone()).or_default();
            move_stock(product, event, data)?;
            continue;
        }
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let order = orders
            .entry(event.aggregate_id.clone())
            .or_insert_with(|| Order {
                customer_id: text("customer_id"),
                status: String::new(),
                currency: text("currency"),
                line_count: 0,
                total_cents: 0,
                placed_at: None,
                updated_at: event.occurred_at,
                version: 0,
            });
        order.version = event.sequence;
        order.updated_at = event.occurred_at;
        match event.event_type.as_str() {
            "OrderDrafted" => "draft".clone_into(&mut order.status),
            "OrderItemAdded" => {
                order.line_count += 1;
                order.total_cents += data["total_cents"].as_i64().context("no total_cents")?;
            }
            "OrderPlaced" => {
                let lines = data["lines"].as_array().context("no lines")?;
                let total = lines
                    .iter()
                    .filter_map(|line| line["total_cents"].as_i64())
                    .sum();
                "placed".clone_into(&mut order.status);
                order.line_count = lines.len() as i64;
                order.total_cents = total;
                let placed_at = data["placed_at"].as_i64().context("no placed_at")?;
                order.placed_at = DateTime::from_timestamp_millis(placed_at);
                let sum = totals.entry(order.customer_id.clone()).or_default();
                *sum = (sum.0 + 1, sum.1 + total);
            }
            "OrderProductReserved"
            | "OrderPaymentDue"
            | "OrderPaymentRecorded"
            | "OrderPaid"
            | "OrderPaymentWithdrawn" => {}
            "OrderConfirmed" => "confirmed".clone_into(&mut order.status),
            "OrderShipped" => "shipped".clone_into(&mut order.status),
            "OrderDelivered" => "delivered".clone_into(&mut order.status),
            "OrderCancelled" => "cancelled".clone_into(&mut order.status),
            other => anyhow::bail!("the oracle does not know {other}"),
        }
    }
    Ok(Expected {
        orders,
        stock,
        totals,
    })
}

fn move_stock(product: &mut Stock, event: &Event, data: &Value) -> Result<()> {
    product.version = event.sequence;
    product.updated_at = event.occurred_at;
    let quantity = data["quantity"].as_i64().context("no quantity")?;
    match event.event_type.as_str() {
        "StockReceived" => {
            product.received += quantity;
            product.available += quantity;
        }
        "StockReserved" if data["tracked"] == true => {
            product.available -= quantity;
            product.reserved += quantity;
        }
        "StockReserved" => product.untracked += quantity,
        "StockReservationRefused" => product.refusals += 1,
        "StockReleased" => {
            product.reserved -= quantity;
            product.available += quantity;
        }
        "StockShippedOut" => {
            product.reserved -= quantity;
            product.shipped_out += quantity;
        }
        other => anyhow::bail!("the oracle does not know {other}"),
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct StockRow {
    product_id: String,
    #[sqlx(flatten)]
    stock: Stock,
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    order_id: String,
    #[sqlx(flatten)]
    order: Order,
}

/// Check 3: each view equals the fold.
pub(super) async fn compare(
    expected: &Expected,
    journal: &[Event],
    views: &PgPool,
    findings: &mut Findings,
) -> Result<()> {
    let rows: Vec<OrderRow> = sqlx::query_as("SELECT * FROM views.orders")
        .fetch_all(views)
        .await?;
    let shown = rows
        .into_iter()
        .map(|row| (row.order_id, row.order))
        .collect();
    differ(
        "3 views.orders equals a fold of the journal",
        &expected.orders,
        &shown,
        findings,
    );
    let rows: Vec<StockRow> = sqlx::query_as("SELECT * FROM views.stock")
        .fetch_all(views)
        .await?;
    let shown = rows
        .into_iter()
        .map(|row| (row.product_id, row.stock))
        .collect();
    differ(
        "3 views.stock equals a fold of the journal",
        &expected.stock,
        &shown,
        findings,
    );
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT customer_id, orders, total_cents FROM views.customer_totals")
            .fetch_all(views)
            .await?;
    let shown = rows
        .into_iter()
        .map(|(customer, orders, cents)| (customer, (orders, cents)))
        .collect();
    differ(
        "3 views.customer_totals equals a fold of the journal",
        &expected.totals,
        &shown,
        findings,
    );
    event_log(journal, views, findings).await
}

pub(crate) fn differ<T: PartialEq + std::fmt::Debug>(
    check: &'static str,
    expected: &BTreeMap<String, T>,
    shown: &BTreeMap<String, T>,
    findings: &mut Findings,
) {
    for (key, row) in expected {
        match shown.get(key) {
            Some(other) if other == row => {}
            other => findings.add(check, format!("{key} is {other:?}, not {row:?}")),
        }
    }
    for key in shown.keys().filter(|key| !expected.contains_key(*key)) {
        findings.add(
            check,
            format!("{key} stands in the view and not in the journal"),
        );
    }
}

async fn event_log(journal: &[Event], views: &PgPool, findings: &mut Findings) -> Result<()> {
    const CHECK: &str = "3 views.event_log has each event once";
    let rows: Vec<(String, i64, Uuid)> =
        sqlx::query_as("SELECT aggregate_id, sequence, event_id FROM views.event_log")
            .fetch_all(views)
            .await?;
    let mut shown = HashSet::new();
    for row in rows {
        if !shown.insert(row.clone()) {
            findings.add(CHECK, format!("{} {} stands there twice", row.0, row.1));
        }
    }
    for event in journal {
        let row = (event.aggregate_id.clone(), event.sequence, event.event_id);
        if !shown.remove(&row) {
            findings.add(CHECK, format!("{} {} is missing", row.0, row.1));
        }
    }
    for (id, sequence, event_id) in shown {
        findings.add(
            CHECK,
            format!("{id} {sequence} ({event_id}) is not in the journal"),
        );
    }
    Ok(())
}
