//! What the stock of a product does, and that it always adds up.

use super::*;
use millrace::aggregate::fold;
use millrace::testing::given;

fn received(quantity: i64) -> StockEvent {
    StockReceived { quantity }.into()
}

fn reserve(order_id: &str, quantity: i64) -> ReserveStock {
    ReserveStock {
        order_id: order_id.into(),
        quantity,
        coordination: Coordination::Choreography,
    }
}

fn reserved(order_id: &str, quantity: i64, tracked: bool) -> StockEvent {
    StockReserved {
        order_id: order_id.into(),
        quantity,
        tracked,
        coordination: Coordination::Choreography,
    }
    .into()
}

fn refused(order_id: &str, quantity: i64, available: i64) -> StockEvent {
    StockReservationRefused {
        order_id: order_id.into(),
        quantity,
        available,
        coordination: Coordination::Choreography,
    }
    .into()
}

fn release(order_id: &str) -> ReleaseStock {
    ReleaseStock {
        order_id: order_id.into(),
    }
}

fn released(order_id: &str, quantity: i64) -> StockEvent {
    StockReleased {
        order_id: order_id.into(),
        quantity,
        coordination: Coordination::Choreography,
    }
    .into()
}

fn ship_out(order_id: &str) -> ShipOutStock {
    ShipOutStock {
        order_id: order_id.into(),
    }
}

fn shipped_out(order_id: &str, quantity: i64) -> StockEvent {
    StockShippedOut {
        order_id: order_id.into(),
        quantity,
    }
    .into()
}

#[test]
fn goods_that_came_in_can_be_reserved_to_the_last_one() {
    given::<Stock>([])
        .when(ReceiveStock { quantity: 3 })
        .then([received(3)]);
    given::<Stock>([received(3)])
        .when(reserve("1", 3))
        .then([reserved("1", 3, true)]);
}

#[test]
fn a_reservation_of_more_than_there_is_takes_nothing_and_says_what_there_was() {
    given::<Stock>([received(3), reserved("1", 2, true)])
        .when(reserve("2", 2))
        .then([refused("2", 2, 1)]);
    given::<Stock>([received(3), reserved("1", 2, true), refused("2", 2, 1)])
        .when(reserve("3", 1))
        .then([reserved("3", 1, true)]);
}

#[test]
fn a_repeated_reservation_of_an_order_changes_nothing() {
    given::<Stock>([received(3), reserved("1", 2, true)])
        .when(reserve("1", 2))
        .then_nothing();
}

#[test]
fn an_order_does_not_change_the_quantity_of_its_reservation() {
    given::<Stock>([received(3), reserved("1", 2, true)])
        .when(reserve("1", 3))
        .then_rejected(Rejection::OtherQuantity {
            order_id: "1".into(),
            reserved: 2,
            asked: 3,
        });
}

#[test]
fn released_goods_can_be_reserved_again() {
    let history = [received(1), reserved("1", 1, true)];
    given::<Stock>(history.clone())
        .when(release("1"))
        .then([released("1", 1)]);
    given::<Stock>([history.to_vec(), vec![released("1", 1)]].concat())
        .when(reserve("2", 1))
        .then([reserved("2", 1, true)]);
}

#[test]
fn goods_that_left_do_not_come_back_by_a_release() {
    let history = [received(1), reserved("1", 1, true), shipped_out("1", 1)];
    given::<Stock>(history[..2].to_vec())
        .when(ship_out("1"))
        .then([shipped_out("1", 1)]);
    given::<Stock>(history.clone())
        .when(release("1"))
        .then_nothing();
    given::<Stock>(history)
        .when(reserve("2", 1))
        .then([refused("2", 1, 0)]);
}

#[test]
fn an_order_that_has_nothing_set_aside_releases_and_ships_nothing() {
    given::<Stock>([received(1), refused("1", 2, 1)])
        .when(release("1"))
        .then_nothing();
    given::<Stock>([received(1)])
        .when(ship_out("1"))
        .then_nothing();
}

#[test]
fn a_product_that_was_never_stocked_reserves_always_and_says_that_it_is_not_tracked() {
    given::<Stock>([])
        .when(reserve("1", QUANTITY_MAX))
        .then([reserved("1", QUANTITY_MAX, false)]);
    given::<Stock>([reserved("1", 5, false)])
        .when(release("1"))
        .then_nothing();
}

#[test]
fn what_was_reserved_untracked_is_not_taken_from_goods_that_come_in_later() {
    let history = [reserved("1", 5, false), received(3)];
    given::<Stock>(history.clone())
        .when(ship_out("1"))
        .then_nothing();
    given::<Stock>(history.clone())
        .when(release("1"))
        .then_nothing();
    given::<Stock>(history)
        .when(reserve("2", 3))
        .then([reserved("2", 3, true)]);
}

#[test]
fn quantities_are_at_least_one_and_bounded() {
    given::<Stock>([])
        .when(ReceiveStock { quantity: 0 })
        .then_rejected(Rejection::Quantity(0));
    given::<Stock>([])
        .when(reserve("1", -1))
        .then_rejected(Rejection::Quantity(-1));
    given::<Stock>([received(QUANTITY_MAX)])
        .when(ReceiveStock { quantity: 1 })
        .then_rejected(Rejection::TooMuch { asked: 1 });
}

#[test]
fn a_reservation_is_somebodys() {
    given::<Stock>([])
        .when(reserve("", 1))
        .then_rejected(Rejection::OrderId);
    given::<Stock>([])
        .when(reserve(&"o".repeat(ID_BYTES_MAX + 1), 1))
        .then_rejected(Rejection::OrderId);
}

#[test]
fn nothing_is_kept_of_a_reservation_that_is_closed() {
    let closed: Stock = fold(&[
        received(3),
        reserved("1", 1, true),
        reserved("2", 1, true),
        released("1", 1),
        shipped_out("2", 1),
    ]);
    let fresh = Stock {
        received: 3,
        available: 2,
        ..Stock::default()
    };
    assert_eq!(closed, fresh);
}

/// All sequences of six of these commands over two orders.
#[test]
fn the_balance_holds_after_whatever_is_asked_in_whatever_order() {
    let commands: Vec<StockCommand> = ["1", "2"]
        .into_iter()
        .flat_map(|order| {
            [
                StockCommand::from(reserve(order, 2)),
                release(order).into(),
                ship_out(order).into(),
            ]
        })
        .chain([ReceiveStock { quantity: 3 }.into()])
        .collect();
    let context = Context {
        aggregate_id: "tea".into(),
        now: chrono::DateTime::UNIX_EPOCH,
    };
    for number in 0..commands.len().pow(6) {
        let mut stock = Stock::default();
        let mut shipped = 0;
        let mut rest = number;
        for _ in 0..6 {
            let command = commands[rest % commands.len()].clone();
            rest /= commands.len();
            for event in stock.decide(command, &context).unwrap() {
                if let StockEvent::StockShippedOut(of) = &event {
                    shipped += of.quantity;
                }
                stock.evolve(&event);
            }
            let set_aside: i64 = stock.reserved.values().map(|open| open.quantity).sum();
            assert!(stock.available >= 0, "{number}: {stock:?}");
            assert_eq!(
                stock.available + set_aside + shipped,
                stock.received,
                "{number}"
            );
        }
    }
}

fn level(level: i64) -> StockEvent {
    StockReorderLevelSet { level }.into()
}

fn low(available: i64, reorder_level: i64) -> StockEvent {
    StockRanLow {
        available,
        reorder_level,
    }
    .into()
}

#[test]
fn a_stock_that_falls_to_its_reorder_level_says_so_once_until_it_was_above_it() {
    let above = [received(5), level(2), reserved("1", 2, true)];
    given::<Stock>(above.clone())
        .when(reserve("2", 1))
        .then([reserved("2", 1, true), low(2, 2)]);
    let below = [above.as_slice(), &[reserved("2", 1, true), low(2, 2)]].concat();
    given::<Stock>(below.clone())
        .when(reserve("3", 1))
        .then([reserved("3", 1, true)]);
    let above_again = [below.as_slice(), &[released("1", 2)]].concat();
    given::<Stock>(above_again)
        .when(reserve("3", 3))
        .then([reserved("3", 3, true), low(1, 2)]);
}

#[test]
fn a_reorder_level_that_is_above_what_there_is_is_low_at_once() {
    let set = |level| SetReorderLevel { level };
    given::<Stock>([received(5)])
        .when(set(5))
        .then([level(5), low(5, 5)]);
    given::<Stock>([received(5)]).when(set(4)).then([level(4)]);
    given::<Stock>([received(5), level(4)])
        .when(set(4))
        .then_nothing();
    given::<Stock>([])
        .when(set(-1))
        .then_rejected(Rejection::Level(-1));
}

#[test]
fn a_stock_without_a_level_or_that_is_not_tracked_is_never_low() {
    given::<Stock>([received(1)])
        .when(reserve("1", 1))
        .then([reserved("1", 1, true)]);
    given::<Stock>([])
        .when(SetReorderLevel { level: 5 })
        .then([level(5)]);
    given::<Stock>([level(5)])
        .when(reserve("1", 1))
        .then([reserved("1", 1, false)]);
}

#[test]
fn goods_that_are_released_are_the_same_ones_business_that_reserved_them() {
    let by_saga = |event: StockEvent| match event {
        StockEvent::StockReserved(of) => StockReserved {
            coordination: Coordination::Orchestration,
            ..of
        }
        .into(),
        StockEvent::StockReleased(of) => StockReleased {
            coordination: Coordination::Orchestration,
            ..of
        }
        .into(),
        other => other,
    };
    given::<Stock>([received(1), by_saga(reserved("1", 1, true))])
        .when(release("1"))
        .then([by_saga(released("1", 1))]);
}
