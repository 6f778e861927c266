//! What happens to a payment is told to whoever pays.

use std::collections::BTreeMap;

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::notification::Kind;
use schemas::payment::PaymentEvent;

use super::notices::{Notices, amount, request};

/// Tells the customer that the money for their order came in; the payment's id is the order's.
pub struct PaymentRecipient(pub Notices);

impl Processor for PaymentRecipient {
    const NAME: &'static str = "payment-recipient";
    const START: Start = Start::Earliest;
    type Event = PaymentEvent;

    fn handle(
        &self,
        event: &Recorded<PaymentEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if self.0 == Notices::Off {
            return Ok(());
        }
        if let PaymentEvent::PaymentReceived(received) = &event.event {
            let params = BTreeMap::from([
                ("order_id", event.aggregate_id.clone()),
                ("amount", amount(received.amount_cents, &received.currency)),
            ]);
            let payment_received = request(event, Kind::PaymentReceived, params);
            out.send(&received.customer_id, &payment_received);
        }
        Ok(())
    }
}
