//! What becomes of a payment goes back to its order.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{Coordination, RecordPayment, RecordPaymentFailure};
use schemas::payment::PaymentEvent;

/// Tells an order with `choreography` that its money came or does not. Of money that went back every order hears: it may have been
/// given back after the confirmation.
pub struct PaymentOrder;

impl Processor for PaymentOrder {
    const NAME: &'static str = "payment-order";
    const START: Start = Start::Earliest;
    type Event = PaymentEvent;

    fn handle(
        &self,
        event: &Recorded<PaymentEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let order_id = &event.aggregate_id;
        match &event.event {
            PaymentEvent::PaymentReceived(received)
                if received.coordination == Coordination::Choreography =>
            {
                let amount_cents = received.amount_cents;
                out.send(order_id, &RecordPayment { amount_cents });
            }
            PaymentEvent::PaymentFailed(failed)
                if failed.coordination == Coordination::Choreography =>
            {
                let reason = failed.reason.clone();
                out.send(order_id, &RecordPaymentFailure { reason });
            }
            PaymentEvent::PaymentRefunded(_) => {
                let reason = "refunded".to_owned();
                out.send(order_id, &RecordPaymentFailure { reason });
            }
            PaymentEvent::PaymentRequested(_)
            | PaymentEvent::PaymentProcessed(_)
            | PaymentEvent::PaymentReceived(_)
            | PaymentEvent::PaymentFailed(_)
            | PaymentEvent::PaymentWithdrawn(_)
            | PaymentEvent::PaymentRefundRequested(_) => {}
        }
        Ok(())
    }
}
