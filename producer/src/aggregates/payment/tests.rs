//! What a payment does: above all, that what is not wanted is not kept.

use super::*;
use chrono::{DateTime, TimeDelta};
use millrace::testing::given;

const CHOREOGRAPHY: Coordination = Coordination::Choreography;

fn request() -> RequestPayment {
    RequestPayment {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination: CHOREOGRAPHY,
    }
}

fn requested() -> PaymentEvent {
    let now = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
    PaymentRequested {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        charge_before: now + TimeDelta::minutes(10),
        coordination: CHOREOGRAPHY,
    }
    .into()
}

fn charge() -> RecordCharge {
    RecordCharge {
        charge_id: "ch-1".into(),
        amount_cents: 500,
    }
}

fn processed() -> PaymentEvent {
    PaymentProcessed {
        charge_id: "ch-1".into(),
        currency: "EUR".into(),
        amount_cents: 500,
    }
    .into()
}

fn received() -> PaymentEvent {
    PaymentReceived {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination: CHOREOGRAPHY,
    }
    .into()
}

fn cancel() -> CancelPayment {
    CancelPayment {
        reason: "changed my mind".into(),
        coordination: CHOREOGRAPHY,
    }
}

fn withdrawn() -> PaymentEvent {
    PaymentWithdrawn {
        reason: "changed my mind".into(),
    }
    .into()
}

fn refund_requested() -> PaymentEvent {
    PaymentRefundRequested {
        charge_id: "ch-1".into(),
        currency: "EUR".into(),
        amount_cents: 500,
    }
    .into()
}

fn refund() -> RecordRefund {
    RecordRefund {
        refund_id: "re-1".into(),
    }
}

fn refunded() -> PaymentEvent {
    PaymentRefunded {
        refund_id: "re-1".into(),
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 500,
        coordination: CHOREOGRAPHY,
    }
    .into()
}

fn failure(reason: &str) -> RecordChargeFailure {
    RecordChargeFailure {
        reason: reason.into(),
    }
}

fn failed(reason: &str) -> PaymentEvent {
    PaymentFailed {
        reason: reason.into(),
        coordination: CHOREOGRAPHY,
    }
    .into()
}

#[test]
fn a_payment_is_requested_once_with_a_time_after_which_it_is_not_charged() {
    given::<Payment>([]).when(request()).then([requested()]);
    given::<Payment>([requested()])
        .when(request())
        .then_nothing();
    let other = RequestPayment {
        amount_cents: 501,
        ..request()
    };
    given::<Payment>([requested()])
        .when(other)
        .then_rejected(Rejection::OtherTerms {
            requested: 500,
            asked: 501,
        });
}

#[test]
fn what_the_gateway_charged_is_received() {
    given::<Payment>([requested()])
        .when(charge())
        .then([processed(), received()]);
}

#[test]
fn what_the_gateway_declined_has_failed() {
    given::<Payment>([requested()])
        .when(failure("declined"))
        .then([failed("declined")]);
    given::<Payment>([requested(), failed("declined")])
        .when(failure("declined again"))
        .then_nothing();
}

#[test]
fn a_charge_that_comes_after_the_cancellation_goes_back() {
    given::<Payment>([requested()])
        .when(cancel())
        .then([withdrawn()]);
    given::<Payment>([requested(), withdrawn()])
        .when(charge())
        .then([processed(), refund_requested()]);
    given::<Payment>([requested(), withdrawn()])
        .when(failure("too late"))
        .then([failed("too late")]);
}

#[test]
fn a_payment_that_was_cancelled_first_is_never_requested() {
    let never = [withdrawn(), failed("changed my mind")];
    given::<Payment>([]).when(cancel()).then(never.clone());
    given::<Payment>(never).when(request()).then_nothing();
}

#[test]
fn a_received_payment_that_is_cancelled_goes_back() {
    let history = [requested(), processed(), received()];
    given::<Payment>(history.clone())
        .when(cancel())
        .then([withdrawn(), refund_requested()]);
    let history = [history.as_slice(), &[withdrawn(), refund_requested()]].concat();
    given::<Payment>(history.clone())
        .when(cancel())
        .then_nothing();
    given::<Payment>(history).when(refund()).then([refunded()]);
}

#[test]
fn an_answer_that_comes_again_changes_nothing() {
    let received = [requested(), processed(), received()];
    let refunding = [
        requested(),
        withdrawn(),
        processed(),
        refund_requested(),
        refunded(),
    ];
    given::<Payment>(received.clone())
        .when(charge())
        .then_nothing();
    given::<Payment>(refunding[..4].to_vec())
        .when(charge())
        .then_nothing();
    given::<Payment>(refunding.to_vec())
        .when(charge())
        .then_nothing();
    given::<Payment>(refunding.to_vec())
        .when(refund())
        .then_nothing();
    given::<Payment>(received)
        .when(failure("declined"))
        .then_rejected(Rejection::Charged("ch-1".into()));
}

#[test]
fn a_charge_that_was_given_up_and_came_through_goes_back() {
    given::<Payment>([requested(), failed("too late")])
        .when(charge())
        .then([processed(), refund_requested()]);
}

#[test]
fn another_charge_or_amount_than_the_payments_is_refused() {
    let second = RecordCharge {
        charge_id: "ch-2".into(),
        amount_cents: 500,
    };
    given::<Payment>([requested(), processed(), received()])
        .when(second)
        .then_rejected(Rejection::OtherCharge {
            charge_id: "ch-2".into(),
            known: "ch-1".into(),
        });
    let more = RecordCharge {
        amount_cents: 501,
        ..charge()
    };
    given::<Payment>([requested()])
        .when(more)
        .then_rejected(Rejection::OtherAmount {
            charged: 501,
            requested: 500,
        });
}

#[test]
fn an_answer_must_be_about_what_was_asked() {
    given::<Payment>([])
        .when(charge())
        .then_rejected(Rejection::NotRequested);
    given::<Payment>([])
        .when(failure("declined"))
        .then_rejected(Rejection::NotRequested);
    given::<Payment>([requested(), processed(), received()])
        .when(refund())
        .then_rejected(Rejection::NoRefund);
}

#[test]
fn amounts_currencies_and_ids_are_checked() {
    let of = |change: fn(&mut RequestPayment)| {
        let mut request = request();
        change(&mut request);
        given::<Payment>([]).when(request)
    };
    of(|it| it.amount_cents = 0).then_rejected(Rejection::Amount(0));
    of(|it| it.amount_cents = TOTAL_CENTS_MAX + 1)
        .then_rejected(Rejection::Amount(TOTAL_CENTS_MAX + 1));
    of(|it| it.currency = "euro".into()).then_rejected(Rejection::Currency("euro".into()));
    of(|it| it.customer_id = String::new()).then_rejected(Rejection::Id("customer_id"));
}

/// All sequences of six of these commands: whatever comes in whatever order, nothing is kept once it was cancelled, and what
/// was given back was charged before.
#[test]
fn whatever_comes_in_whatever_order_a_cancelled_payment_keeps_no_money() {
    let commands: [PaymentCommand; 5] = [
        request().into(),
        charge().into(),
        failure("declined").into(),
        cancel().into(),
        refund().into(),
    ];
    let context = Context {
        aggregate_id: "1".into(),
        now: DateTime::UNIX_EPOCH,
    };
    for number in 0..commands.len().pow(6) {
        let mut payment = Payment::default();
        let (mut charged, mut refunded, mut cancelled, mut rest) = (0, 0, false, number);
        for _ in 0..6 {
            let command = commands[rest % commands.len()].clone();
            rest /= commands.len();
            cancelled |= matches!(command, PaymentCommand::CancelPayment(_));
            for event in payment.decide(command, &context).unwrap_or_default() {
                match &event {
                    PaymentEvent::PaymentProcessed(event) => charged += event.amount_cents,
                    PaymentEvent::PaymentRefunded(event) => refunded += event.amount_cents,
                    PaymentEvent::PaymentReceived(_) => assert!(!cancelled, "{number}"),
                    _ => {}
                }
                payment.evolve(&event);
            }
            assert!(charged <= 500 && refunded <= charged, "{number}");
            let kept = payment.status == Status::Received;
            let under_way = payment.status == Status::Refunding;
            assert_eq!(
                charged - refunded,
                if kept || under_way { 500 } else { 0 },
                "{number}"
            );
            assert!(!(kept && cancelled), "{number}");
        }
    }
}
