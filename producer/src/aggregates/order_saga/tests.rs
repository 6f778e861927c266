//! What a saga does, step by step, and what it does when a step goes wrong.

use super::*;
use millrace::aggregate::fold;
use millrace::testing::given;

fn products() -> Vec<ProductQuantity> {
    let of = |product: &str, quantity| ProductQuantity {
        product_id: product.into(),
        quantity,
    };
    vec![of("cup", 1), of("tea", 5)]
}

fn start() -> StartOrderSaga {
    StartOrderSaga {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        due_cents: 500,
        products: products(),
    }
}

fn started() -> OrderSagaEvent {
    OrderSagaStarted {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        due_cents: 500,
        products: products(),
    }
    .into()
}

fn begun_again(
    (step, attempt): (SagaStep, i64),
    of: &[&str],
    reason: Option<&str>,
) -> OrderSagaEvent {
    let products = products().into_iter();
    OrderSagaStepBegun {
        step,
        attempt,
        reason: reason.map(str::to_owned),
        customer_id: "ada".into(),
        currency: "EUR".into(),
        due_cents: 500,
        products: products
            .filter(|one| of.contains(&one.product_id.as_str()))
            .collect(),
    }
    .into()
}

fn begun(step: SagaStep, of: &[&str]) -> OrderSagaEvent {
    begun_again((step, 1), of, None)
}

fn undone(step: SagaStep, of: &[&str], reason: &str) -> OrderSagaEvent {
    begun_again((step, 1), of, Some(reason))
}

fn done(step: SagaStep) -> OrderSagaEvent {
    OrderSagaStepDone { step }.into()
}

fn failed(step: SagaStep, reason: &str) -> OrderSagaEvent {
    OrderSagaStepFailed {
        step,
        reason: reason.into(),
    }
    .into()
}

fn ended(outcome: SagaOutcome, reason: Option<&str>) -> OrderSagaEvent {
    OrderSagaEnded {
        outcome,
        reason: reason.map(str::to_owned),
    }
    .into()
}

fn fact(fact: SagaFact, product: Option<&str>, detail: Option<&str>) -> RecordSagaFact {
    RecordSagaFact {
        fact,
        product_id: product.map(str::to_owned),
        detail: detail.map(str::to_owned),
    }
}

fn recorded(of: RecordSagaFact) -> OrderSagaEvent {
    OrderSagaFactRecorded {
        fact: of.fact,
        product_id: of.product_id,
        detail: of.detail,
    }
    .into()
}

fn reserved(product: &str) -> RecordSagaFact {
    fact(SagaFact::ProductReserved, Some(product), None)
}

fn refused(product: &str) -> RecordSagaFact {
    fact(
        SagaFact::ProductRefused,
        Some(product),
        Some("1 of tea left"),
    )
}

fn released(product: &str) -> RecordSagaFact {
    fact(SagaFact::ProductReleased, Some(product), None)
}

fn of(kind: SagaFact) -> RecordSagaFact {
    fact(kind, None, None)
}

fn expire(step: SagaStep, attempt: i64) -> ExpireSagaStep {
    ExpireSagaStep { step, attempt }
}

/// Everything that a saga did when these commands came to it, one after the other.
fn history(commands: impl IntoIterator<Item = OrderSagaCommand>) -> Vec<OrderSagaEvent> {
    let context = Context {
        aggregate_id: "1".into(),
        now: chrono::DateTime::UNIX_EPOCH,
    };
    let mut events = Vec::new();
    for command in commands {
        let saga: OrderSaga = fold(&events);
        events.extend(saga.decide(command, &context).unwrap());
    }
    events
}

/// A saga that waits for its payment.
fn paying() -> Vec<OrderSagaCommand> {
    vec![
        start().into(),
        reserved("cup").into(),
        reserved("tea").into(),
    ]
}

/// A saga that waits for its order's confirmation.
fn confirming() -> Vec<OrderSagaCommand> {
    let mut commands = paying();
    commands.push(of(SagaFact::PaymentReceived).into());
    commands
}

/// The steps that were begun, with their attempts.
fn steps(events: &[OrderSagaEvent]) -> Vec<(SagaStep, i64)> {
    let begun = |event: &OrderSagaEvent| match event {
        OrderSagaEvent::OrderSagaStepBegun(begun) => Some((begun.step, begun.attempt)),
        _ => None,
    };
    events.iter().filter_map(begun).collect()
}

#[test]
fn a_saga_reserves_pays_confirms_and_has_completed() {
    given::<OrderSaga>([])
        .when(start())
        .then([started(), begun(SagaStep::Reserve, &["cup", "tea"])]);
    given::<OrderSaga>(history([start().into()]))
        .when(reserved("cup"))
        .then([recorded(reserved("cup"))]);
    let one = history([start().into(), reserved("cup").into()]);
    let untracked = fact(SagaFact::ProductUntracked, Some("tea"), None);
    given::<OrderSaga>(one).when(untracked.clone()).then([
        recorded(untracked),
        done(SagaStep::Reserve),
        begun(SagaStep::Pay, &[]),
    ]);
    let received = of(SagaFact::PaymentReceived);
    given::<OrderSaga>(history(paying()))
        .when(received.clone())
        .then([
            recorded(received),
            done(SagaStep::Pay),
            begun(SagaStep::Confirm, &[]),
        ]);
    let confirmed = of(SagaFact::OrderConfirmed);
    given::<OrderSaga>(history(confirming()))
        .when(confirmed.clone())
        .then([
            recorded(confirmed),
            done(SagaStep::Confirm),
            ended(SagaOutcome::Completed, None),
        ]);
}

#[test]
fn a_shortage_gives_back_what_is_set_aside_and_cancels_the_order() {
    let reason = "out of stock: 1 of tea left";
    let one = history([start().into(), reserved("cup").into()]);
    given::<OrderSaga>(one).when(refused("tea")).then([
        recorded(refused("tea")),
        failed(SagaStep::Reserve, reason),
        undone(SagaStep::Release, &["cup"], reason),
    ]);
    let releasing = [
        start().into(),
        reserved("cup").into(),
        refused("tea").into(),
    ];
    given::<OrderSaga>(history(releasing.clone()))
        .when(released("cup"))
        .then([
            recorded(released("cup")),
            done(SagaStep::Release),
            undone(SagaStep::Cancel, &[], reason),
        ]);
    let cancelling = releasing.into_iter().chain([released("cup").into()]);
    let cancelled = of(SagaFact::OrderCancelled);
    given::<OrderSaga>(history(cancelling))
        .when(cancelled.clone())
        .then([
            recorded(cancelled),
            done(SagaStep::Cancel),
            ended(SagaOutcome::Compensated, Some(reason)),
        ]);
}

#[test]
fn a_payment_that_failed_needs_no_refund_and_the_rest_is_undone_in_reverse() {
    let declined = fact(SagaFact::PaymentFailed, None, Some("declined"));
    let reason = "no payment: declined";
    given::<OrderSaga>(history(paying()))
        .when(declined.clone())
        .then([
            recorded(declined),
            failed(SagaStep::Pay, reason),
            undone(SagaStep::Refund, &[], reason),
            done(SagaStep::Refund),
            undone(SagaStep::Release, &["cup", "tea"], reason),
        ]);
}

#[test]
fn a_payment_without_an_answer_is_undone_when_its_time_is_over() {
    let reason = "no answer in time from the payment";
    given::<OrderSaga>(history(paying()))
        .when(expire(SagaStep::Pay, 1))
        .then([
            failed(SagaStep::Pay, reason),
            undone(SagaStep::Refund, &[], reason),
        ]);
    let undoing = paying()
        .into_iter()
        .chain([expire(SagaStep::Pay, 1).into()]);
    let refunding = history(undoing);
    // The charge comes after all; the payment knows that it is not wanted, and gives it back.
    given::<OrderSaga>(refunding.clone())
        .when(of(SagaFact::PaymentReceived))
        .then([recorded(of(SagaFact::PaymentReceived))]);
    given::<OrderSaga>(refunding)
        .when(of(SagaFact::PaymentRefunded))
        .then([
            recorded(of(SagaFact::PaymentRefunded)),
            done(SagaStep::Refund),
            undone(SagaStep::Release, &["cup", "tea"], reason),
        ]);
}

#[test]
fn a_product_that_never_answered_is_released_when_it_has() {
    let reason = "no answer in time from the stock of tea";
    let waiting = [start().into(), reserved("cup").into()];
    given::<OrderSaga>(history(waiting.clone()))
        .when(expire(SagaStep::Reserve, 1))
        .then([
            failed(SagaStep::Reserve, reason),
            undone(SagaStep::Release, &["cup", "tea"], reason),
        ]);
    let releasing = waiting.into_iter().chain([
        expire(SagaStep::Reserve, 1).into(),
        released("cup").into(),
        reserved("tea").into(),
    ]);
    let late = history(releasing);
    assert_eq!(steps(&late).last(), Some(&(SagaStep::Release, 1)));
    given::<OrderSaga>(late).when(released("tea")).then([
        recorded(released("tea")),
        done(SagaStep::Release),
        undone(SagaStep::Cancel, &[], reason),
    ]);
}

#[test]
fn an_order_that_is_cancelled_by_hand_is_undone_from_any_step() {
    let cancelled = || fact(SagaFact::OrderCancelled, None, Some("changed my mind"));
    let reserving = vec![start().into(), reserved("cup").into()];
    let reason = Some("the order was cancelled: changed my mind");
    for (until, mut commands) in [
        (SagaStep::Reserve, reserving),
        (SagaStep::Pay, paying()),
        (SagaStep::Confirm, confirming()),
    ] {
        commands.push(cancelled().into());
        let undoing = history(commands.clone());
        let first = match until {
            SagaStep::Reserve => SagaStep::Release,
            _ => SagaStep::Refund,
        };
        assert_eq!(steps(&undoing).last(), Some(&(first, 1)), "{until:?}");
        if until == SagaStep::Reserve {
            commands.push(refused("tea").into());
        } else {
            commands.push(of(SagaFact::PaymentRefunded).into());
            commands.push(released("tea").into());
        }
        commands.push(released("cup").into());
        // It is cancelled already: nothing is waited for.
        let last = history(commands);
        let end = [
            done(SagaStep::Cancel),
            ended(SagaOutcome::Compensated, reason),
        ];
        assert!(last.ends_with(&end), "{until:?}: {last:?}");
    }
}

#[test]
fn a_confirmation_that_has_no_answer_is_left_to_the_order() {
    let overdue = OrderSagaStepOverdue {
        step: SagaStep::Confirm,
        attempt: 1,
        waits_for: "the order".into(),
        given_up: false,
    };
    given::<OrderSaga>(history(confirming()))
        .when(expire(SagaStep::Confirm, 1))
        .then([
            overdue.into(),
            begun_again((SagaStep::Confirm, 2), &[], None),
        ]);
    let late = confirming()
        .into_iter()
        .chain([expire(SagaStep::Confirm, 1).into()]);
    let late = history(late);
    given::<OrderSaga>(late.clone())
        .when(of(SagaFact::OrderConfirmed))
        .then([
            recorded(of(SagaFact::OrderConfirmed)),
            done(SagaStep::Confirm),
            ended(SagaOutcome::Completed, None),
        ]);
    let reason = "the order was cancelled";
    given::<OrderSaga>(late)
        .when(of(SagaFact::OrderCancelled))
        .then([
            recorded(of(SagaFact::OrderCancelled)),
            failed(SagaStep::Confirm, reason),
            undone(SagaStep::Refund, &[], reason),
        ]);
}

#[test]
fn a_compensation_is_tried_again_until_it_is_given_up_and_goes_on_by_hand_or_by_a_late_answer() {
    let mut commands = paying();
    commands.push(expire(SagaStep::Pay, 1).into());
    for attempt in 1..=ATTEMPTS_MAX {
        given::<OrderSaga>(history(commands.clone()))
            .when(ResumeOrderSaga {})
            .then_rejected(Rejection::NotGivenUp);
        commands.push(expire(SagaStep::Refund, attempt).into());
    }
    let stuck = history(commands);
    let given_up = OrderSagaStepOverdue {
        step: SagaStep::Refund,
        attempt: ATTEMPTS_MAX,
        waits_for: "the payment".into(),
        given_up: true,
    };
    assert_eq!(stuck.last(), Some(&given_up.into()));
    let reason = Some("no answer in time from the payment");
    given::<OrderSaga>(stuck.clone())
        .when(ResumeOrderSaga {})
        .then([begun_again(
            (SagaStep::Refund, ATTEMPTS_MAX + 1),
            &[],
            reason,
        )]);
    given::<OrderSaga>(stuck)
        .when(of(SagaFact::PaymentFailed))
        .then([
            recorded(of(SagaFact::PaymentFailed)),
            done(SagaStep::Refund),
            begun_again((SagaStep::Release, 1), &["cup", "tea"], reason),
        ]);
}

#[test]
fn a_timer_of_a_step_that_is_over_changes_nothing() {
    for late in [
        expire(SagaStep::Reserve, 1),
        expire(SagaStep::Pay, 2),
        expire(SagaStep::Refund, 1),
    ] {
        given::<OrderSaga>(history(paying()))
            .when(late)
            .then_nothing();
    }
}

#[test]
fn what_came_before_the_start_counts() {
    let early = [
        of(SagaFact::PaymentFailed).into(),
        of(SagaFact::OrderCancelled).into(),
        start().into(),
    ];
    let events = history(early);
    assert_eq!(
        steps(&events),
        [(SagaStep::Reserve, 1), (SagaStep::Release, 1)]
    );
}

#[test]
fn a_fact_that_is_known_and_one_that_comes_after_the_end_change_nothing() {
    given::<OrderSaga>(history([start().into(), reserved("cup").into()]))
        .when(reserved("cup"))
        .then_nothing();
    given::<OrderSaga>(history([start().into()]))
        .when(reserved("pot"))
        .then_nothing();
    given::<OrderSaga>(history([start().into()]))
        .when(start())
        .then_nothing();
    let mut commands = confirming();
    commands.push(of(SagaFact::OrderConfirmed).into());
    given::<OrderSaga>(history(commands))
        .when(of(SagaFact::OrderCancelled))
        .then_nothing();
}

#[test]
fn an_order_without_products_or_a_price_has_no_saga() {
    let empty = StartOrderSaga {
        products: Vec::new(),
        ..start()
    };
    given::<OrderSaga>([])
        .when(empty)
        .then_rejected(Rejection::Nothing);
    let free = StartOrderSaga {
        due_cents: 0,
        ..start()
    };
    given::<OrderSaga>([])
        .when(free)
        .then_rejected(Rejection::Nothing);
}

#[test]
fn every_step_sets_its_time_limit_and_its_end_takes_it_back() {
    let quarter = std::time::Duration::from_secs(900);
    for step in [
        SagaStep::Reserve,
        SagaStep::Pay,
        SagaStep::Confirm,
        SagaStep::Refund,
        SagaStep::Release,
        SagaStep::Cancel,
    ] {
        let set = TimerChange::set("step", quarter, expire(step, 1));
        assert_eq!(OrderSaga::timers(&begun(step, &[])), [set]);
        let cancel = TimerChange::cancel("step");
        assert_eq!(
            OrderSaga::timers(&done(step)),
            std::slice::from_ref(&cancel)
        );
        assert_eq!(OrderSaga::timers(&failed(step, "r")), [cancel]);
    }
}
