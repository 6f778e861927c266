//! What was sold is counted by day.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Order, Outbox, Processor, Start};
use schemas::order::OrderEvent;
use schemas::sales_day::CountSale;

/// Counts each sale for the day in UTC on which it was confirmed. All else that happens to orders is left out: whoever reads the
/// day's digest is not told of it.
pub struct OrderSales;

impl Processor for OrderSales {
    const NAME: &'static str = "order-sales";
    const START: Start = Start::Earliest;
    const ORDER: Order = Order::Any;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if let OrderEvent::OrderPaid(paid) = &event.event {
            let day = event.metadata.occurred_at.date_naive().to_string();
            let sale = CountSale {
                order_id: event.aggregate_id.clone(),
                currency: paid.currency.clone(),
                total_cents: paid.amount_cents,
            };
            out.send(&day, &sale);
        }
        Ok(())
    }
}
