//! The view of notifications.

use millrace::projection::fold;
use millrace::testing::view::{TestError, ViewTest};
use projections::views::notifications::Notifications;
use schemas::notification::*;
use serde_json::{Value, json};

use super::{at, database};

fn requested(id: &str, channel: Channel, to: &str) -> RecipientEvent {
    NotificationRequested {
        notification_id: id.into(),
        kind: Kind::OrderShipped,
        source_event_id: "e".into(),
        channel,
        to: to.into(),
        name: None,
        locale: None,
        params: [("order_id".to_owned(), "1".to_owned())].into(),
    }
    .into()
}

fn sent(id: &str, attempts: i64) -> RecipientEvent {
    NotificationSent {
        notification_id: id.into(),
        attempts,
        provider_id: Some("p".into()),
    }
    .into()
}

/// The columns that tell the rows apart.
fn shown(row: &Value) -> Value {
    json!([
        row["notification_id"],
        row["channel"],
        row["masked_to"],
        row["state"],
        row["attempts"],
        row["provider_id"],
        row["last_error"],
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_shows_where_it_stands_and_no_whole_address() -> Result<(), TestError> {
    let mut view =
        ViewTest::start(&database().await?, fold(Notifications), &schemas::all()).await?;
    view.at(at());
    let contact = ContactSet {
        name: None,
        email: Some("ada@example.org".into()),
        phone: Some("+4915112345678".into()),
        locale: None,
    };
    let (email, sms) = ("ada@example.org", "+4915112345678");
    view.given::<RecipientEvent>(
        "ada",
        vec![
            contact.into(),
            requested("a", Channel::Email, email),
            requested("b", Channel::Sms, sms),
            requested("c", Channel::Email, email),
            requested("d", Channel::Email, email),
        ],
    )
    .await?;
    view.given("ada", vec![sent("a", 1)]).await?;
    let reason = || "the SMTP server answered 550 5.1.1".to_owned();
    let failed = NotificationFailed {
        notification_id: "b".into(),
        attempts: 2,
        reason: reason(),
    };
    view.given::<RecipientEvent>("ada", vec![failed.into()])
        .await?;
    view.given("ada", vec![sent("b", 3)]).await?;
    let uncertain = NotificationUncertain {
        notification_id: "c".into(),
        attempts: 1,
        reason: "no answer".into(),
    };
    view.given::<RecipientEvent>("ada", vec![uncertain.into()])
        .await?;
    let skipped = NotificationSkipped {
        kind: Kind::Welcome,
        source_event_id: "f".into(),
        reason: "no address".into(),
    };
    view.given::<RecipientEvent>("bob", vec![skipped.into()])
        .await?;

    let rows = view.rows().await?;
    let mut found: Vec<Value> = rows.iter().map(shown).collect();
    let of_bob = found
        .iter()
        .position(|row| row[3] == "skipped")
        .expect("a row");
    let of_bob = found.remove(of_bob);
    assert_eq!(
        found,
        [
            json!(["a", "email", "a***@example.org", "sent", 1, "p", null]),
            json!(["b", "sms", "+49***78", "sent", 3, "p", reason()]),
            json!([
                "c",
                "email",
                "a***@example.org",
                "uncertain",
                1,
                null,
                "no answer"
            ]),
            json!(["d", "email", "a***@example.org", "requested", 0, null, null]),
        ]
    );
    // Its id is that of the event that says so.
    assert_eq!(
        of_bob,
        json!([of_bob[0], null, null, "skipped", 0, null, "no address"])
    );
    assert!(rows.iter().all(|row| !row.to_string().contains(email)));
    Ok(())
}
