//! Ties every event struct to its schema files.

use std::path::Path;

use millrace::testing::contract;
use schemas::order::*;

#[test]
fn the_structs_of_an_order_are_what_its_schema_files_say() {
    let samples: [OrderEvent; 7] = [
        OrderDrafted {
            customer_id: "c".into(),
            currency: "EUR".into(),
        }
        .into(),
        OrderItemAdded {
            product_id: "p".into(),
            quantity: 1,
            total_cents: 2,
        }
        .into(),
        OrderPlaced {
            customer_id: "c".into(),
            currency: "EUR".into(),
            placed_at: chrono::DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
            lines: vec![OrderLine {
                product_id: "p".into(),
                quantity: 1,
                total_cents: 2,
            }],
            coordination: Coordination::Orchestration,
        }
        .into(),
        OrderConfirmed {}.into(),
        OrderShipped {
            tracking_code: Some("t".into()),
        }
        .into(),
        OrderDelivered {}.into(),
        OrderCancelled { reason: "r".into() }.into(),
    ];
    contract::check(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    );
}
