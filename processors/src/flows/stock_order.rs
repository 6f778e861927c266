//! What the stock of a product answers goes back to the order that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{Coordination, RecordReservation, RecordShortage};
use schemas::stock::StockEvent;

/// Tells an order with `choreography` what is set aside for it and what is not; one with `orchestration` has a saga that is told.
pub struct StockOrder;

impl Processor for StockOrder {
    const NAME: &'static str = "stock-order";
    const START: Start = Start::Earliest;
    type Event = StockEvent;

    fn handle(
        &self,
        event: &Recorded<StockEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let product_id = event.aggregate_id.clone();
        match &event.event {
            StockEvent::StockReserved(reserved)
                if reserved.coordination == Coordination::Choreography =>
            {
                let quantity = reserved.quantity;
                let reservation = RecordReservation {
                    product_id,
                    quantity,
                };
                out.send(&reserved.order_id, &reservation);
            }
            StockEvent::StockReservationRefused(refused)
                if refused.coordination == Coordination::Choreography =>
            {
                let shortage = RecordShortage {
                    product_id,
                    quantity: refused.quantity,
                    available: refused.available,
                };
                out.send(&refused.order_id, &shortage);
            }
            StockEvent::StockReceived(_)
            | StockEvent::StockReleased(_)
            | StockEvent::StockShippedOut(_)
            | StockEvent::StockReserved(_)
            | StockEvent::StockReservationRefused(_)
            | StockEvent::StockReorderLevelSet(_)
            | StockEvent::StockRanLow(_) => {}
        }
        Ok(())
    }
}
