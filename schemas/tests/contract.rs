//! Ties every event and command struct to its schema files.

use std::path::Path;

use millrace::codec::{DatumReader, Schema};
use millrace::command::CommandSet;
use millrace::testing::contract;
use schemas::order::*;
use schemas::stock::*;

fn products() -> Vec<ProductQuantity> {
    vec![ProductQuantity {
        product_id: "p".into(),
        quantity: 1,
    }]
}

#[test]
fn the_structs_of_an_order_are_what_its_schema_files_say() {
    let samples: [OrderEvent; 8] = [
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
        OrderProductReserved {
            product_id: "p".into(),
            quantity: 1,
        }
        .into(),
        OrderConfirmed {
            customer_id: "ada".into(),
        }
        .into(),
        OrderShipped {
            tracking_code: Some("t".into()),
            products: products(),
        }
        .into(),
        OrderDelivered {
            customer_id: "ada".into(),
        }
        .into(),
        OrderCancelled {
            reason: "r".into(),
            products: products(),
        }
        .into(),
    ];
    contract::check(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    );
}

#[test]
fn the_structs_of_an_orders_commands_are_what_their_schema_files_say() {
    let samples: [OrderCommand; 10] = [
        DraftOrder {
            customer_id: "c".into(),
            currency: "EUR".into(),
        }
        .into(),
        AddItem {
            product_id: "p".into(),
            quantity: 1,
            total_cents: 2,
        }
        .into(),
        PlaceOrder {
            order_id: Some("o".into()),
            customer_id: Some("c".into()),
            currency: Some("EUR".into()),
            placed_at: chrono::DateTime::from_timestamp(1_767_225_600, 0),
            coordination: Coordination::Orchestration,
            lines: vec![OrderLine {
                product_id: "p".into(),
                quantity: 1,
                total_cents: 2,
            }],
        }
        .into(),
        RecordReservation {
            product_id: "p".into(),
            quantity: 1,
        }
        .into(),
        RecordShortage {
            product_id: "p".into(),
            quantity: 2,
            available: 1,
        }
        .into(),
        ConfirmOrder {}.into(),
        ShipOrder {
            tracking_code: Some("t".into()),
        }
        .into(),
        DeliverOrder {}.into(),
        CancelOrder { reason: "r".into() }.into(),
        ExpireOrder {}.into(),
    ];
    contract::check_commands(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/commands"),
    );
}

#[test]
fn a_command_has_one_time_in_json_and_in_avro() {
    let json = r#"{"placed_at":"2026-01-01T01:00:00+01:00"}"#;
    let command = OrderCommand::from_json("PlaceOrder", json).unwrap();
    let schema = OrderCommand::SCHEMAS
        .iter()
        .find(|schema| schema.record == "PlaceOrder")
        .unwrap();
    let body = command
        .write(&Schema::parse_str(schema.json).unwrap())
        .unwrap();
    let reader = DatumReader::parse(schema.json).unwrap();
    assert_eq!(
        OrderCommand::read("PlaceOrder", &reader, &body).unwrap(),
        command
    );
    let in_json = command.to_json().unwrap();
    assert_eq!(in_json["placed_at"], "2026-01-01T00:00:00Z");
    let in_avro = format!("{:?}", reader.read_value(&body).unwrap());
    assert!(
        in_avro.contains("TimestampMillis(1767225600000)"),
        "{in_avro}"
    );
}

#[test]
fn the_structs_of_a_stock_are_what_its_schema_files_say() {
    let order_id = || "o".to_owned();
    let samples: [StockEvent; 5] = [
        StockReceived { quantity: 1 }.into(),
        StockReserved {
            order_id: order_id(),
            quantity: 1,
            tracked: true,
        }
        .into(),
        StockReservationRefused {
            order_id: order_id(),
            quantity: 2,
            available: 1,
        }
        .into(),
        StockReleased {
            order_id: order_id(),
            quantity: 1,
        }
        .into(),
        StockShippedOut {
            order_id: order_id(),
            quantity: 1,
        }
        .into(),
    ];
    contract::check(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    );
}

#[test]
fn the_structs_of_a_stocks_commands_are_what_their_schema_files_say() {
    let order_id = || "o".to_owned();
    let samples: [StockCommand; 4] = [
        ReceiveStock { quantity: 1 }.into(),
        ReserveStock {
            order_id: order_id(),
            quantity: 1,
        }
        .into(),
        ReleaseStock {
            order_id: order_id(),
        }
        .into(),
        ShipOutStock {
            order_id: order_id(),
        }
        .into(),
    ];
    contract::check_commands(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/commands"),
    );
}

#[test]
fn a_product_on_several_lines_is_asked_for_once_with_the_sum() {
    let line = |product: &str, quantity| OrderLine {
        product_id: product.into(),
        quantity,
        total_cents: 5,
    };
    let quantity = |product: &str, quantity| ProductQuantity {
        product_id: product.into(),
        quantity,
    };
    assert_eq!(
        ProductQuantity::of(&[line("tea", 2), line("cup", 1), line("tea", 3)]),
        [quantity("cup", 1), quantity("tea", 5)]
    );
    assert_eq!(
        ProductQuantity::of(&[line("tea", i64::MAX), line("tea", 1)]),
        [quantity("tea", i64::MAX)]
    );
}
