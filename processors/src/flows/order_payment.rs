//! What happens to an order moves its payment.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{Coordination, OrderEvent};
use schemas::payment::{CancelPayment, RequestPayment};

/// Requests the payment of an order that is paid at the gateway, and cancels it with the order.
///
/// The request for an order with `orchestration` is its saga's business; the cancellation concerns every order, so that
/// none that is cancelled keeps its money, whatever its saga does.
pub struct OrderPayment;

impl Processor for OrderPayment {
    const NAME: &'static str = "order-payment";
    const START: Start = Start::Earliest;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        match &event.event {
            OrderEvent::OrderPaymentDue(due) if due.coordination == Coordination::Choreography => {
                let request = RequestPayment {
                    customer_id: due.customer_id.clone(),
                    currency: due.currency.clone(),
                    amount_cents: due.amount_cents,
                    coordination: due.coordination,
                };
                out.send(&event.aggregate_id, &request);
            }
            OrderEvent::OrderPaymentWithdrawn(withdrawn) => {
                let cancel = CancelPayment {
                    reason: withdrawn.reason.clone(),
                    coordination: withdrawn.coordination,
                };
                out.send(&event.aggregate_id, &cancel);
            }
            OrderEvent::OrderDrafted(_)
            | OrderEvent::OrderItemAdded(_)
            | OrderEvent::OrderPlaced(_)
            | OrderEvent::OrderProductReserved(_)
            | OrderEvent::OrderConfirmed(_)
            | OrderEvent::OrderShipped(_)
            | OrderEvent::OrderDelivered(_)
            | OrderEvent::OrderCancelled(_)
            | OrderEvent::OrderPaymentDue(_)
            | OrderEvent::OrderPaymentRecorded(_)
            | OrderEvent::OrderPaid(_) => {}
        }
        Ok(())
    }
}
