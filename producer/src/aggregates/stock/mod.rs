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
//!
//! What is available is low at the reorder level and below it. That is said once ([`StockRanLow`]), until goods came in or back
//! and it was above the level again; a product without a level is never low.

use std::collections::BTreeMap;

use millrace::aggregate::{Aggregate, Context};
use schemas::order::Coordination;
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
    /// A level that cannot be.
    #[error("reorder level is {0}, must be from 0 to {QUANTITY_MAX}")]
    Level(i64),
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
    reserved: BTreeMap<String, Reservation>,
    /// At how many it is low; never at 0.
    reorder_level: i64,
    /// That it is low was said.
    low: bool,
}

/// What is set aside for an order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Reservation {
    quantity: i64,
    coordination: Coordination,
}

impl Aggregate for Stock {
    type Command = StockCommand;
    type Event = StockEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 2;

    fn decide(&self, command: StockCommand, _: &Context) -> Result<Vec<StockEvent>, Rejection> {
        match command {
            StockCommand::ReceiveStock(ReceiveStock { quantity }) => self.receive(quantity),
            StockCommand::ReserveStock(command) => self.reserve(command),
            StockCommand::SetReorderLevel(SetReorderLevel { level }) => self.set_level(level),
            // An order releases and ships all its products, also those that were refused or are not tracked.
            StockCommand::ReleaseStock(ReleaseStock { order_id }) => {
                let open = self.reserved.get(&order_id).copied();
                let released = open.map(|open| StockReleased {
                    order_id,
                    quantity: open.quantity,
                    coordination: open.coordination,
                });
                Ok(released.into_iter().map(StockEvent::from).collect())
            }
            StockCommand::ShipOutStock(ShipOutStock { order_id }) => {
                let open = self.reserved.get(&order_id).copied();
                let shipped = open.map(|open| StockShippedOut {
                    order_id,
                    quantity: open.quantity,
                });
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
                let reservation = Reservation {
                    quantity: reserved.quantity,
                    coordination: reserved.coordination,
                };
                self.reserved.insert(reserved.order_id.clone(), reservation);
            }
            StockEvent::StockReserved(_) | StockEvent::StockReservationRefused(_) => {}
            StockEvent::StockReleased(released) => {
                self.available += released.quantity;
                self.reserved.remove(&released.order_id);
            }
            StockEvent::StockShippedOut(shipped) => {
                self.reserved.remove(&shipped.order_id);
            }
            StockEvent::StockReorderLevelSet(set) => self.reorder_level = set.level,
            StockEvent::StockRanLow(_) => self.low = true,
        }
        self.low &= self.available <= self.reorder_level;
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

    fn set_level(&self, level: i64) -> Result<Vec<StockEvent>, Rejection> {
        if !(0..=QUANTITY_MAX).contains(&level) {
            return Err(Rejection::Level(level));
        }
        if level == self.reorder_level {
            return Ok(Vec::new());
        }
        let low = self.ran_low(self.available, level);
        let set = std::iter::once(StockReorderLevelSet { level }.into());
        Ok(set.chain(low).collect())
    }

    /// That it is low, where it was not and would be with so many available.
    fn ran_low(&self, available: i64, reorder_level: i64) -> Option<StockEvent> {
        let low = self.received > 0 && reorder_level > 0 && available <= reorder_level;
        (low && !self.low).then(|| {
            StockRanLow {
                available,
                reorder_level,
            }
            .into()
        })
    }

    fn reserve(&self, command: ReserveStock) -> Result<Vec<StockEvent>, Rejection> {
        let ReserveStock {
            order_id,
            quantity,
            coordination,
        } = command;
        if quantity <= 0 {
            return Err(Rejection::Quantity(quantity));
        }
        if order_id.is_empty() || order_id.len() > ID_BYTES_MAX {
            return Err(Rejection::OrderId);
        }
        if let Some(reserved) = self.reserved.get(&order_id).map(|open| open.quantity) {
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
        if tracked && available < quantity {
            let refused = StockReservationRefused {
                order_id,
                quantity,
                available,
                coordination,
            };
            return Ok(vec![refused.into()]);
        }
        let reserved = StockReserved {
            order_id,
            quantity,
            tracked,
            coordination,
        };
        let low = match tracked {
            true => self.ran_low(available - quantity, self.reorder_level),
            false => None,
        };
        Ok(std::iter::once(reserved.into()).chain(low).collect())
    }
}

#[cfg(test)]
mod tests;
