//! What the stock of a product answers goes back to the saga that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::Coordination;
use schemas::order_saga::{RecordSagaFact, SagaFact};
use schemas::stock::StockEvent;

/// Tells a saga what is set aside for its order, what is not, and what was given back.
pub struct StockSaga;

impl Processor for StockSaga {
    const NAME: &'static str = "stock-saga";
    const START: Start = Start::Earliest;
    type Event = StockEvent;

    fn handle(
        &self,
        event: &Recorded<StockEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let product_id = &event.aggregate_id;
        let (order_id, coordination, fact, detail) = match &event.event {
            StockEvent::StockReserved(of) => {
                let fact = match of.tracked {
                    true => SagaFact::ProductReserved,
                    false => SagaFact::ProductUntracked,
                };
                (&of.order_id, of.coordination, fact, None)
            }
            StockEvent::StockReservationRefused(of) => {
                let detail = format!(
                    "{} of {product_id} asked for, {} available",
                    of.quantity, of.available
                );
                let fact = SagaFact::ProductRefused;
                (&of.order_id, of.coordination, fact, Some(detail))
            }
            StockEvent::StockReleased(of) => (
                &of.order_id,
                of.coordination,
                SagaFact::ProductReleased,
                None,
            ),
            StockEvent::StockReceived(_)
            | StockEvent::StockShippedOut(_)
            | StockEvent::StockReorderLevelSet(_)
            | StockEvent::StockRanLow(_) => return Ok(()),
        };
        if coordination == Coordination::Orchestration {
            let product_id = Some(product_id.clone());
            let record = RecordSagaFact {
                fact,
                product_id,
                detail,
            };
            out.send(order_id, &record);
        }
        Ok(())
    }
}
