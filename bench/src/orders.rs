//! The load: orders with two lines that are placed, confirmed, shipped and delivered.

use chrono::{DateTime, Utc};
use millrace::command::{CommandId, Envelope};
use schemas::order::{
    Coordination, OrderConfirmed, OrderDelivered, OrderEvent, OrderLine, OrderPlaced, OrderShipped,
};

/// Commands of one order.
pub(crate) const STEPS: usize = 4;
/// Lines of one order, each of another product.
pub(crate) const LINES: usize = 2;

/// Type and data of a step's command.
pub(crate) fn command(step: usize, customer: usize) -> (&'static str, String) {
    match step {
        0 => (
            "PlaceOrder",
            format!(
                r#"{{"customer_id":"customer-{}","currency":"EUR","lines":[{{"product_id":"product-{}","quantity":2,"total_cents":1990}},{{"product_id":"product-{}","quantity":1,"total_cents":4900}}]}}"#,
                customer % 1000,
                customer % 97,
                100 + customer % 89
            ),
        ),
        1 => ("ConfirmOrder", "{}".to_owned()),
        2 => (
            "ShipOrder",
            r#"{"tracking_code":"JD0146000031"}"#.to_owned(),
        ),
        _ => ("DeliverOrder", "{}".to_owned()),
    }
}

/// The same as an envelope; with `keyed` the caller gives the command's id, so that its outcome is kept.
pub(crate) fn envelope(id: &str, step: usize, customer: usize, keyed: bool) -> Envelope {
    let (command_type, data) = command(step, customer);
    Envelope {
        aggregate_id: id.to_owned(),
        command_type: command_type.to_owned(),
        data: millrace::command::CommandData::Json(data),
        id: match keyed {
            true => CommandId::Given(format!("{id}/{step}")),
            false => CommandId::made(),
        },
        expected_version: None,
        correlation_id: None,
        tenant_id: None,
        traceparent: None,
        now: Utc::now(),
    }
}

/// The event that a step's command brings about.
pub(crate) fn event(step: usize, customer: usize, at: DateTime<Utc>) -> OrderEvent {
    let line = |product: usize, total_cents| OrderLine {
        product_id: format!("product-{product}"),
        quantity: 1,
        total_cents,
    };
    match step {
        0 => OrderPlaced {
            customer_id: format!("customer-{}", customer % 1000),
            currency: "EUR".to_owned(),
            placed_at: at,
            lines: vec![line(customer % 97, 1990), line(100 + customer % 89, 4900)],
            coordination: Coordination::default(),
        }
        .into(),
        1 => OrderConfirmed::default().into(),
        2 => OrderShipped {
            tracking_code: Some("JD0146000031".to_owned()),
            products: Vec::new(),
            customer_id: String::new(),
        }
        .into(),
        _ => OrderDelivered::default().into(),
    }
}
