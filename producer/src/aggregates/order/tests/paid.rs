//! Orders that are paid at the gateway.

use super::*;

fn placed_by(coordination: Coordination) -> OrderEvent {
    let OrderEvent::OrderPlaced(mut order) = placed() else {
        unreachable!();
    };
    order.coordination = coordination;
    order.into()
}

fn due(coordination: Coordination) -> OrderEvent {
    OrderPaymentDue {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
        products: products(&[("tea", 2)]),
    }
    .into()
}

/// An order of two teas for 500 cents that is paid at the gateway.
fn waiting(coordination: Coordination) -> Vec<OrderEvent> {
    vec![placed_by(coordination), due(coordination)]
}

fn and(
    mut history: Vec<OrderEvent>,
    more: impl IntoIterator<Item = OrderEvent>,
) -> Vec<OrderEvent> {
    history.extend(more);
    history
}

fn confirmed_paid(coordination: Coordination) -> [OrderEvent; 2] {
    let paid = OrderPaid {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination,
    };
    [confirmed(), paid.into()]
}

fn withdrawn(reason: &str, coordination: Coordination) -> [OrderEvent; 2] {
    let no_money = OrderPaymentWithdrawn {
        reason: reason.into(),
        coordination,
    };
    [cancelled(reason, &[("tea", 2)]), no_money.into()]
}

fn recorded() -> OrderEvent {
    OrderPaymentRecorded { amount_cents: 500 }.into()
}

const PAYMENT: RecordPayment = RecordPayment { amount_cents: 500 };
const BY_EVENTS: Coordination = Coordination::Choreography;
const BY_SAGA: Coordination = Coordination::Orchestration;

#[test]
fn an_order_says_when_it_is_paid_at_the_gateway_and_one_without_a_price_never_is() {
    let at_gateway = |total_cents| PlaceOrder {
        payment: Some(PaymentMethod::Gateway),
        ..place(vec![line(2, total_cents)])
    };
    given::<Order>([])
        .when(at_gateway(500))
        .then(waiting(BY_EVENTS));
    let outcome = given::<Order>([]).when(at_gateway(0));
    let OrderEvent::OrderPlaced(mut free) = placed() else {
        unreachable!();
    };
    free.lines = vec![line(2, 0)];
    outcome.then([free.into()]);
    let invoice = PlaceOrder {
        payment: Some(PaymentMethod::Invoice),
        ..place(vec![line(2, 500)])
    };
    given::<Order>([]).when(invoice).then([placed()]);
}

#[test]
fn an_order_is_confirmed_by_whichever_of_goods_and_money_comes_last() {
    given::<Order>(waiting(BY_EVENTS))
        .when(reservation("tea", 2))
        .then([reserved("tea", 2)]);
    let goods = and(waiting(BY_EVENTS), [reserved("tea", 2)]);
    let [is_confirmed, is_paid] = confirmed_paid(BY_EVENTS);
    given::<Order>(goods)
        .when(PAYMENT)
        .then([recorded(), is_confirmed.clone(), is_paid.clone()]);
    given::<Order>(waiting(BY_EVENTS))
        .when(PAYMENT)
        .then([recorded()]);
    let money = and(waiting(BY_EVENTS), [recorded()]);
    given::<Order>(money).when(reservation("tea", 2)).then([
        reserved("tea", 2),
        is_confirmed,
        is_paid,
    ]);
}

#[test]
fn money_that_comes_again_or_too_late_changes_nothing() {
    let money = and(waiting(BY_EVENTS), [recorded()]);
    given::<Order>(money).when(PAYMENT).then_nothing();
    let ended = and(waiting(BY_EVENTS), withdrawn("late", BY_EVENTS));
    given::<Order>(ended).when(PAYMENT).then_nothing();
}

#[test]
fn an_order_whose_payment_failed_is_cancelled() {
    let failure = RecordPaymentFailure {
        reason: "declined".into(),
    };
    given::<Order>(waiting(BY_EVENTS))
        .when(failure)
        .then(withdrawn("payment: declined", BY_EVENTS));
}

#[test]
fn an_order_cancelled_by_hand_after_the_payment_gives_its_money_back() {
    let cancel = CancelOrder {
        reason: "changed my mind".into(),
    };
    for coordination in [BY_EVENTS, BY_SAGA] {
        let history = and(waiting(coordination), confirmed_paid(coordination));
        given::<Order>(history)
            .when(cancel.clone())
            .then(withdrawn("changed my mind", coordination));
    }
}

#[test]
fn an_order_that_expires_gives_its_money_back() {
    let late = "not confirmed in time";
    let money = and(waiting(BY_EVENTS), [recorded()]);
    given::<Order>(money)
        .when(ExpireOrder {})
        .then(withdrawn(late, BY_EVENTS));
    let done = and(waiting(BY_EVENTS), confirmed_paid(BY_EVENTS));
    given::<Order>(done).when(ExpireOrder {}).then_nothing();
}

#[test]
fn money_that_went_back_cancels_a_confirmed_order_but_not_a_shipped_one() {
    let back = RecordPaymentFailure {
        reason: "refunded".into(),
    };
    for coordination in [BY_EVENTS, BY_SAGA] {
        let history = and(waiting(coordination), confirmed_paid(coordination));
        given::<Order>(history.clone())
            .when(back.clone())
            .then(withdrawn("payment: refunded", coordination));
        let shipped = OrderShipped {
            tracking_code: None,
            products: products(&[("tea", 2)]),
            customer_id: "ada".into(),
        };
        given::<Order>(and(history, [shipped.into()]))
            .when(back.clone())
            .then_nothing();
    }
}

#[test]
fn an_orchestrated_order_is_confirmed_by_its_saga_alone() {
    given::<Order>(waiting(BY_SAGA))
        .when(PAYMENT)
        .then_nothing();
    let failure = RecordPaymentFailure {
        reason: "declined".into(),
    };
    given::<Order>(waiting(BY_SAGA))
        .when(failure)
        .then_nothing();
    let confirm = ConfirmPaidOrder { paid_cents: 500 };
    given::<Order>(waiting(BY_SAGA))
        .when(confirm.clone())
        .then(confirmed_paid(BY_SAGA));
    given::<Order>(and(waiting(BY_SAGA), confirmed_paid(BY_SAGA)))
        .when(confirm.clone())
        .then_nothing();
    given::<Order>(and(waiting(BY_SAGA), withdrawn("late", BY_SAGA)))
        .when(confirm.clone())
        .then_rejected(wrong(Status::Cancelled, "placed, with orchestration"));
    given::<Order>(waiting(BY_EVENTS))
        .when(confirm)
        .then_rejected(wrong(Status::Placed, "placed, with orchestration"));
}

#[test]
fn nobody_confirms_by_hand_what_is_not_paid_for() {
    for coordination in [BY_EVENTS, BY_SAGA] {
        given::<Order>(waiting(coordination))
            .when(ConfirmOrder {})
            .then_rejected(Rejection::PaidAtGateway);
    }
}

#[test]
fn an_answer_about_money_must_be_about_the_orders_total() {
    given::<Order>(waiting(BY_EVENTS))
        .when(RecordPayment { amount_cents: 499 })
        .then_rejected(Rejection::OtherAmount {
            paid: 499,
            due: 500,
        });
    given::<Order>(waiting(BY_SAGA))
        .when(ConfirmPaidOrder { paid_cents: 501 })
        .then_rejected(Rejection::OtherAmount {
            paid: 501,
            due: 500,
        });
    given::<Order>([placed()])
        .when(PAYMENT)
        .then_rejected(Rejection::NoPaymentDue);
}
