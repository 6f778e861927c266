//! What happens to an order moves the stock of its products.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{Coordination, OrderEvent, ProductQuantity};
use schemas::stock::{ReleaseStock, ReserveStock, ShipOutStock};

/// Reserves the goods of a placed order, ships them out with it, or releases them when it is cancelled.
///
/// The reservation of an order with `orchestration` is its saga's business; shipping and cancelling concern every
/// order, for an order without a reservation changes no stock by either.
pub struct OrderStock;

impl Processor for OrderStock {
    const NAME: &'static str = "order-stock";
    const START: Start = Start::Earliest;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let order_id = &event.aggregate_id;
        match &event.event {
            OrderEvent::OrderPlaced(placed)
                if placed.coordination == Coordination::Choreography =>
            {
                for product in ProductQuantity::of(&placed.lines) {
                    let reserve = ReserveStock {
                        order_id: order_id.clone(),
                        quantity: product.quantity,
                        coordination: placed.coordination,
                    };
                    out.send(&product.product_id, &reserve);
                }
            }
            OrderEvent::OrderShipped(shipped) => {
                for product in &shipped.products {
                    let order_id = order_id.clone();
                    out.send(&product.product_id, &ShipOutStock { order_id });
                }
            }
            OrderEvent::OrderCancelled(cancelled) => {
                for product in &cancelled.products {
                    let order_id = order_id.clone();
                    out.send(&product.product_id, &ReleaseStock { order_id });
                }
            }
            OrderEvent::OrderDrafted(_)
            | OrderEvent::OrderItemAdded(_)
            | OrderEvent::OrderPlaced(_)
            | OrderEvent::OrderProductReserved(_)
            | OrderEvent::OrderConfirmed(_)
            | OrderEvent::OrderDelivered(_)
            | OrderEvent::OrderPaymentDue(_)
            | OrderEvent::OrderPaymentRecorded(_)
            | OrderEvent::OrderPaid(_)
            | OrderEvent::OrderPaymentWithdrawn(_) => {}
        }
        Ok(())
    }
}
