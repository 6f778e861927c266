//! What becomes of a payment goes back to the saga of its order.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::Coordination;
use schemas::order_saga::{RecordSagaFact, SagaFact};
use schemas::payment::PaymentEvent;

/// Tells a saga that the money came, does not come, or went back.
pub struct PaymentSaga;

impl Processor for PaymentSaga {
    const NAME: &'static str = "payment-saga";
    const START: Start = Start::Earliest;
    type Event = PaymentEvent;

    fn handle(
        &self,
        event: &Recorded<PaymentEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let (coordination, fact, detail) = match &event.event {
            PaymentEvent::PaymentReceived(of) => (of.coordination, SagaFact::PaymentReceived, None),
            PaymentEvent::PaymentFailed(of) => {
                let reason = Some(of.reason.clone());
                (of.coordination, SagaFact::PaymentFailed, reason)
            }
            PaymentEvent::PaymentRefunded(of) => (of.coordination, SagaFact::PaymentRefunded, None),
            PaymentEvent::PaymentRequested(_)
            | PaymentEvent::PaymentProcessed(_)
            | PaymentEvent::PaymentWithdrawn(_)
            | PaymentEvent::PaymentRefundRequested(_) => return Ok(()),
        };
        if coordination == Coordination::Orchestration {
            let record = RecordSagaFact {
                fact,
                product_id: None,
                detail,
            };
            out.send(&event.aggregate_id, &record);
        }
        Ok(())
    }
}
