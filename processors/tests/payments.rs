//! The flows of money and of sagas on a topology without a broker: what each event leads to, and that it leads to it once.

use std::time::Duration;

use chrono::DateTime;
use millrace::command::CommandSet;
use millrace::testing::topology::TopologyLog;
use schemas::order::*;
use schemas::order_saga::*;
use schemas::payment::*;
use schemas::sales_day::*;
use schemas::stock::*;

const BY_EVENTS: Coordination = Coordination::Choreography;
const BY_SAGA: Coordination = Coordination::Orchestration;

fn log() -> TopologyLog {
    TopologyLog::new(&processors::topology(), &schemas::all())
}

/// The commands of a kind since the last call: aggregate and command.
fn to<C: CommandSet>(log: &mut TopologyLog) -> Vec<(String, C)> {
    let emitted = log.drain::<C>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn order<C>(command: impl Into<C>) -> (String, C) {
    ("1".to_owned(), command.into())
}

fn products() -> Vec<ProductQuantity> {
    let of = |product: &str, quantity| ProductQuantity {
        product_id: product.into(),
        quantity,
    };
    vec![of("cup", 1), of("tea", 5)]
}

fn due(coordination: Coordination) -> OrderPaymentDue {
    OrderPaymentDue {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
        products: products(),
    }
}

fn request(coordination: Coordination) -> RequestPayment {
    RequestPayment {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
    }
}

fn withdrawn(coordination: Coordination) -> OrderPaymentWithdrawn {
    OrderPaymentWithdrawn {
        reason: "changed my mind".into(),
        coordination,
    }
}

fn received(coordination: Coordination) -> PaymentReceived {
    PaymentReceived {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
    }
}

fn failed(coordination: Coordination) -> PaymentFailed {
    PaymentFailed {
        reason: "declined".into(),
        coordination,
    }
}

fn refunded(coordination: Coordination) -> PaymentRefunded {
    PaymentRefunded {
        refund_id: "re-1".into(),
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
    }
}

fn paid(coordination: Coordination) -> OrderPaid {
    OrderPaid {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
    }
}

fn fact(fact: SagaFact, product: Option<&str>, detail: Option<&str>) -> RecordSagaFact {
    RecordSagaFact {
        fact,
        product_id: product.map(str::to_owned),
        detail: detail.map(str::to_owned),
    }
}

fn begun(step: SagaStep, attempt: i64, products: Vec<ProductQuantity>) -> OrderSagaStepBegun {
    OrderSagaStepBegun {
        step,
        attempt,
        reason: (step >= SagaStep::Refund).then(|| "declined".to_owned()),
        customer_id: "ada".into(),
        currency: "EUR".into(),
        due_cents: 500,
        products,
    }
}

#[test]
fn a_payment_that_is_due_is_requested_by_the_flow_or_left_to_the_saga() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", due(BY_EVENTS));
    assert_eq!(to::<PaymentCommand>(&mut log), [order(request(BY_EVENTS))]);
    assert_eq!(to::<OrderSagaCommand>(&mut log), []);
    log.pipe::<OrderEvent>("1", due(BY_SAGA));
    assert_eq!(to::<PaymentCommand>(&mut log), []);
    let start = StartOrderSaga {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        due_cents: 500,
        products: products(),
    };
    assert_eq!(to::<OrderSagaCommand>(&mut log), [order(start)]);
}

#[test]
fn an_order_that_is_cancelled_cancels_its_payment_after_its_request_whoever_coordinates_it() {
    let mut log = log();
    let cancel = |coordination| CancelPayment {
        reason: "changed my mind".into(),
        coordination,
    };
    log.pipe::<OrderEvent>("1", due(BY_EVENTS));
    log.pipe::<OrderEvent>("1", withdrawn(BY_EVENTS));
    let commands = to::<PaymentCommand>(&mut log);
    let expected = [order(request(BY_EVENTS)), order(cancel(BY_EVENTS))];
    assert_eq!(commands, expected);
    log.pipe::<OrderEvent>("1", withdrawn(BY_SAGA));
    assert_eq!(to::<PaymentCommand>(&mut log), [order(cancel(BY_SAGA))]);
    let told = fact(SagaFact::OrderCancelled, None, Some("changed my mind"));
    assert_eq!(to::<OrderSagaCommand>(&mut log), [order(told)]);
}

#[test]
fn an_order_hears_what_became_of_its_payment() {
    let mut log = log();
    let failure = |reason: &str| RecordPaymentFailure {
        reason: reason.into(),
    };
    log.pipe::<PaymentEvent>("1", received(BY_EVENTS));
    log.pipe::<PaymentEvent>("1", failed(BY_EVENTS));
    log.pipe::<PaymentEvent>("1", refunded(BY_EVENTS));
    let expected = [
        order(RecordPayment { amount_cents: 500 }),
        order(failure("declined")),
        order(failure("refunded")),
    ];
    assert_eq!(to::<OrderCommand>(&mut log), expected);
    assert_eq!(to::<OrderSagaCommand>(&mut log), []);
}

#[test]
fn a_saga_hears_what_became_of_its_payment_and_its_order_only_of_a_refund() {
    let mut log = log();
    log.pipe::<PaymentEvent>("1", received(BY_SAGA));
    log.pipe::<PaymentEvent>("1", failed(BY_SAGA));
    log.pipe::<PaymentEvent>("1", refunded(BY_SAGA));
    let expected = [
        order(fact(SagaFact::PaymentReceived, None, None)),
        order(fact(SagaFact::PaymentFailed, None, Some("declined"))),
        order(fact(SagaFact::PaymentRefunded, None, None)),
    ];
    assert_eq!(to::<OrderSagaCommand>(&mut log), expected);
    let refund = RecordPaymentFailure {
        reason: "refunded".into(),
    };
    assert_eq!(to::<OrderCommand>(&mut log), [order(refund)]);
}

#[test]
fn a_saga_hears_what_the_stock_answers_to_it_and_the_order_does_not() {
    let mut log = log();
    let order_id = || "1".to_owned();
    let coordination = BY_SAGA;
    for tracked in [true, false] {
        let reserved = StockReserved {
            order_id: order_id(),
            quantity: 5,
            tracked,
            coordination,
        };
        log.pipe::<StockEvent>("tea", reserved);
    }
    let refused = StockReservationRefused {
        order_id: order_id(),
        quantity: 5,
        available: 4,
        coordination,
    };
    log.pipe::<StockEvent>("tea", refused);
    let released = StockReleased {
        order_id: order_id(),
        quantity: 5,
        coordination,
    };
    log.pipe::<StockEvent>("tea", released);
    let short = "5 of tea asked for, 4 available";
    let expected = [
        order(fact(SagaFact::ProductReserved, Some("tea"), None)),
        order(fact(SagaFact::ProductUntracked, Some("tea"), None)),
        order(fact(SagaFact::ProductRefused, Some("tea"), Some(short))),
        order(fact(SagaFact::ProductReleased, Some("tea"), None)),
    ];
    assert_eq!(to::<OrderSagaCommand>(&mut log), expected);
    assert_eq!(to::<OrderCommand>(&mut log), []);
}

#[test]
fn a_saga_hears_that_its_order_was_confirmed_and_a_sale_is_counted_for_its_day() {
    let mut log = log();
    let day = log.time().date_naive().to_string();
    for coordination in [BY_EVENTS, BY_SAGA] {
        log.pipe::<OrderEvent>("1", OrderConfirmed::default());
        log.pipe::<OrderEvent>("1", paid(coordination));
    }
    let confirmed = fact(SagaFact::OrderConfirmed, None, None);
    assert_eq!(to::<OrderSagaCommand>(&mut log), [order(confirmed)]);
    let sale = SalesDayCommand::from(CountSale {
        order_id: "1".into(),
        currency: "EUR".into(),
        total_cents: 500,
    });
    let expected = [(day.clone(), sale.clone()), (day, sale)];
    assert_eq!(to::<SalesDayCommand>(&mut log), expected);
}

#[test]
fn the_steps_of_a_saga_become_commands_to_stock_payment_and_order() {
    let mut log = log();
    let order_id = || "1".to_owned();
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Reserve, 1, products()));
    let reserve = |quantity| {
        StockCommand::from(ReserveStock {
            order_id: order_id(),
            quantity,
            coordination: BY_SAGA,
        })
    };
    let expected = [
        ("cup".to_owned(), reserve(1)),
        ("tea".to_owned(), reserve(5)),
    ];
    let mut commands = to::<StockCommand>(&mut log);
    commands.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(commands, expected);
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Pay, 1, Vec::new()));
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Refund, 1, Vec::new()));
    let cancel = CancelPayment {
        reason: "declined".into(),
        coordination: BY_SAGA,
    };
    assert_eq!(
        to::<PaymentCommand>(&mut log),
        [order(request(BY_SAGA)), order(cancel)]
    );
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Release, 1, products()[1..].to_vec()));
    let release = ReleaseStock {
        order_id: order_id(),
    };
    assert_eq!(
        to::<StockCommand>(&mut log),
        [("tea".to_owned(), release.into())]
    );
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Confirm, 1, Vec::new()));
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Confirm, 2, Vec::new()));
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Cancel, 1, Vec::new()));
    let cancel = CancelOrder {
        reason: "declined".into(),
    };
    let expected = [
        order(ConfirmPaidOrder { paid_cents: 500 }),
        order(ExpireOrder {}),
        order(cancel),
    ];
    assert_eq!(to::<OrderCommand>(&mut log), expected);
}

#[test]
fn what_is_nobodys_business_leads_to_nothing() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", OrderPaymentRecorded { amount_cents: 500 });
    let requested = PaymentRequested {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        charge_before: DateTime::UNIX_EPOCH,
        coordination: BY_SAGA,
    };
    log.pipe::<PaymentEvent>("1", requested);
    let reason = "changed my mind".to_owned();
    log.pipe::<PaymentEvent>("1", PaymentWithdrawn { reason });
    let step = SagaStep::Pay;
    log.pipe::<OrderSagaEvent>("1", OrderSagaStepDone { step });
    log.pipe::<StockEvent>("tea", StockReorderLevelSet { level: 5 });
    assert_eq!(to::<OrderCommand>(&mut log), []);
    assert_eq!(to::<PaymentCommand>(&mut log), []);
    assert_eq!(to::<OrderSagaCommand>(&mut log), []);
    assert_eq!(to::<StockCommand>(&mut log), []);
}

#[test]
fn a_replay_of_a_sagas_steps_repeats_each_command_under_its_id() {
    let mut log = log();
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Pay, 1, Vec::new()));
    log.pipe::<OrderSagaEvent>("1", begun(SagaStep::Refund, 1, Vec::new()));
    let ids = |log: &mut TopologyLog| -> Vec<_> {
        let commands = log.drain::<PaymentCommand>();
        commands.iter().map(|one| one.id).collect()
    };
    let first = ids(&mut log);
    for partition in 0..3 {
        log.reset("saga-steps", partition, 0);
    }
    log.advance(Duration::from_secs(60));
    assert_eq!(first.len(), 2);
    assert_eq!(ids(&mut log), first);
}

/// Filtering: of all that happens to an order, a day's sales hear of one event in many.
#[test]
fn of_all_that_happens_to_an_order_only_what_was_paid_is_counted() {
    let mut log = log();
    let event = |order: &str| {
        let lines = vec![OrderLine {
            product_id: "tea".into(),
            quantity: 1,
            total_cents: 500,
        }];
        let placed = OrderPlaced {
            customer_id: "ada".into(),
            currency: "EUR".into(),
            placed_at: DateTime::UNIX_EPOCH,
            lines,
            coordination: BY_EVENTS,
        };
        let reason = "changed my mind".to_owned();
        let story: [OrderEvent; 6] = [
            placed.into(),
            due(BY_EVENTS).into(),
            OrderPaymentRecorded { amount_cents: 500 }.into(),
            OrderConfirmed::default().into(),
            paid(BY_EVENTS).into(),
            OrderCancelled {
                reason,
                products: products(),
            }
            .into(),
        ];
        (order.to_owned(), story)
    };
    for (order, story) in [event("1"), event("2")] {
        for event in story {
            log.pipe::<OrderEvent>(&order, event);
        }
    }
    let counted = to::<SalesDayCommand>(&mut log);
    let orders: Vec<&str> = counted
        .iter()
        .map(|(_, command)| match command {
            SalesDayCommand::CountSale(sale) => sale.order_id.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(orders, ["1", "2"]);
}
