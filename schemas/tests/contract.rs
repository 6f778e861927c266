//! Ties every event and command struct to its schema files.

use std::collections::BTreeSet;
use std::path::Path;

use millrace::codec::{DatumReader, Schema};
use millrace::command::CommandSet;
use millrace::testing::contract;
use schemas::notification::*;
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
    let samples: [OrderEvent; 12] = [
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
            customer_id: "c".into(),
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
        OrderPaymentDue {
            customer_id: "c".into(),
            currency: "EUR".into(),
            amount_cents: 2,
            coordination: Coordination::Orchestration,
            products: products(),
        }
        .into(),
        OrderPaymentRecorded { amount_cents: 2 }.into(),
        OrderPaid {
            customer_id: "c".into(),
            currency: "EUR".into(),
            amount_cents: 2,
            coordination: Coordination::Orchestration,
        }
        .into(),
        OrderPaymentWithdrawn {
            reason: "r".into(),
            coordination: Coordination::Orchestration,
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
    let samples: [OrderCommand; 13] = [
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
            payment: Some(PaymentMethod::Gateway),
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
        RecordPayment { amount_cents: 2 }.into(),
        RecordPaymentFailure { reason: "r".into() }.into(),
        ConfirmPaidOrder { paid_cents: 2 }.into(),
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
        .rfind(|schema| schema.record == "PlaceOrder")
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
    let samples: [StockEvent; 7] = [
        StockReceived { quantity: 1 }.into(),
        StockReserved {
            order_id: order_id(),
            quantity: 1,
            tracked: true,
            coordination: Coordination::Orchestration,
        }
        .into(),
        StockReservationRefused {
            order_id: order_id(),
            quantity: 2,
            available: 1,
            coordination: Coordination::Orchestration,
        }
        .into(),
        StockReleased {
            order_id: order_id(),
            quantity: 1,
            coordination: Coordination::Orchestration,
        }
        .into(),
        StockShippedOut {
            order_id: order_id(),
            quantity: 1,
        }
        .into(),
        StockReorderLevelSet { level: 1 }.into(),
        StockRanLow {
            available: 1,
            reorder_level: 2,
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
    let samples: [StockCommand; 5] = [
        ReceiveStock { quantity: 1 }.into(),
        ReserveStock {
            order_id: order_id(),
            quantity: 1,
            coordination: Coordination::Orchestration,
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
        SetReorderLevel { level: 1 }.into(),
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

#[test]
fn the_structs_of_a_recipient_are_what_its_schema_files_say() {
    let text = |text: &str| Some(text.to_owned());
    let params = [("order_id".to_owned(), "o".to_owned())].into();
    let samples: [RecipientEvent; 6] = [
        ContactSet {
            name: text("Ada"),
            email: text("ada@example.org"),
            phone: text("+4915112345678"),
            locale: text("en"),
        }
        .into(),
        NotificationRequested {
            notification_id: "n".into(),
            kind: Kind::OrderShipped,
            source_event_id: "e".into(),
            channel: Channel::Sms,
            to: "+4915112345678".into(),
            name: text("Ada"),
            locale: text("en"),
            params,
        }
        .into(),
        NotificationSkipped {
            kind: Kind::Welcome,
            source_event_id: "e".into(),
            reason: "r".into(),
        }
        .into(),
        NotificationSent {
            notification_id: "n".into(),
            attempts: 1,
            provider_id: text("p"),
        }
        .into(),
        NotificationFailed {
            notification_id: "n".into(),
            attempts: 8,
            reason: "r".into(),
        }
        .into(),
        NotificationUncertain {
            notification_id: "n".into(),
            attempts: 1,
            reason: "r".into(),
        }
        .into(),
    ];
    contract::check(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    );
}

#[test]
fn the_structs_of_a_recipients_commands_are_what_their_schema_files_say() {
    let text = |text: &str| Some(text.to_owned());
    let samples: [RecipientCommand; 3] = [
        SetContact {
            name: text("Ada"),
            email: text("ada@example.org"),
            phone: text("+4915112345678"),
            locale: text("en"),
        }
        .into(),
        RequestNotification {
            kind: Kind::OrderPlaced,
            source_event_id: "e".into(),
            happened_at: chrono::DateTime::from_timestamp(1_767_225_600, 0),
            params: [("order_id".to_owned(), "o".to_owned())].into(),
        }
        .into(),
        RecordDelivery {
            notification_id: "n".into(),
            outcome: Outcome::Uncertain,
            attempts: 1,
            provider_id: text("p"),
            reason: text("r"),
        }
        .into(),
    ];
    contract::check_commands(
        &samples,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/commands"),
    );
}

#[test]
fn a_kind_of_notification_that_is_not_known_is_refused_by_its_name() {
    let json = r#"{"kind":"birthday","source_event_id":"e","params":{}}"#;
    let error = RecipientCommand::from_json("RequestNotification", json).unwrap_err();
    assert!(
        error.to_string().contains("kind \"birthday\" is unknown"),
        "{error}"
    );
}

#[test]
fn a_notification_has_one_id_for_each_recipient_kind_event_and_channel() {
    let ids: BTreeSet<String> = [
        notification_id("ada", Kind::Welcome, "e", Channel::Email),
        notification_id("bob", Kind::Welcome, "e", Channel::Email),
        notification_id("ada", Kind::OrderPlaced, "e", Channel::Email),
        notification_id("ada", Kind::Welcome, "f", Channel::Email),
        notification_id("ada", Kind::Welcome, "e", Channel::Sms),
        notification_id("ada", Kind::Welcome, "e", Channel::Sms),
    ]
    .into();
    assert_eq!(ids.len(), 5);
}
