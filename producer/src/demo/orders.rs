//! The story's orders: one by choreography, one by a saga, and one that is undone.

use millrace::http::problem::Problem;
use schemas::order::{Coordination, DeliverOrder, OrderLine, PaymentMethod, PlaceOrder, ShipOrder};
use schemas::product::CreateProduct;
use schemas::stock::{ReceiveStock, SetReorderLevel};

use super::story::{Cast, PROCESSORS, comes};
use super::teller::Teller;

/// What a payment takes.
const GATEWAY: &str =
    "PAYMENT_GATEWAY_URL at the processors, `in-house` for one to try things with";

pub(super) async fn stock_up(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    for (what, product, name, price_cents) in [
        ("tea is sold", &cast.tea, "Tea", 250),
        ("cups are sold", &cast.cup, "Cup", 900),
    ] {
        let product_of = CreateProduct {
            name: name.to_owned(),
            currency: "EUR".to_owned(),
            price_cents,
        };
        teller.tell(what, product, &product_of).await?;
    }
    for (what, product, quantity) in [
        ("tea comes in", &cast.tea, 10),
        ("two cups come in", &cast.cup, 2),
    ] {
        let receive = ReceiveStock { quantity };
        teller.tell(what, product, &receive).await?;
    }
    let level = SetReorderLevel { level: 1 };
    teller.tell("one cup is few", &cast.cup, &level).await
}

fn order(customer: &str, coordination: Coordination, lines: [(&str, i64, i64); 2]) -> PlaceOrder {
    let line = |(product, quantity, price_cents): (&str, i64, i64)| OrderLine {
        product_id: product.to_owned(),
        quantity,
        total_cents: quantity * price_cents,
    };
    PlaceOrder {
        customer_id: Some(customer.to_owned()),
        currency: Some("EUR".to_owned()),
        coordination,
        lines: lines.map(line).into(),
        payment: Some(PaymentMethod::Gateway),
        ..PlaceOrder::default()
    }
}

pub(super) async fn by_choreography(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    let id = &cast.bobs_order;
    let lines = [(cast.tea.as_str(), 2, 250), (cast.cup.as_str(), 1, 900)];
    let placed = order(&cast.bob, Coordination::Choreography, lines);
    teller
        .tell("Bob orders, coordinated by events alone", id, &placed)
        .await?;
    comes(
        teller,
        "the gateway took Bob's money",
        ("payment", id),
        ("PaymentReceived", 1),
        GATEWAY,
    )
    .await?;
    comes(
        teller,
        "goods and money came, so the order is confirmed",
        ("order", id),
        ("OrderConfirmed", 1),
        PROCESSORS,
    )
    .await?;
    comes(
        teller,
        "one cup is left, which is few",
        ("stock", &cast.cup),
        ("StockRanLow", 1),
        PROCESSORS,
    )
    .await?;
    let ship = ShipOrder {
        tracking_code: Some("RA123456785GB".to_owned()),
    };
    teller.tell("the parcel leaves", id, &ship).await?;
    for (what, product) in [
        ("the tea is out of the stock", &cast.tea),
        ("so is the cup", &cast.cup),
    ] {
        let shipped_out = ("StockShippedOut", 1);
        comes(teller, what, ("stock", product), shipped_out, PROCESSORS).await?;
    }
    teller
        .tell("the parcel arrives", id, &DeliverOrder {})
        .await
}

pub(super) async fn by_saga(teller: &mut Teller<'_>, cast: &Cast) -> Result<(), Problem> {
    let id = &cast.adas_order;
    let lines = [(cast.tea.as_str(), 1, 250), (cast.cup.as_str(), 1, 900)];
    let placed = order(&cast.ada, Coordination::Orchestration, lines);
    teller
        .tell("Ada orders, coordinated by a saga", id, &placed)
        .await?;
    comes(
        teller,
        "the gateway took Ada's money",
        ("payment", id),
        ("PaymentReceived", 1),
        GATEWAY,
    )
    .await?;
    comes(
        teller,
        "reserve, pay and confirm are done",
        ("order_saga", id),
        ("OrderSagaEnded", 1),
        PROCESSORS,
    )
    .await?;
    comes(
        teller,
        "Ada's order is confirmed",
        ("order", id),
        ("OrderConfirmed", 1),
        PROCESSORS,
    )
    .await?;

    let id = &cast.too_much;
    let lines = [(cast.tea.as_str(), 1, 250), (cast.cup.as_str(), 5, 900)];
    let placed = order(&cast.ada, Coordination::Orchestration, lines);
    teller
        .tell("Ada orders more cups than there are", id, &placed)
        .await?;
    let refused = ("StockReservationRefused", 1);
    let cup = ("stock", cast.cup.as_str());
    comes(teller, "no cup is left", cup, refused, PROCESSORS).await?;
    let tea = ("stock", cast.tea.as_str());
    let released = ("StockReleased", 1);
    comes(teller, "the tea goes back", tea, released, PROCESSORS).await?;
    comes(
        teller,
        "the saga undid what was done",
        ("order_saga", id),
        ("OrderSagaEnded", 1),
        PROCESSORS,
    )
    .await?;
    comes(
        teller,
        "the order is cancelled",
        ("order", id),
        ("OrderCancelled", 1),
        PROCESSORS,
    )
    .await
}
