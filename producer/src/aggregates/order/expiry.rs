//! When a placed order expires.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace::timer::TimerChange;
use schemas::order::{ExpireOrder, OrderCommand, OrderEvent};

use super::payment::{self, OrderPayment};

/// Name of the timer.
const TIMER: &str = "confirmation";

/// A day: long enough for whoever confirms by hand, and for a reader of events that is away over night.
const TIMEOUT_MS: u64 = 86_400_000;

static TIMEOUT: AtomicU64 = AtomicU64::new(TIMEOUT_MS);

/// Settings of orders.
#[derive(Debug, Clone, clap::Args)]
pub struct OrderOptions {
    /// How long after its placing an order is cancelled unless it was confirmed. Orders that were placed before a change
    /// keep the time that they were given.
    #[arg(long, env = "ORDER_CONFIRMATION_TIMEOUT_MS", default_value_t = TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    pub order_confirmation_timeout_ms: u64,
    /// How an order is paid that does not say so itself.
    #[arg(long, env = "ORDER_PAYMENT", default_value = "invoice")]
    pub order_payment: OrderPayment,
}

impl OrderOptions {
    /// Makes them this process's. An order's time stands in the journal beside its event and how it is paid in one, so nothing
    /// that is replayed depends on them.
    pub fn apply(&self) {
        payment::set_default(self.order_payment);
        TIMEOUT.store(self.order_confirmation_timeout_ms, Ordering::Relaxed);
    }
}

/// What an event does to the timer. It fires once, where it is not cancelled before; a confirmation that comes in
/// the same moment is settled by [`ExpireOrder`], which leaves a confirmed order alone.
pub(super) fn timers(event: &OrderEvent) -> Vec<TimerChange<OrderCommand>> {
    match event {
        OrderEvent::OrderPlaced(_) => {
            let after = Duration::from_millis(TIMEOUT.load(Ordering::Relaxed));
            vec![TimerChange::set(TIMER, after, ExpireOrder {})]
        }
        OrderEvent::OrderConfirmed(_) | OrderEvent::OrderCancelled(_) => {
            vec![TimerChange::cancel(TIMER)]
        }
        OrderEvent::OrderDrafted(_)
        | OrderEvent::OrderItemAdded(_)
        | OrderEvent::OrderProductReserved(_)
        | OrderEvent::OrderShipped(_)
        | OrderEvent::OrderDelivered(_)
        | OrderEvent::OrderPaymentDue(_)
        | OrderEvent::OrderPaymentRecorded(_)
        | OrderEvent::OrderPaid(_)
        | OrderEvent::OrderPaymentWithdrawn(_) => Vec::new(),
    }
}
