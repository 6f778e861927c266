//! What the stock of a product answers goes back to the order that asked.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{RecordReservation, RecordShortage};
use schemas::stock::StockEvent;

/// Tells an order what is set aside for it and what is not.
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
            StockEvent::StockReserved(reserved) => {
                let quantity = reserved.quantity;
                let reservation = RecordReservation {
                    product_id,
                    quantity,
                };
                out.send(&reserved.order_id, &reservation);
            }
            StockEvent::StockReservationRefused(refused) => {
                let shortage = RecordShortage {
                    product_id,
                    quantity: refused.quantity,
                    available: refused.available,
                };
                out.send(&refused.order_id, &shortage);
            }
            StockEvent::StockReceived(_)
            | StockEvent::StockReleased(_)
            | StockEvent::StockShippedOut(_) => {}
        }
        Ok(())
    }
}
