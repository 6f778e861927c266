//! What a saga has begun becomes commands.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::order::{CancelOrder, ConfirmPaidOrder, Coordination, ExpireOrder};
use schemas::order_saga::{OrderSagaEvent, OrderSagaStepBegun, SagaStep};
use schemas::payment::{CancelPayment, RequestPayment};
use schemas::stock::{ReleaseStock, ReserveStock};

/// Sends the commands of each step of an order's saga. All commands about an order are made here, from the events of one key: none to the
/// same aggregate overtakes another.
pub struct SagaSteps;

impl Processor for SagaSteps {
    const NAME: &'static str = "saga-steps";
    const START: Start = Start::Earliest;
    type Event = OrderSagaEvent;

    fn handle(
        &self,
        event: &Recorded<OrderSagaEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if let OrderSagaEvent::OrderSagaStepBegun(begun) = &event.event {
            send(&event.aggregate_id, begun, out);
        }
        Ok(())
    }
}

fn send(order_id: &str, begun: &OrderSagaStepBegun, out: &mut Outbox<'_>) {
    let coordination = Coordination::Orchestration;
    let reason = || begun.reason.clone().unwrap_or_default();
    match begun.step {
        SagaStep::Reserve => {
            for product in &begun.products {
                let reserve = ReserveStock {
                    order_id: order_id.to_owned(),
                    quantity: product.quantity,
                    coordination,
                };
                out.send(&product.product_id, &reserve);
            }
        }
        SagaStep::Pay => {
            let request = RequestPayment {
                customer_id: begun.customer_id.clone(),
                currency: begun.currency.clone(),
                amount_cents: begun.due_cents,
                coordination,
            };
            out.send(order_id, &request);
        }
        SagaStep::Confirm if begun.attempt == 1 => {
            let paid_cents = begun.due_cents;
            out.send(order_id, &ConfirmPaidOrder { paid_cents });
        }
        // It is behind the confirmation, so the order that got that one stays confirmed.
        SagaStep::Confirm => out.send(order_id, &ExpireOrder {}),
        SagaStep::Refund => {
            let reason = reason();
            let cancel = CancelPayment {
                reason,
                coordination,
            };
            out.send(order_id, &cancel);
        }
        SagaStep::Release => {
            for product in &begun.products {
                let order_id = order_id.to_owned();
                out.send(&product.product_id, &ReleaseStock { order_id });
            }
        }
        SagaStep::Cancel => out.send(order_id, &CancelOrder { reason: reason() }),
    }
}
