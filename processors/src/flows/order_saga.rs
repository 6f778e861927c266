//! What happens to an order starts its saga, and tells it how the order ended.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{Coordination, OrderEvent};
use schemas::order_saga::{RecordSagaFact, SagaFact, StartOrderSaga};

/// Starts the saga of an order that is paid at the gateway and says `orchestration`.
pub struct OrderSaga;

impl Processor for OrderSaga {
    const NAME: &'static str = "order-saga";
    const START: Start = Start::Earliest;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        let order_id = &event.aggregate_id;
        let fact = |fact, detail| RecordSagaFact {
            fact,
            product_id: None,
            detail,
        };
        match &event.event {
            OrderEvent::OrderPaymentDue(due) if by_saga(due.coordination) => {
                let start = StartOrderSaga {
                    customer_id: due.customer_id.clone(),
                    currency: due.currency.clone(),
                    due_cents: due.amount_cents,
                    products: due.products.clone(),
                };
                out.send(order_id, &start);
            }
            OrderEvent::OrderPaid(paid) if by_saga(paid.coordination) => {
                out.send(order_id, &fact(SagaFact::OrderConfirmed, None));
            }
            OrderEvent::OrderPaymentWithdrawn(withdrawn) if by_saga(withdrawn.coordination) => {
                let reason = Some(withdrawn.reason.clone());
                out.send(order_id, &fact(SagaFact::OrderCancelled, reason));
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
            | OrderEvent::OrderPaid(_)
            | OrderEvent::OrderPaymentWithdrawn(_) => {}
        }
        Ok(())
    }
}

fn by_saga(coordination: Coordination) -> bool {
    coordination == Coordination::Orchestration
}
