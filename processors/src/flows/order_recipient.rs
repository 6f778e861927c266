//! What happens to an order is told to whoever ordered.

use std::collections::BTreeMap;

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::notification::Kind;
use schemas::order::OrderEvent;

use super::notices::{Notices, amount, request};

/// Tells the customer that the order was placed, and that its parcel left.
///
/// The customer's id is the recipient's. Events from before version 3 of `OrderShipped` do not name the customer: nobody is
/// told of them.
pub struct OrderRecipient(pub Notices);

impl Processor for OrderRecipient {
    const NAME: &'static str = "order-recipient";
    const START: Start = Start::Earliest;
    type Event = OrderEvent;

    fn handle(
        &self,
        event: &Recorded<OrderEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if self.0 == Notices::Off {
            return Ok(());
        }
        let mut params = BTreeMap::from([("order_id", event.aggregate_id.clone())]);
        match &event.event {
            OrderEvent::OrderPlaced(placed) => {
                let cents = placed.lines.iter().map(|line| line.total_cents);
                let total = cents.fold(0, i64::saturating_add);
                params.insert("total", amount(total, &placed.currency));
                params.insert("line_count", placed.lines.len().to_string());
                let order_placed = request(event, Kind::OrderPlaced, params);
                out.send(&placed.customer_id, &order_placed);
            }
            OrderEvent::OrderShipped(shipped) => {
                let code = shipped.tracking_code.clone();
                params.extend(code.map(|code| ("tracking_code", code)));
                if !shipped.customer_id.is_empty() {
                    let order_shipped = request(event, Kind::OrderShipped, params);
                    out.send(&shipped.customer_id, &order_shipped);
                }
            }
            // Whatever else happens to an order is no news to whoever ordered.
            _ => {}
        }
        Ok(())
    }
}
