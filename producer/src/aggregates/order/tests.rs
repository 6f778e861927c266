//! What an order does, and what it refuses.

use super::*;
use crate::aggregates::{QUANTITY_MAX, TOTAL_CENTS_MAX};
use chrono::DateTime;
use millrace::testing::given;

fn line(quantity: i64, total_cents: i64) -> OrderLine {
    OrderLine {
        product_id: "tea".into(),
        quantity,
        total_cents,
    }
}

fn drafted() -> OrderEvent {
    OrderDrafted {
        customer_id: "ada".into(),
        currency: "EUR".into(),
    }
    .into()
}

fn item() -> OrderEvent {
    OrderItemAdded {
        product_id: "tea".into(),
        quantity: 2,
        total_cents: 500,
    }
    .into()
}

fn placed() -> OrderEvent {
    OrderPlaced {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        placed_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
        lines: vec![line(2, 500)],
        coordination: Coordination::Choreography,
    }
    .into()
}

fn confirmed() -> OrderEvent {
    OrderConfirmed {
        customer_id: "ada".into(),
    }
    .into()
}

fn delivered() -> OrderEvent {
    OrderDelivered {
        customer_id: "ada".into(),
    }
    .into()
}

/// An order of a cup and, on two lines, of five teas.
fn placed_two() -> OrderEvent {
    let OrderEvent::OrderPlaced(mut placed) = placed() else {
        unreachable!();
    };
    let product_id = "cup".to_owned();
    placed.lines = vec![
        line(2, 500),
        OrderLine {
            product_id,
            ..line(1, 90)
        },
        line(3, 700),
    ];
    placed.into()
}

fn products(quantities: &[(&str, i64)]) -> Vec<ProductQuantity> {
    let of = |(product, quantity): &(&str, i64)| ProductQuantity {
        product_id: (*product).to_owned(),
        quantity: *quantity,
    };
    quantities.iter().map(of).collect()
}

fn cancelled(reason: &str, quantities: &[(&str, i64)]) -> OrderEvent {
    OrderCancelled {
        reason: reason.into(),
        products: products(quantities),
    }
    .into()
}

fn reserved(product: &str, quantity: i64) -> OrderEvent {
    OrderProductReserved {
        product_id: product.into(),
        quantity,
    }
    .into()
}

fn reservation(product: &str, quantity: i64) -> RecordReservation {
    RecordReservation {
        product_id: product.into(),
        quantity,
    }
}

/// One less than what is asked for is there.
fn shortage(product: &str, quantity: i64) -> RecordShortage {
    RecordShortage {
        product_id: product.into(),
        quantity,
        available: quantity - 1,
    }
}

fn place(lines: Vec<OrderLine>) -> PlaceOrder {
    PlaceOrder {
        customer_id: Some("ada".into()),
        currency: Some("EUR".into()),
        lines,
        ..PlaceOrder::default()
    }
}

fn wrong(status: Status, needed: &'static str) -> Rejection {
    Rejection::WrongStatus { status, needed }
}

#[test]
fn a_new_order_is_created_and_placed_at_once() {
    given::<Order>([])
        .when(place(vec![line(2, 500)]))
        .then([placed()]);
}

#[test]
fn a_draft_is_placed_with_the_items_that_were_added() {
    given::<Order>([drafted(), item()])
        .when(PlaceOrder::default())
        .then([placed()]);
}

#[test]
fn only_a_draft_takes_items() {
    let add = AddItem {
        product_id: "tea".into(),
        quantity: 2,
        total_cents: 500,
    };
    given::<Order>([drafted()]).when(add.clone()).then([item()]);
    given::<Order>([])
        .when(add.clone())
        .then_rejected(wrong(Status::New, "draft"));
    given::<Order>([placed()])
        .when(add)
        .then_rejected(wrong(Status::Placed, "draft"));
}

#[test]
fn nothing_empty_is_placed() {
    given::<Order>([])
        .when(place(vec![]))
        .then_rejected(Rejection::Empty);
    given::<Order>([drafted()])
        .when(PlaceOrder::default())
        .then_rejected(Rejection::Empty);
}

#[test]
fn a_quantity_of_zero_is_rejected_with_its_line() {
    given::<Order>([])
        .when(place(vec![line(1, 5), line(0, 0)]))
        .then_rejected(Rejection::Line {
            line: 2,
            product_id: "tea".into(),
            reason: "quantity is 0, must be at least 1".into(),
        });
}

#[test]
fn a_total_that_sums_cannot_hold_is_rejected() {
    given::<Order>([])
        .when(place(vec![line(1, i64::MAX), line(1, 1)]))
        .then_rejected(Rejection::Total);
    given::<Order>([])
        .when(place(vec![line(1, TOTAL_CENTS_MAX), line(1, 1)]))
        .then_rejected(Rejection::Total);
}

#[test]
fn an_id_that_is_too_long_for_a_key_is_rejected() {
    let long = PlaceOrder {
        customer_id: Some("c".repeat(201)),
        ..place(vec![line(1, 5)])
    };
    given::<Order>([])
        .when(long)
        .then_rejected(Rejection::LongId("customer_id"));
}

#[test]
fn the_id_in_the_data_must_be_the_orders_own() {
    let other = PlaceOrder {
        order_id: Some("2".into()),
        ..place(vec![line(1, 5)])
    };
    given::<Order>([])
        .when(other)
        .then_rejected(Rejection::OtherOrder {
            found: "2".into(),
            expected: "1".into(),
        });
}

#[test]
fn a_currency_is_three_capital_letters() {
    let euro = PlaceOrder {
        currency: Some("euro".into()),
        ..place(vec![line(1, 5)])
    };
    given::<Order>([])
        .when(euro)
        .then_rejected(Rejection::Currency("euro".into()));
}

#[test]
fn an_order_moves_from_placed_to_delivered_in_order() {
    let ship = ShipOrder {
        tracking_code: None,
    };
    let shipped = || {
        OrderEvent::from(OrderShipped {
            tracking_code: None,
            products: products(&[("tea", 2)]),
            customer_id: "ada".into(),
        })
    };
    given::<Order>([placed()])
        .when(ConfirmOrder {})
        .then([confirmed()]);
    given::<Order>([placed()])
        .when(ship.clone())
        .then_rejected(wrong(Status::Placed, "confirmed"));
    given::<Order>([placed(), confirmed()])
        .when(ship)
        .then([shipped()]);
    given::<Order>([placed(), confirmed(), shipped()])
        .when(DeliverOrder {})
        .then([delivered()]);
}

#[test]
fn an_order_can_be_cancelled_until_it_is_shipped() {
    let cancel = || CancelOrder {
        reason: "changed my mind".into(),
    };
    let shipped = OrderShipped {
        tracking_code: None,
        products: products(&[("tea", 2)]),
        customer_id: "ada".into(),
    };
    given::<Order>([drafted(), item()])
        .when(cancel())
        .then([cancelled("changed my mind", &[])]);
    given::<Order>([placed()])
        .when(cancel())
        .then([cancelled("changed my mind", &[("tea", 2)])]);
    given::<Order>([placed(), confirmed(), shipped.into()])
        .when(cancel())
        .then_rejected(wrong(Status::Shipped, "draft, placed or confirmed"));
}

#[test]
fn an_order_is_confirmed_when_all_its_products_are_reserved_and_not_before() {
    given::<Order>([placed_two()])
        .when(reservation("cup", 1))
        .then([reserved("cup", 1)]);
    given::<Order>([placed_two(), reserved("cup", 1)])
        .when(reservation("tea", 5))
        .then([reserved("tea", 5), confirmed()]);
}

#[test]
fn a_repeated_reservation_confirms_nothing() {
    given::<Order>([placed_two(), reserved("cup", 1)])
        .when(reservation("cup", 1))
        .then_nothing();
}

#[test]
fn a_shortage_cancels_the_order_and_says_what_was_ordered_by_product() {
    let reason = "out of stock: 5 of tea asked for, 4 available";
    let all = [("cup", 1), ("tea", 5)];
    given::<Order>([placed_two(), reserved("cup", 1)])
        .when(shortage("tea", 5))
        .then([cancelled(reason, &all)]);
    for late in [
        OrderCommand::from(reservation("cup", 1)),
        shortage("cup", 1).into(),
    ] {
        given::<Order>([placed_two(), cancelled(reason, &all)])
            .when(late)
            .then_nothing();
    }
}

#[test]
fn an_order_that_was_confirmed_by_hand_stays_so_whatever_the_stock_answers() {
    for late in [
        OrderCommand::from(reservation("tea", 2)),
        shortage("tea", 2).into(),
    ] {
        given::<Order>([placed(), confirmed()])
            .when(late)
            .then_nothing();
    }
}

#[test]
fn an_orchestrated_order_leaves_the_stocks_answers_to_its_saga() {
    let OrderEvent::OrderPlaced(mut orchestrated) = placed() else {
        unreachable!();
    };
    orchestrated.coordination = Coordination::Orchestration;
    for answer in [
        OrderCommand::from(reservation("tea", 2)),
        shortage("tea", 2).into(),
    ] {
        given::<Order>([orchestrated.clone().into()])
            .when(answer)
            .then_nothing();
    }
}

#[test]
fn an_answer_must_be_about_what_was_ordered() {
    given::<Order>([])
        .when(reservation("tea", 2))
        .then_rejected(wrong(Status::New, "placed"));
    given::<Order>([drafted(), item()])
        .when(shortage("tea", 2))
        .then_rejected(wrong(Status::Draft, "placed"));
    given::<Order>([placed()])
        .when(reservation("pot", 1))
        .then_rejected(Rejection::NotOrdered("pot".into()));
    given::<Order>([placed()])
        .when(reservation("tea", 1))
        .then_rejected(Rejection::OtherQuantity {
            product_id: "tea".into(),
            found: 1,
            ordered: 2,
        });
}

#[test]
fn an_order_expires_unless_it_was_confirmed_or_has_ended() {
    let expired = cancelled("not confirmed in time", &[("tea", 2)]);
    given::<Order>([placed()])
        .when(ExpireOrder {})
        .then([expired.clone()]);
    given::<Order>([placed(), confirmed()])
        .when(ExpireOrder {})
        .then_nothing();
    given::<Order>([placed(), expired])
        .when(ExpireOrder {})
        .then_nothing();
    given::<Order>([])
        .when(ExpireOrder {})
        .then_rejected(wrong(Status::New, "placed"));
}

#[test]
fn a_product_id_that_can_be_no_key_and_a_quantity_beyond_all_stock_are_rejected() {
    let nul = OrderLine {
        product_id: "t\0".into(),
        ..line(1, 5)
    };
    given::<Order>([])
        .when(place(vec![nul]))
        .then_rejected(Rejection::Line {
            line: 1,
            product_id: "t\0".into(),
            reason: "product_id holds a control character".into(),
        });
    given::<Order>([])
        .when(place(vec![line(QUANTITY_MAX, 5), line(1, 5)]))
        .then_rejected(Rejection::TotalQuantity);
}

#[test]
fn an_order_of_the_retired_event_is_as_good_as_a_placed_one() {
    let old = OrderSubmitted {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        submitted_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
        items: vec![SubmittedItem {
            product_id: "tea".into(),
            quantity: 2,
            unit_price_cents: 250,
        }],
    };
    assert_eq!(OrderEvent::from(OrderPlaced::from(old)), placed());
}

#[test]
fn placing_starts_the_time_for_confirmation_and_only_its_outcome_ends_it() {
    let day = std::time::Duration::from_secs(86_400);
    let set = TimerChange::set("confirmation", day, ExpireOrder {});
    assert_eq!(Order::timers(&placed()), [set]);
    for outcome in [confirmed(), cancelled("late", &[])] {
        assert_eq!(
            Order::timers(&outcome),
            [TimerChange::cancel("confirmation")]
        );
    }
    for event in [drafted(), item(), reserved("tea", 2)] {
        assert_eq!(Order::timers(&event), []);
    }
}

mod paid;
