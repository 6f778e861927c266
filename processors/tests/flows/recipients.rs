//! What recipients are told, from the event to the filled-in template.

use processors::notifications::Templates;
use schemas::identity::user::*;
use schemas::notification::*;
use schemas::payment::{PaymentEvent, PaymentFailed, PaymentReceived};
use uuid::Uuid;

use super::*;

/// What was asked of recipients since the last call: who, and what.
fn to_recipients(log: &mut TopologyLog) -> Vec<(String, RecipientCommand)> {
    let emitted = log.drain::<RecipientCommand>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn request(kind: Kind, event: Uuid, params: &[(&str, &str)]) -> RecipientCommand {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    RequestNotification {
        kind,
        source_event_id: event.to_string(),
        happened_at: Some("2026-01-01T00:00:00Z".parse().expect("a moment")),
        params: params.iter().map(owned).collect(),
    }
    .into()
}

/// Fills in every part of every template of a request, as the effects do; the request must bring what they need.
fn rendered(command: &RecipientCommand) -> (processors::notifications::Mail, String) {
    let RecipientCommand::RequestNotification(request) = command else {
        panic!("no request: {command:?}");
    };
    for param in request.kind.params() {
        assert!(request.params.contains_key(*param), "{param} is missing");
    }
    let requested = NotificationRequested {
        notification_id: "n".into(),
        kind: request.kind,
        source_event_id: request.source_event_id.clone(),
        channel: Channel::Email,
        to: "ada@example.org".into(),
        name: Some("Ada".into()),
        locale: None,
        params: request.params.clone(),
    };
    let templates = Templates::default();
    let mail = templates.mail(&requested).expect("the mail renders");
    (mail, templates.sms(&requested).expect("the text renders"))
}

#[test]
fn who_ordered_is_told_that_the_order_was_placed() {
    let mut log = log();
    let event = log.pipe::<OrderEvent>("1", placed(Coordination::Orchestration));
    let expected = [
        ("order_id", "1"),
        ("total", "15.00 EUR"),
        ("line_count", "3"),
    ];
    let told = to_recipients(&mut log);
    assert_eq!(
        told,
        [(
            "ada".to_owned(),
            request(Kind::OrderPlaced, event, &expected)
        )]
    );
    let (mail, sms) = rendered(&told[0].1);
    assert_eq!(mail.subject, "Your order 1");
    assert!(mail.text.contains("Total:  15.00 EUR"), "{}", mail.text);
    assert!(mail.html.contains("<td>15.00 EUR</td>"), "{}", mail.html);
    assert_eq!(sms, "We have your order 1, 15.00 EUR in all.");
}

#[test]
fn who_ordered_is_told_that_the_parcel_left_and_its_tracking_code_if_it_has_one() {
    let mut log = log();
    let shipped = |code: Option<&str>, customer: &str| OrderShipped {
        tracking_code: code.map(str::to_owned),
        products: Vec::new(),
        customer_id: customer.to_owned(),
    };
    let coded = log.pipe::<OrderEvent>("1", shipped(Some("JD1"), "ada"));
    let uncoded = log.pipe::<OrderEvent>("1", shipped(None, "bob"));
    // From before version 3.
    log.pipe::<OrderEvent>("1", shipped(None, ""));
    let with = [("order_id", "1"), ("tracking_code", "JD1")];
    let mut told = to_recipients(&mut log);
    told.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        told,
        [
            ("ada".to_owned(), request(Kind::OrderShipped, coded, &with)),
            (
                "bob".to_owned(),
                request(Kind::OrderShipped, uncoded, &with[..1])
            ),
        ]
    );
    let (mail, sms) = rendered(&told[0].1);
    assert!(mail.html.contains("<strong>JD1</strong>"), "{}", mail.html);
    assert_eq!(sms, "Your order 1 is on its way. Tracking code: JD1");
    let (_, sms) = rendered(&told[1].1);
    assert_eq!(sms, "Your order 1 is on its way.");
}

#[test]
fn what_is_no_news_to_who_ordered_leads_to_nothing() {
    let mut log = log();
    let drafted = OrderDrafted {
        customer_id: "ada".into(),
        currency: "EUR".into(),
    };
    log.pipe::<OrderEvent>("1", drafted);
    log.pipe::<OrderEvent>("1", OrderConfirmed::default());
    log.pipe::<OrderEvent>("1", OrderDelivered::default());
    log.pipe::<OrderEvent>("1", cancelled());
    assert_eq!(to_recipients(&mut log), []);
}

fn registered() -> UserRegistered {
    UserRegistered {
        tenant_id: "t".into(),
        registration_id: "r".into(),
        email: "ada@example.org".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: None,
        timezone: None,
        language: Some("en".into()),
        credential_id: None,
        role: UserRole::Member,
    }
}

fn contact(email: Option<&str>, phone: &str, locale: &str) -> RecipientCommand {
    SetContact {
        name: Some("Ada Lovelace".into()),
        email: email.map(str::to_owned),
        phone: Some(phone.into()),
        locale: Some(locale.into()),
    }
    .into()
}

#[test]
fn who_registers_is_known_before_they_are_welcomed() {
    let mut log = log();
    let event = log.pipe::<UserEvent>("ada", registered());
    let told = to_recipients(&mut log);
    assert_eq!(
        told,
        [
            ("ada".to_owned(), contact(Some("ada@example.org"), "", "en")),
            ("ada".to_owned(), request(Kind::Welcome, event, &[])),
        ]
    );
    let (mail, sms) = rendered(&told[1].1);
    assert_eq!(mail.subject, "Welcome, Ada");
    assert_eq!(sms, "Welcome, Ada. Your account is ready.");
}

#[test]
fn a_changed_profile_changes_the_contact_and_takes_back_what_it_no_longer_says() {
    let mut log = log();
    let updated = UserUpdated {
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        avatar_url: None,
        phone: Some("+4915112345678".into()),
        timezone: None,
        language: None,
    };
    log.pipe::<UserEvent>("ada", updated);
    log.pipe::<UserEvent>(
        "ada",
        UserEmailVerified {
            email: "ada@example.com".into(),
        },
    );
    log.pipe::<UserEvent>(
        "ada",
        UserActivated {
            tenant_id: "acme".into(),
        },
    );
    let expected = contact(None, "+4915112345678", "");
    assert_eq!(to_recipients(&mut log), [("ada".to_owned(), expected)]);
}

#[test]
fn who_pays_is_told_that_the_money_came_and_of_nothing_else() {
    let mut log = log();
    let received = PaymentReceived {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        amount_cents: 1_500,
        coordination: Coordination::Choreography,
    };
    let failed = PaymentFailed {
        reason: "declined".into(),
        coordination: Coordination::Choreography,
    };
    let event = log.pipe::<PaymentEvent>("1", received);
    log.pipe::<PaymentEvent>("2", failed);
    let expected = [("order_id", "1"), ("amount", "15.00 EUR")];
    let told = to_recipients(&mut log);
    assert_eq!(
        told,
        [(
            "ada".to_owned(),
            request(Kind::PaymentReceived, event, &expected)
        )]
    );
    let (mail, _) = rendered(&told[0].1);
    assert!(
        mail.html.contains("<strong>15.00 EUR</strong>"),
        "{}",
        mail.html
    );
}

#[test]
fn a_replay_asks_for_each_notification_under_its_id() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", placed(Coordination::Choreography));
    let first: Vec<Uuid> = log
        .drain::<RecipientCommand>()
        .iter()
        .map(|one| one.id)
        .collect();
    for partition in 0..3 {
        log.reset("order-recipient", partition, 0);
    }
    log.advance(Duration::from_secs(60));
    let again: Vec<Uuid> = log
        .drain::<RecipientCommand>()
        .iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(first.len(), 1);
    assert_eq!(first, again);
}
