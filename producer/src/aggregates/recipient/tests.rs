use super::*;
use chrono::{DateTime, Utc};
use millrace::aggregate::fold;
use millrace::testing::given;

const EMAIL: &str = "ada@example.org";
const PHONE: &str = "+4915112345678";

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn reached_by(email: Option<&str>, phone: Option<&str>) -> RecipientEvent {
    ContactSet {
        name: text("Ada"),
        email: email.map(str::to_owned),
        phone: phone.map(str::to_owned),
        locale: text("en"),
    }
    .into()
}

fn by_email() -> RecipientEvent {
    reached_by(Some(EMAIL), None)
}

fn params(kind: Kind) -> BTreeMap<String, String> {
    let named = kind.params().iter();
    named
        .map(|name| ((*name).to_owned(), format!("the {name}")))
        .collect()
}

fn request(kind: Kind) -> RequestNotification {
    RequestNotification {
        kind,
        source_event_id: "e".into(),
        happened_at: None,
        params: params(kind),
    }
}

fn id(kind: Kind, channel: Channel) -> String {
    notification_id("1", kind, "e", channel)
}

fn requested(kind: Kind, channel: Channel) -> RecipientEvent {
    let to = match channel {
        Channel::Email => EMAIL,
        Channel::Sms => PHONE,
    };
    NotificationRequested {
        notification_id: id(kind, channel),
        kind,
        source_event_id: "e".into(),
        channel,
        to: to.into(),
        name: text("Ada"),
        locale: text("en"),
        params: params(kind),
    }
    .into()
}

fn welcome() -> RecipientEvent {
    requested(Kind::Welcome, Channel::Email)
}

fn skipped(reason: &str) -> RecipientEvent {
    NotificationSkipped {
        kind: Kind::Welcome,
        source_event_id: "e".into(),
        reason: reason.into(),
    }
    .into()
}

fn report(outcome: Outcome, attempts: i64) -> RecordDelivery {
    RecordDelivery {
        notification_id: id(Kind::Welcome, Channel::Email),
        outcome,
        attempts,
        provider_id: text("p").filter(|_| outcome == Outcome::Sent),
        reason: text("550").filter(|_| outcome != Outcome::Sent),
    }
}

fn sent(attempts: i64) -> RecipientEvent {
    NotificationSent {
        notification_id: id(Kind::Welcome, Channel::Email),
        attempts,
        provider_id: text("p"),
    }
    .into()
}

fn failed(attempts: i64) -> RecipientEvent {
    NotificationFailed {
        notification_id: id(Kind::Welcome, Channel::Email),
        attempts,
        reason: "550".into(),
    }
    .into()
}

fn uncertain(attempts: i64) -> RecipientEvent {
    NotificationUncertain {
        notification_id: id(Kind::Welcome, Channel::Email),
        attempts,
        reason: "550".into(),
    }
    .into()
}

#[test]
fn a_contact_is_set_as_a_whole_and_again_changes_nothing() {
    let contact = SetContact {
        name: text("Ada"),
        email: text(EMAIL),
        phone: None,
        locale: text("en"),
    };
    given::<Recipient>([])
        .when(contact.clone())
        .then([by_email()]);
    given::<Recipient>([by_email()])
        .when(contact)
        .then_nothing();
}

#[test]
fn what_a_contact_leaves_out_stays_and_what_is_empty_goes() {
    let phone = SetContact {
        phone: text(PHONE),
        ..SetContact::default()
    };
    given::<Recipient>([by_email()])
        .when(phone)
        .then([reached_by(Some(EMAIL), Some(PHONE))]);
    let no_email = SetContact {
        email: text(""),
        ..SetContact::default()
    };
    given::<Recipient>([by_email()])
        .when(no_email)
        .then([reached_by(None, None)]);
}

#[test]
fn a_contact_that_nobody_can_write_to_is_refused_without_being_repeated() {
    let contact = SetContact {
        email: text("ada@example.org\r\nBcc: eve@example.org"),
        ..SetContact::default()
    };
    let reason = "is not an e-mail address of ASCII characters";
    given::<Recipient>([])
        .when(contact)
        .then_rejected(Rejection::Contact {
            field: "email",
            reason,
        });
}

#[test]
fn what_happened_goes_out_by_email() {
    for kind in [Kind::Welcome, Kind::OrderPlaced, Kind::PaymentReceived] {
        given::<Recipient>([reached_by(Some(EMAIL), Some(PHONE))])
            .when(request(kind))
            .then([requested(kind, Channel::Email)]);
    }
}

#[test]
fn what_is_urgent_goes_out_by_sms_too() {
    let kind = Kind::OrderShipped;
    given::<Recipient>([reached_by(Some(EMAIL), Some(PHONE))])
        .when(request(kind))
        .then([
            requested(kind, Channel::Email),
            requested(kind, Channel::Sms),
        ]);
    given::<Recipient>([by_email()])
        .when(request(kind))
        .then([requested(kind, Channel::Email)]);
}

#[test]
fn who_has_no_email_address_gets_everything_by_sms() {
    for kind in Kind::ALL {
        given::<Recipient>([reached_by(None, Some(PHONE))])
            .when(request(*kind))
            .then([requested(*kind, Channel::Sms)]);
    }
}

#[test]
fn who_cannot_be_reached_is_skipped_with_the_reason() {
    let reason = "neither an e-mail address nor a phone number is known";
    given::<Recipient>([])
        .when(request(Kind::Welcome))
        .then([skipped(reason)]);
    given::<Recipient>([reached_by(None, None)])
        .when(request(Kind::Welcome))
        .then([skipped(reason)]);
}

#[test]
fn what_happened_long_ago_is_no_news() {
    let now = DateTime::<Utc>::from_timestamp(1_767_225_600, 0).unwrap();
    let at = |hours: i64| RequestNotification {
        happened_at: Some(now - TimeDelta::hours(hours)),
        ..request(Kind::Welcome)
    };
    given::<Recipient>([by_email()])
        .at(now)
        .when(at(72))
        .then([welcome()]);
    given::<Recipient>([by_email()])
        .at(now)
        .when(at(73))
        .then([skipped("it happened more than 72 hours ago")]);
}

#[test]
fn a_request_about_the_same_event_sends_nothing_again() {
    for history in [
        vec![by_email(), welcome()],
        vec![by_email(), welcome(), failed(8)],
        vec![by_email(), welcome(), uncertain(1)],
        vec![by_email(), welcome(), sent(1)],
    ] {
        given::<Recipient>(history)
            .when(request(Kind::Welcome))
            .then_nothing();
    }
}

#[test]
fn a_request_must_bring_what_its_templates_use() {
    let mut less = request(Kind::OrderPlaced);
    less.params.remove("total");
    given::<Recipient>([by_email()])
        .when(less)
        .then_rejected(Rejection::MissingParam {
            kind: Kind::OrderPlaced,
            param: "total",
            needed: "order_id, total, line_count".into(),
        });
    let mut long = request(Kind::Welcome);
    long.params.insert("more".into(), "x".repeat(2_001));
    given::<Recipient>([by_email()])
        .when(long)
        .then_rejected(Rejection::Params);
    for source in ["", "a\nb", &"e".repeat(201)] {
        let request = RequestNotification {
            source_event_id: source.into(),
            ..request(Kind::Welcome)
        };
        given::<Recipient>([by_email()])
            .when(request)
            .then_rejected(Rejection::SourceEventId);
    }
}

#[test]
fn what_becomes_of_a_notification_is_recorded_once() {
    let history = [by_email(), welcome()];
    for (outcome, event) in [
        (Outcome::Sent, sent(1)),
        (Outcome::Failed, failed(1)),
        (Outcome::Uncertain, uncertain(1)),
    ] {
        given::<Recipient>(history.clone())
            .when(report(outcome, 1))
            .then([event.clone()]);
        given::<Recipient>([history.to_vec(), vec![event]].concat())
            .when(report(outcome, 1))
            .then_nothing();
    }
}

#[test]
fn sent_is_the_last_word_however_late_the_others_come() {
    for before in [failed(8), uncertain(1)] {
        given::<Recipient>([by_email(), welcome(), before])
            .when(report(Outcome::Sent, 1))
            .then([sent(1)]);
    }
    for outcome in [Outcome::Sent, Outcome::Failed, Outcome::Uncertain] {
        given::<Recipient>([by_email(), welcome(), sent(2)])
            .when(report(outcome, 3))
            .then_nothing();
    }
}

#[test]
fn of_failures_the_later_call_counts() {
    given::<Recipient>([by_email(), welcome(), uncertain(1)])
        .when(report(Outcome::Failed, 2))
        .then([failed(2)]);
    given::<Recipient>([by_email(), welcome(), failed(2)])
        .when(report(Outcome::Uncertain, 1))
        .then_nothing();
    given::<Recipient>([by_email(), welcome(), failed(2)])
        .when(report(Outcome::Failed, 3))
        .then([failed(3)]);
}

#[test]
fn a_delivery_of_what_nobody_asked_for_is_refused() {
    let of = id(Kind::Welcome, Channel::Email);
    given::<Recipient>([by_email()])
        .when(report(Outcome::Sent, 1))
        .then_rejected(Rejection::UnknownNotification(of));
    given::<Recipient>([by_email(), welcome()])
        .when(report(Outcome::Sent, -1))
        .then_rejected(Rejection::Attempts(-1));
}

#[test]
fn the_state_is_bounded_by_what_is_open_and_the_last_that_were_sent() {
    let numbered = |number: usize| {
        let mut requested = match welcome() {
            RecipientEvent::NotificationRequested(requested) => requested,
            other => panic!("{other:?}"),
        };
        requested.notification_id = number.to_string();
        RecipientEvent::from(requested)
    };
    let open: Vec<RecipientEvent> = (0..OPEN_MAX).map(numbered).collect();
    given::<Recipient>([vec![by_email()], open.clone()].concat())
        .when(request(Kind::Welcome))
        .then([skipped("1000 notifications wait already")]);
    let sent = (0..OPEN_MAX).map(|number| {
        NotificationSent {
            notification_id: number.to_string(),
            attempts: 1,
            provider_id: None,
        }
        .into()
    });
    let state: Recipient = fold(&open.into_iter().chain(sent).collect::<Vec<_>>());
    assert!(state.open.is_empty());
    assert_eq!(state.sent.len(), SENT_KEPT);
}
