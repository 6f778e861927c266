//! Ties the structs of payments, products, sagas and sales days to their schema files.

use std::path::PathBuf;

use millrace::testing::contract;
use schemas::order::{Coordination, ProductQuantity};
use schemas::order_saga::*;
use schemas::payment::*;
use schemas::product::*;
use schemas::sales_day::*;

fn golden(folder: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", folder]
        .iter()
        .collect()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn products() -> Vec<ProductQuantity> {
    vec![ProductQuantity {
        product_id: text("p"),
        quantity: 1,
    }]
}

fn noon() -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp(1_767_268_800, 0).expect("a moment of 2026")
}

const SAGA: Coordination = Coordination::Orchestration;

#[test]
fn the_structs_of_a_payment_are_what_its_schema_files_say() {
    let samples: [PaymentEvent; 7] = [
        PaymentRequested {
            customer_id: text("c"),
            currency: text("EUR"),
            amount_cents: 2,
            charge_before: noon(),
            coordination: SAGA,
        }
        .into(),
        PaymentProcessed {
            charge_id: text("h"),
            currency: text("EUR"),
            amount_cents: 2,
        }
        .into(),
        PaymentReceived {
            customer_id: text("c"),
            currency: text("EUR"),
            amount_cents: 2,
            coordination: SAGA,
        }
        .into(),
        PaymentFailed {
            reason: text("r"),
            coordination: SAGA,
        }
        .into(),
        PaymentWithdrawn { reason: text("r") }.into(),
        PaymentRefundRequested {
            charge_id: text("h"),
            currency: text("EUR"),
            amount_cents: 2,
        }
        .into(),
        PaymentRefunded {
            refund_id: text("b"),
            customer_id: text("c"),
            currency: text("EUR"),
            amount_cents: 2,
            coordination: SAGA,
        }
        .into(),
    ];
    contract::check(&samples, &golden(""));
}

#[test]
fn the_structs_of_a_payments_commands_are_what_their_schema_files_say() {
    let samples: [PaymentCommand; 5] = [
        RequestPayment {
            customer_id: text("c"),
            currency: text("EUR"),
            amount_cents: 2,
            coordination: SAGA,
        }
        .into(),
        RecordCharge {
            charge_id: text("h"),
            amount_cents: 2,
        }
        .into(),
        RecordChargeFailure { reason: text("r") }.into(),
        CancelPayment {
            reason: text("r"),
            coordination: SAGA,
        }
        .into(),
        RecordRefund {
            refund_id: text("b"),
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("commands"));
}

#[test]
fn the_structs_of_a_product_are_what_its_schema_files_say() {
    let (currency, price_cents) = (text("EUR"), 250);
    let samples: [ProductEvent; 2] = [
        ProductCreated { name: text("Tea") }.into(),
        ProductPriced {
            currency: currency.clone(),
            price_cents,
        }
        .into(),
    ];
    contract::check(&samples, &golden(""));
    let samples: [ProductCommand; 2] = [
        CreateProduct {
            name: text("Tea"),
            currency: currency.clone(),
            price_cents,
        }
        .into(),
        PriceProduct {
            currency,
            price_cents,
        }
        .into(),
    ];
    contract::check_commands(&samples, &golden("commands"));
}

#[test]
fn the_structs_of_an_orders_saga_are_what_its_schema_files_say() {
    let samples: [OrderSagaEvent; 7] = [
        OrderSagaStarted {
            customer_id: text("c"),
            currency: text("EUR"),
            due_cents: 2,
            products: products(),
        }
        .into(),
        OrderSagaStepBegun {
            step: SagaStep::Release,
            attempt: 2,
            reason: Some(text("r")),
            customer_id: text("c"),
            currency: text("EUR"),
            due_cents: 2,
            products: products(),
        }
        .into(),
        OrderSagaFactRecorded {
            fact: SagaFact::ProductReserved,
            product_id: Some(text("p")),
            detail: Some(text("d")),
        }
        .into(),
        OrderSagaStepDone {
            step: SagaStep::Pay,
        }
        .into(),
        OrderSagaStepFailed {
            step: SagaStep::Pay,
            reason: text("r"),
        }
        .into(),
        OrderSagaStepOverdue {
            step: SagaStep::Refund,
            attempt: 2,
            waits_for: text("w"),
            given_up: true,
        }
        .into(),
        OrderSagaEnded {
            outcome: SagaOutcome::Compensated,
            reason: Some(text("r")),
        }
        .into(),
    ];
    contract::check(&samples, &golden(""));
}

#[test]
fn the_structs_of_a_sagas_commands_are_what_their_schema_files_say() {
    let samples: [OrderSagaCommand; 4] = [
        StartOrderSaga {
            customer_id: text("c"),
            currency: text("EUR"),
            due_cents: 2,
            products: products(),
        }
        .into(),
        RecordSagaFact {
            fact: SagaFact::ProductReserved,
            product_id: Some(text("p")),
            detail: Some(text("d")),
        }
        .into(),
        ExpireSagaStep {
            step: SagaStep::Pay,
            attempt: 1,
        }
        .into(),
        ResumeOrderSaga {}.into(),
    ];
    contract::check_commands(&samples, &golden("commands"));
}

#[test]
fn the_structs_of_a_days_sales_are_what_their_schema_files_say() {
    let sale = (text("o"), text("EUR"), 2);
    let samples: [SalesDayEvent; 4] = [
        SalesDayOpened {
            opened_at: noon(),
            closes_at: noon(),
        }
        .into(),
        SaleCounted {
            order_id: sale.0.clone(),
            currency: sale.1.clone(),
            total_cents: sale.2,
        }
        .into(),
        SalesDigestReopened { revision: 1 }.into(),
        SalesDigestIssued {
            revision: 1,
            totals: vec![CurrencyTotal {
                currency: text("EUR"),
                orders: 1,
                total_cents: 2,
            }],
        }
        .into(),
    ];
    contract::check(&samples, &golden(""));
    let samples: [SalesDayCommand; 2] = [
        CountSale {
            order_id: sale.0,
            currency: sale.1,
            total_cents: sale.2,
        }
        .into(),
        IssueSalesDigest {}.into(),
    ];
    contract::check_commands(&samples, &golden("commands"));
}
