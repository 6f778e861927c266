//! The reference system's views, each with the library's own test kit on a real Postgres.

mod commerce;
mod identity;
mod library;
mod notifications;

use chrono::{DateTime, Utc};
use millrace::projection::{fold, sql_projection, tally};
use millrace::testing::view::{TestError, ViewTest};
use projections::views::{
    customer_totals::CustomerTotals, event_log::EventLog, orders::Orders, stock::Stock,
};
use schemas::order::{
    Coordination, OrderCancelled, OrderConfirmed, OrderDrafted, OrderEvent, OrderItemAdded,
    OrderLine, OrderPlaced, OrderProductReserved,
};
use schemas::stock::{
    StockEvent, StockRanLow, StockReceived, StockReleased, StockReorderLevelSet,
    StockReservationRefused, StockReserved, StockShippedOut,
};
use serde_json::json;
use tests::servers::Servers;

fn placed(customer: &str, totals: &[i64]) -> OrderEvent {
    OrderPlaced {
        customer_id: customer.to_owned(),
        currency: "EUR".to_owned(),
        placed_at: at(),
        lines: totals
            .iter()
            .map(|total| OrderLine {
                product_id: "tea".to_owned(),
                quantity: 1,
                total_cents: *total,
            })
            .collect(),
        coordination: Coordination::default(),
    }
    .into()
}

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_767_323_045_678).unwrap()
}

async fn database() -> Result<String, TestError> {
    Ok(Servers::shared().fresh_database("views").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_shows_what_was_placed_and_what_became_of_it() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Orders), &schemas::all()).await?;
    view.at(at());
    view.given("1", vec![placed("ada", &[300, 250])]).await?;
    let reserved = OrderProductReserved {
        product_id: "tea".to_owned(),
        quantity: 2,
    };
    view.given::<OrderEvent>("1", vec![reserved.into(), OrderConfirmed::default().into()])
        .await?;
    let drafted = OrderDrafted {
        customer_id: "bob".to_owned(),
        currency: "EUR".to_owned(),
    };
    let added = OrderItemAdded {
        product_id: "tea".to_owned(),
        quantity: 2,
        total_cents: 70,
    };
    view.given::<OrderEvent>("2", vec![drafted.into(), added.into()])
        .await?;
    view.given("3", vec![placed("ada", &[5])]).await?;
    let reason = "out of stock".to_owned();
    let products = Vec::new();
    view.given::<OrderEvent>("3", vec![OrderCancelled { reason, products }.into()])
        .await?;
    let time = "2026-01-02T03:04:05.678+00:00";
    assert_eq!(
        view.rows().await?,
        [
            json!({"order_id": "1", "customer_id": "ada", "status": "confirmed", "currency": "EUR", "line_count": 2,
                   "total_cents": 550, "placed_at": time, "updated_at": time, "version": 3}),
            json!({"order_id": "2", "customer_id": "bob", "status": "draft", "currency": "EUR", "line_count": 1,
                   "total_cents": 70, "placed_at": null, "updated_at": time, "version": 2}),
            json!({"order_id": "3", "customer_id": "ada", "status": "cancelled", "currency": "EUR", "line_count": 1,
                   "total_cents": 5, "placed_at": time, "updated_at": time, "version": 2}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_products_stock_is_available_reserved_or_shipped_out() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Stock), &schemas::all()).await?;
    view.at(at());
    let reserved = |order: &str, quantity, tracked| {
        StockEvent::from(StockReserved {
            order_id: order.to_owned(),
            quantity,
            tracked,
            coordination: Coordination::default(),
        })
    };
    let order_id = |order: &str| order.to_owned();
    view.given(
        "tea",
        vec![
            reserved("0", 4, false),
            StockReceived { quantity: 10 }.into(),
            reserved("1", 2, true),
            reserved("2", 3, true),
            reserved("3", 1, true),
        ],
    )
    .await?;
    let refused = StockReservationRefused {
        order_id: order_id("4"),
        quantity: 9,
        available: 4,
        coordination: Coordination::default(),
    };
    view.given::<StockEvent>("tea", vec![refused.into()])
        .await?;
    let (order_id, quantity) = (order_id("1"), 2);
    let released = StockReleased {
        order_id,
        quantity,
        coordination: Coordination::default(),
    };
    view.given::<StockEvent>("tea", vec![released.into()])
        .await?;
    let (order_id, quantity) = ("2".to_owned(), 3);
    view.given::<StockEvent>("tea", vec![StockShippedOut { order_id, quantity }.into()])
        .await?;
    let low = StockRanLow {
        available: 6,
        reorder_level: 6,
    };
    let level = StockReorderLevelSet { level: 6 };
    view.given::<StockEvent>("tea", vec![level.into(), low.into()])
        .await?;
    view.given("cup", vec![reserved("0", 4, false)]).await?;
    let time = "2026-01-02T03:04:05.678+00:00";
    assert_eq!(
        view.rows().await?,
        [
            json!({"product_id": "cup", "received": 0, "available": 0, "reserved": 0, "shipped_out": 0,
                   "untracked": 4, "refusals": 0, "reorder_level": 0, "times_low": 0, "low": false,
                   "updated_at": time, "version": 1}),
            json!({"product_id": "tea", "received": 10, "available": 6, "reserved": 1, "shipped_out": 3,
                   "untracked": 4, "refusals": 1, "reorder_level": 6, "times_low": 1, "low": true,
                   "updated_at": time, "version": 10}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_total_counts_every_order_placed_and_is_never_reduced() -> Result<(), TestError>
{
    let mut view =
        ViewTest::start(&database().await?, tally(CustomerTotals), &schemas::all()).await?;
    view.given("1", vec![placed("ada", &[300, 250])]).await?;
    view.given(
        "2",
        vec![
            placed("ada", &[1]),
            OrderCancelled {
                reason: String::new(),
                products: Vec::new(),
            }
            .into(),
        ],
    )
    .await?;
    view.given("3", vec![placed("bob", &[7])]).await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"customer_id": "ada", "orders": 2, "total_cents": 551}),
            json!({"customer_id": "bob", "orders": 1, "total_cents": 7}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_log_holds_every_event_as_json() -> Result<(), TestError> {
    let mut view = ViewTest::start(
        &database().await?,
        sql_projection(EventLog),
        &schemas::all(),
    )
    .await?;
    view.given(
        "1",
        vec![placed("ada", &[300]), OrderConfirmed::default().into()],
    )
    .await?;
    let rows = view.rows().await?;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["aggregate"], "order");
    assert_eq!(rows[0]["event_type"], "OrderPlaced");
    assert_eq!(rows[0]["data"]["customer_id"], "ada");
    assert_eq!(rows[1]["event_type"], "OrderConfirmed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_overflows_parks_the_order_with_the_reason() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Orders), &schemas::all()).await?;
    let error = view
        .given("1", vec![placed("ada", &[i64::MAX, 1])])
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "parked: 1: the total overflows");
    Ok(())
}
