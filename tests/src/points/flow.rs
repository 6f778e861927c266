//! Sales earn points.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::OrderEvent;

use super::schema::EarnPoints;

/// Gives the customer a point for each whole unit of currency that an order cost.
pub struct OrderPoints;

impl Processor for OrderPoints {
    const NAME: &'static str = "order-points";
    const START: Start = Start::Earliest;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if let OrderEvent::OrderPaid(paid) = &event.event
            && paid.amount_cents >= 100
        {
            let earn = EarnPoints {
                order_id: event.aggregate_id.clone(),
                points: paid.amount_cents / 100,
            };
            out.send(&paid.customer_id, &earn);
        }
        Ok(())
    }
}
