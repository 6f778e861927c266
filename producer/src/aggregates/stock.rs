//! The stock of one product; the product's id is the aggregate's.
//!
//! Invariant: available + reserved + shipped out = received, none of them below zero. Racing reservations break it if
//! two are decided on the same state; both then expect the same version and the journal takes one of them.
//!
//! A product that was never received is not tracked: it reserves always, and nothing of such a reservation is kept,
//! so that it is never given back to a stock that it was not taken from, also when goods come in meanwhile.
//!
//! Kept are open reservations only, so the state is bounded by what was received. A reservation that comes again after
//! its goods were released or left has the id of the first one, and the command side answers with that one's outcome;
//! under a new id it is a new reservation.

use std::collections::BTreeMap;

use millrace::aggregate::{Aggregate, Context};
use schemas::stock::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::{ID_BYTES_MAX, QUANTITY_MAX};

/// Why a stock does not do what is asked of it. That there is too little is an event instead: the order reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nothing or less.
    #[error("quantity is {0}, must be at least 1")]
    Quantity(i64),
    /// More than is handled.
    #[error("with {asked} more than {QUANTITY_MAX} of the product would have been received")]
    TooMuch {
        /// How many came in.
        asked: i64,
    },
    /// Nobody's, or an id that cannot be a key.
    #[error("order_id is empty or longer than {ID_BYTES_MAX} bytes")]
    OrderId,
    /// The order has another reservation.
    #[error(
        "{reserved} are set aside for order {order_id}, not {asked}; release them before reserving another quantity"
    )]
    OtherQuantity {
        /// Which order.
        order_id: String,
        /// What it has.
        reserved: i64,
        /// What it asks for now.
        asked: i64,
    },
}

/// The stock of a product, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stock {
    /// All that ever came in; above zero the product is tracked.
    received: i64,
    /// What can be reserved.
    available: i64,
    /// What is set aside, by order.
    reserved: BTreeMap<String, i64>,
}

impl Aggregate for Stock {
    type Command = StockCommand;
    type Event = StockEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: StockCommand, _: &Context) -> Result<Vec<StockEvent>, Rejection> {
        match command {
            StockCommand::ReceiveStock(ReceiveStock { quantity }) => self.receive(quantity),
            StockCommand::ReserveStock(ReserveStock { order_id, quantity }) => {
                self.reserve(order_id, quantity)
            }
            // An order releases and ships all its products, also those that were refused or are not tracked.
            StockCommand::ReleaseStock(ReleaseStock { order_id }) => {
                let open = self.reserved.get(&order_id).copied();
                let released = open.map(|quantity| StockReleased { order_id, quantity });
                Ok(released.into_iter().map(StockEvent::from).collect())
            }
            StockCommand::ShipOutStock(ShipOutStock { order_id }) => {
                let open = self.reserved.get(&order_id).copied();
                let shipped = open.map(|quantity| StockShippedOut { order_id, quantity });
                Ok(shipped.into_iter().map(StockEvent::from).collect())
            }
        }
    }

    fn evolve(&mut self, event: &StockEvent) {
        match event {
            StockEvent::StockReceived(received) => {
                self.received += received.quantity;
                self.available += received.quantity;
            }
            StockEvent::StockReserved(reserved) if reserved.tracked => {
                self.available -= reserved.quantity;
                self.reserved
                    .insert(reserved.order_id.clone(), reserved.quantity);
            }
            StockEvent::StockReserved(_) | StockEvent::StockReservationRefused(_) => {}
            StockEvent::StockReleased(released) => {
                self.available += released.quantity;
                self.reserved.remove(&released.order_id);
            }
            StockEvent::StockShippedOut(shipped) => {
                self.reserved.remove(&shipped.order_id);
            }
        }
    }
}

impl Stock {
    fn receive(&self, quantity: i64) -> Result<Vec<StockEvent>, Rejection> {
        if quantity <= 0 {
            return Err(Rejection::Quantity(quantity));
        }
        self.received
            .checked_add(quantity)
            .filter(|received| *received <= QUANTITY_MAX)
            .ok_or(Rejection::TooMuch { asked: quantity })?;
        Ok(vec![StockReceived { quantity }.into()])
    }

    fn reserve(&self, order_id: String, quantity: i64) -> Result<Vec<StockEvent>, Rejection> {
        if quantity <= 0 {
            return Err(Rejection::Quantity(quantity));
        }
        if order_id.is_empty() || order_id.len() > ID_BYTES_MAX {
            return Err(Rejection::OrderId);
        }
        if let Some(reserved) = self.reserved.get(&order_id).copied() {
            return if reserved == quantity {
                Ok(Vec::new())
            } else {
                Err(Rejection::OtherQuantity {
                    order_id,
                    reserved,
                    asked: quantity,
                })
            };
        }
        let tracked = self.received > 0;
        let available = self.available;
        Ok(vec![if tracked && available < quantity {
            StockReservationRefused {
                order_id,
                quantity,
                available,
            }
            .into()
        } else {
            StockReserved {
                order_id,
                quantity,
                tracked,
            }
            .into()
        }])
    }
}

#[cfg(test)]
mod tests {
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
        }
    }

    fn reserved(order_id: &str, quantity: i64, tracked: bool) -> StockEvent {
        StockReserved {
            order_id: order_id.into(),
            quantity,
            tracked,
        }
        .into()
    }

    fn refused(order_id: &str, quantity: i64, available: i64) -> StockEvent {
        StockReservationRefused {
            order_id: order_id.into(),
            quantity,
            available,
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
            reserved: BTreeMap::new(),
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
                let set_aside: i64 = stock.reserved.values().sum();
                assert!(stock.available >= 0, "{number}: {stock:?}");
                assert_eq!(
                    stock.available + set_aside + shipped,
                    stock.received,
                    "{number}"
                );
            }
        }
    }
}
