//! The views of payments, products, sagas and sales.

use millrace::projection::fold;
use millrace::testing::view::{TestError, ViewTest};
use projections::views::{
    payments::Payments, products::Products, saga_instances::SagaInstances, saga_steps::SagaSteps,
    sales_digests::SalesDigests,
};
use schemas::order::Coordination;
use schemas::order_saga::*;
use schemas::payment::*;
use schemas::product::*;
use schemas::sales_day::*;
use serde_json::json;

use super::{at, database};

const TIME: &str = "2026-01-02T03:04:05.678+00:00";
const LATER: &str = "2026-01-02T03:04:35.678+00:00";

fn text(text: &str) -> String {
    text.to_owned()
}

fn requested() -> PaymentEvent {
    PaymentRequested {
        customer_id: text("ada"),
        currency: text("EUR"),
        amount_cents: 500,
        charge_before: at(),
        coordination: Coordination::default(),
    }
    .into()
}

fn processed() -> PaymentEvent {
    PaymentProcessed {
        charge_id: text("ch-1"),
        currency: text("EUR"),
        amount_cents: 500,
    }
    .into()
}

fn failed(reason: &str) -> PaymentEvent {
    PaymentFailed {
        reason: text(reason),
        coordination: Coordination::default(),
    }
    .into()
}

fn withdrawn() -> PaymentEvent {
    PaymentWithdrawn {
        reason: text("changed my mind"),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_shows_what_was_charged_and_what_went_back() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Payments), &schemas::all()).await?;
    view.at(at());
    let (customer_id, currency, amount_cents) = (text("ada"), text("EUR"), 500);
    let coordination = Coordination::default();
    let received = PaymentReceived {
        customer_id: customer_id.clone(),
        currency: currency.clone(),
        amount_cents,
        coordination,
    };
    view.given("1", vec![requested(), processed(), received.into()])
        .await?;
    view.given("2", vec![requested(), failed("declined")])
        .await?;
    let asked_back = PaymentRefundRequested {
        charge_id: text("ch-1"),
        currency: currency.clone(),
        amount_cents,
    };
    let late = vec![requested(), withdrawn(), processed(), asked_back.into()];
    view.given("3", late.clone()).await?;
    view.given("4", late).await?;
    let refunded = PaymentRefunded {
        refund_id: text("re-1"),
        customer_id,
        currency,
        amount_cents,
        coordination,
    };
    view.given::<PaymentEvent>("4", vec![refunded.into()])
        .await?;
    view.given("5", vec![withdrawn(), failed("changed my mind")])
        .await?;
    let row = |id: &str,
               status: &str,
               (charged, refunded): (i64, i64),
               reason: Option<&str>,
               version: i64| {
        json!({"order_id": id, "customer_id": "ada", "status": status, "currency": "EUR", "requested_cents": 500,
               "charged_cents": charged, "refunded_cents": refunded, "reason": reason, "updated_at": TIME,
               "version": version})
    };
    let mut never = row("5", "failed", (0, 0), Some("changed my mind"), 2);
    never["customer_id"] = "".into();
    never["currency"] = "".into();
    never["requested_cents"] = 0.into();
    assert_eq!(
        view.rows().await?,
        [
            row("1", "received", (500, 0), None, 3),
            row("2", "failed", (0, 0), Some("declined"), 2),
            row("3", "refunding", (500, 0), Some("changed my mind"), 4),
            row("4", "refunded", (500, 500), Some("changed my mind"), 5),
            never,
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_shows_its_name_and_its_newest_price() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Products), &schemas::all()).await?;
    view.at(at());
    let priced = |price_cents| {
        ProductEvent::from(ProductPriced {
            currency: text("EUR"),
            price_cents,
        })
    };
    let created = ProductCreated { name: text("Tea") };
    view.given("tea", vec![created.into(), priced(250)]).await?;
    view.given("tea", vec![priced(300)]).await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"product_id": "tea", "name": "Tea", "currency": "EUR", "price_cents": 300, "updated_at": TIME,
                "version": 3})
        ]
    );
    Ok(())
}

fn begun(step: SagaStep, attempt: i64, reason: Option<&str>) -> OrderSagaEvent {
    OrderSagaStepBegun {
        step,
        attempt,
        reason: reason.map(text),
        customer_id: text("ada"),
        currency: text("EUR"),
        due_cents: 500,
        products: Vec::new(),
    }
    .into()
}

fn started() -> Vec<OrderSagaEvent> {
    let started = OrderSagaStarted {
        customer_id: text("ada"),
        currency: text("EUR"),
        due_cents: 500,
        products: Vec::new(),
    };
    vec![started.into(), begun(SagaStep::Reserve, 1, None)]
}

fn done(step: SagaStep) -> OrderSagaEvent {
    OrderSagaStepDone { step }.into()
}

fn overdue(attempt: i64, given_up: bool) -> OrderSagaEvent {
    OrderSagaStepOverdue {
        step: SagaStep::Refund,
        attempt,
        waits_for: text("the payment"),
        given_up,
    }
    .into()
}

/// A saga whose payment failed, and what is undone of it so far.
fn undone() -> Vec<OrderSagaEvent> {
    let reason = text("no payment: declined");
    let failed = OrderSagaStepFailed {
        step: SagaStep::Pay,
        reason,
    };
    vec![
        done(SagaStep::Reserve),
        begun(SagaStep::Pay, 1, None),
        failed.into(),
        begun(SagaStep::Refund, 1, Some("no payment: declined")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_shows_where_it_is_since_when_and_why() -> Result<(), TestError> {
    let mut view =
        ViewTest::start(&database().await?, fold(SagaInstances), &schemas::all()).await?;
    view.at(at());
    for order in ["1", "2", "3", "4"] {
        view.given(order, started()).await?;
    }
    for order in ["2", "3"] {
        view.given(order, undone()).await?;
    }
    view.at(at() + chrono::TimeDelta::seconds(30));
    let again = begun(SagaStep::Refund, 2, Some("no payment: declined"));
    view.given("2", vec![overdue(1, false), again]).await?;
    view.given("3", vec![overdue(8, true)]).await?;
    let ended = OrderSagaEnded {
        outcome: SagaOutcome::Completed,
        reason: None,
    };
    view.given::<OrderSagaEvent>("4", vec![done(SagaStep::Confirm), ended.into()])
        .await?;
    let late = "no answer in time from the payment";
    let row = |order: &str,
               status: &str,
               at: (Option<&str>, i64, &str),
               reason: Option<&str>,
               version: i64| {
        json!({"order_id": order, "status": status, "step": at.0, "attempt": at.1, "since": at.2, "reason": reason,
               "started_at": TIME, "ended_at": if status == "completed" { Some(LATER) } else { None }, "version": version})
    };
    assert_eq!(
        view.rows().await?,
        [
            row("1", "running", (Some("reserve"), 1, TIME), None, 2),
            row(
                "2",
                "compensating",
                (Some("refund"), 2, TIME),
                Some(late),
                8
            ),
            row("3", "stuck", (Some("refund"), 1, TIME), Some(late), 7),
            row("4", "completed", (None, 0, LATER), None, 4),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_saga_is_a_row_with_its_end() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(SagaSteps), &schemas::all()).await?;
    view.at(at());
    view.given("1", started()).await?;
    view.given("1", undone()).await?;
    view.at(at() + chrono::TimeDelta::seconds(30));
    view.given(
        "1",
        vec![overdue(1, false), begun(SagaStep::Refund, 2, None)],
    )
    .await?;
    let row = |number: i64, step: &str, status: &str, ended: bool| {
        json!({"order_id": "1", "number": number, "step": step, "status": status, "attempts": 1, "since": TIME,
               "waits_for": null, "reason": null, "ended_at": ended.then_some(TIME)})
    };
    let mut pay = row(2, "pay", "failed", true);
    pay["reason"] = "no payment: declined".into();
    let mut refund = row(3, "refund", "overdue", false);
    refund["attempts"] = 2.into();
    refund["reason"] = "no payment: declined".into();
    refund["waits_for"] = "the payment".into();
    let reserve = row(1, "reserve", "done", true);
    assert_eq!(view.rows().await?, [reserve, pay, refund]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_newest_digest_is_shown_by_currency_and_single_sales_are_not()
-> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(SalesDigests), &schemas::all()).await?;
    view.at(at());
    let counted = SaleCounted {
        order_id: text("1"),
        currency: text("EUR"),
        total_cents: 300,
    };
    let digest = |revision, totals: &[(&str, i64, i64)]| {
        let total = |(currency, orders, total_cents): &(&str, i64, i64)| CurrencyTotal {
            currency: text(currency),
            orders: *orders,
            total_cents: *total_cents,
        };
        SalesDayEvent::from(SalesDigestIssued {
            revision,
            totals: totals.iter().map(total).collect(),
        })
    };
    view.given::<SalesDayEvent>("2026-01-01", vec![counted.clone().into()])
        .await?;
    assert!(view.rows().await?.is_empty());
    view.given("2026-01-01", vec![digest(1, &[("EUR", 1, 300)])])
        .await?;
    let last = digest(2, &[("EUR", 2, 600), ("SEK", 1, 50)]);
    view.given("2026-01-01", vec![counted.into(), last]).await?;
    let row = |currency: &str, orders: i64, cents: i64| {
        json!({"day": "2026-01-01", "currency": currency, "orders": orders, "total_cents": cents,
               "revision": 2, "issued_at": TIME})
    };
    assert_eq!(view.rows().await?, [row("EUR", 2, 600), row("SEK", 1, 50)]);
    Ok(())
}
