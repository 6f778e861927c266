//! From the order to the mail, once; and a replay of everything sends nothing again.

mod over_http;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use millrace::position::partition_of;
use serde_json::json;

use super::{Office, address};
use crate::operate::world::PARTITIONS;

impl Office {
    async fn place(&self, order: &str, customer: &str) -> Result<()> {
        let line = json!({"product_id": "tea", "quantity": 1, "total_cents": 250});
        let data = json!({"customer_id": customer, "currency": "EUR", "lines": [line]});
        self.command(&format!("order/{order}"), "PlaceOrder", data)
            .await
    }

    /// The subjects that a recipient was written, and how often each.
    fn subjects(&self, recipient: &str) -> BTreeMap<String, usize> {
        let mut subjects = BTreeMap::new();
        for mail in self.smtp.taken(&address(recipient)) {
            *subjects
                .entry(mail.header("Subject").unwrap_or_default())
                .or_default() += 1;
        }
        subjects
    }
}

fn once(subjects: &[&str]) -> BTreeMap<String, usize> {
    subjects
        .iter()
        .map(|subject| ((*subject).to_owned(), 1))
        .collect()
}

/// An id that begins with this and belongs to this partition.
fn id_in(partition: i32, begins: &str) -> String {
    (0..)
        .map(|number| format!("{begins}-{number}"))
        .find(|id| partition_of(id, PARTITIONS) == partition)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_order_goes_out_once_and_a_replay_of_everything_sends_nothing()
-> Result<()> {
    let office = Office::open().await?;
    let more = [("SMS_ADAPTER", "log")];
    let up = office.up(&more).await?;
    let contact = json!({"name": "Ada <b>", "email": address("ada"), "phone": "+4915112345678"});
    office
        .command("recipient/ada", "SetContact", contact)
        .await?;
    let contact = json!({"email": address("bob")});
    office
        .command("recipient/bob", "SetContact", contact)
        .await?;
    for (order, customer) in [("1", "ada"), ("2", "bob"), ("3", "cleo")] {
        office.place(order, customer).await?;
    }
    let confirmed = "SELECT count(*) FROM views.orders WHERE status = 'confirmed'";
    office.world.until_number(confirmed, 3).await?;
    for order in ["1", "2"] {
        let data = json!({"tracking_code": "JD1"});
        office
            .command(&format!("order/{order}"), "ShipOrder", data)
            .await?;
    }
    let sent = "SELECT count(*) FROM views.notifications WHERE state = 'sent'";
    office.world.until_number(sent, 5).await?;
    // Nobody knows how to reach her, and the view says so.
    let skipped = office.until("cleo", "skipped").await?;
    let reason = "neither an e-mail address nor a phone number is known";
    assert_eq!(skipped.last_error.as_deref(), Some(reason));
    let shown = office.rows("ada").await?;
    let masked: Vec<&str> = shown
        .iter()
        .filter_map(|row| row.masked_to.as_deref())
        .collect();
    assert_eq!(masked, ["a***@example.net", "a***@example.net", "+49***78"]);
    check_mails(&office);
    up.stop().await?;

    let events =
        "SELECT count(*) FROM millrace.events WHERE aggregate_id IN ('ada', 'bob', 'cleo')";
    let before: i64 = office.world.journal(events).await?;
    for (group, topic) in [
        ("millrace.processor.order-recipient", "order.events"),
        ("millrace.effect.email", "recipient.events"),
        ("millrace.effect.sms", "recipient.events"),
    ] {
        tests::stock::reset_offsets(&office.world.servers, group, topic, &["--to-earliest"])?;
    }
    let up = office.up(&more).await?;
    behind_all_that_is_read_again(&office).await?;
    check_mails(&office);
    assert_eq!(office.world.journal::<i64>(events).await?, before);
    let open = "SELECT count(*) FROM millrace_effects.calls WHERE calls <> 1 OR state <> 'settled'";
    office.world.until_number(open, 0).await?;
    up.stop().await
}

fn check_mails(office: &Office) {
    for (recipient, order) in [("ada", "1"), ("bob", "2")] {
        let (placed, left) = (
            format!("Your order {order}"),
            format!("Your order {order} is on its way"),
        );
        assert_eq!(office.subjects(recipient), once(&[&placed, &left]));
    }
    let html = office
        .smtp
        .taken(&address("ada"))
        .iter()
        .all(|mail| mail.raw.contains("Ada &lt;b&gt;") && mail.raw.contains("Hello Ada <b>"));
    assert!(html, "a name is escaped in HTML, and in HTML only");
}

/// Customers in every partition order in every partition: their mails stand behind all that is read again.
async fn behind_all_that_is_read_again(office: &Office) -> Result<()> {
    let customers: Vec<String> = (0..PARTITIONS).map(|of| id_in(of, "fence")).collect();
    for customer in &customers {
        let contact = json!({"email": address(customer)});
        let to = format!("recipient/{customer}");
        office.command(&to, "SetContact", contact).await?;
    }
    let orders = customers.iter().flat_map(|customer| {
        (0..PARTITIONS).map(move |of| async move {
            let order = id_in(of, &format!("of-{customer}"));
            office.place(&order, customer).await
        })
    });
    try_join_all(orders).await?;
    let sent = "SELECT count(*) FROM views.notifications
                WHERE state = 'sent' AND recipient_id LIKE 'fence%'";
    let all = i64::from(PARTITIONS * PARTITIONS);
    office.world.until_number(sent, all).await?;
    for customer in &customers {
        let subjects = office.subjects(customer);
        ensure!(
            subjects.len() == PARTITIONS as usize && subjects.values().all(|count| *count == 1)
        );
    }
    Ok(())
}
