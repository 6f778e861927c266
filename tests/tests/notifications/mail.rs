//! What each answer of a mail server leads to.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::smtp::Mode;

use super::{ATTEMPTS_MAX, Office, address};
use crate::operate::stats::failures;

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_mail_server_leads_to_what_it_means() -> Result<()> {
    let office = Office::open().await?;
    let smtp = &office.smtp;
    let modes: [(&str, &[Mode]); 8] = [
        ("well", &[Mode::Well]),
        (
            "nobody",
            &[Mode::RefusesRecipient(
                "550 5.1.1 no nobody@example.net here",
            )],
        ),
        ("spam", &[Mode::RefusesMessage("554 5.7.1 spam")]),
        (
            "grey",
            &[
                Mode::RefusesRecipient("451 4.7.1 later"),
                Mode::RefusesMessage("452 4.3.1 later"),
                Mode::Well,
            ],
        ),
        ("full", &[Mode::RefusesRecipient("452 4.2.2 full")]),
        (
            "torn",
            &[
                Mode::BreaksOffBefore,
                Mode::BreaksOffBefore,
                Mode::BreaksOffBefore,
                Mode::BreaksOffBefore,
                Mode::Well,
            ],
        ),
        ("lost", &[Mode::BreaksOffAfter]),
        ("mute", &[Mode::FallsSilent]),
    ];
    for (recipient, modes) in modes {
        smtp.set(&address(recipient), modes);
    }
    let up = office.up(&[]).await?;
    for (recipient, _) in modes {
        office.welcome(recipient).await?;
    }

    let well = office.until("well", "sent").await?;
    ensure!(well.attempts == 1 && well.last_error.is_none(), "{well:?}");
    ensure!(
        well.masked_to.as_deref() == Some("w***@example.net"),
        "{well:?}"
    );
    let queued = well.provider_id.as_deref().unwrap_or_default();
    ensure!(queued.starts_with("2.0.0 queued as"), "{well:?}");
    let taken = smtp.taken(&address("well"));
    let [mail] = &taken[..] else {
        panic!("{taken:?}");
    };
    let id = format!("<{}@example.org>", well.notification_id);
    assert_eq!(mail.header("Message-ID"), Some(id));
    assert_eq!(mail.header("Subject").as_deref(), Some("Welcome, well"));
    assert_eq!(
        mail.header("From").as_deref(),
        Some("Shop <shop@example.org>")
    );
    ensure!(mail.raw.contains("multipart/alternative"), "{}", mail.raw);

    // Never, and so not again. The reason does not repeat the server's text, in which the address stands.
    for (recipient, reason) in [("nobody", "550 5.1.1"), ("spam", "554 5.7.1")] {
        let row = office.until(recipient, "failed").await?;
        let expected = format!("the SMTP server answered {reason}");
        assert_eq!(row.last_error, Some(expected));
        assert_eq!((row.attempts, smtp.named(&address(recipient))), (1, 1));
        assert!(smtp.taken(&address(recipient)).is_empty());
    }
    // Not now, and so again, but not for ever.
    let grey = office.until("grey", "sent").await?;
    assert_eq!((grey.attempts, smtp.taken(&address("grey")).len()), (3, 1));
    let full = office.until("full", "failed").await?;
    assert_eq!(full.attempts, ATTEMPTS_MAX);
    assert_eq!(smtp.named(&address("full")), 3);
    // Broken off before the message: more often than may be refused, because it counts as no refusal.
    let torn = office.until("torn", "sent").await?;
    assert_eq!((torn.attempts, smtp.taken(&address("torn")).len()), (5, 1));
    // Nobody knows, and nobody tries again by themselves.
    for recipient in ["lost", "mute"] {
        let row = office.until(recipient, "uncertain").await?;
        assert_eq!(
            (row.attempts, smtp.taken(&address(recipient)).len()),
            (1, 1)
        );
        ensure!(row.last_error.is_some(), "{row:?}");
    }
    // Five were refused or given up and two stand in doubt, and others came to nothing for now before they were sent.
    let (failed, errors, reasons) = failures(&office.world, "email").await?;
    assert_eq!(failed, 3, "{reasons:?}");
    ensure!(errors >= 13, "{errors}: {reasons:?}");
    let says = |text: &str| reasons.iter().any(|reason| reason.contains(text));
    ensure!(says("the SMTP server answered"), "{reasons:?}");
    ensure!(!says("@example.net"), "an address stands in {reasons:?}");
    what_waits_for_an_operator_is_theirs_to_decide(&office).await?;
    let printed = up.printed();
    for (recipient, _) in modes {
        let address = address(recipient);
        ensure!(!printed.contains(&address), "{address} stands in the log");
    }
    up.stop().await
}

/// Letters and doubts stand in the lists, and a retry is one more call.
async fn what_waits_for_an_operator_is_theirs_to_decide(office: &Office) -> Result<()> {
    let listed = office.world.done(&["effects", "list", "email", "--json"])?;
    let rows: Vec<Value> = listed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let of = |recipient: &str| rows.iter().find(|row| row["aggregate_id"] == recipient);
    for (recipient, state) in [
        ("nobody", "dead"),
        ("spam", "dead"),
        ("full", "dead"),
        ("lost", "uncertain"),
        ("mute", "uncertain"),
    ] {
        let row = of(recipient);
        ensure!(
            row.is_some_and(|row| row["state"] == state),
            "{recipient}: {row:?}"
        );
    }
    assert_eq!(rows.len(), 5, "{listed}");
    let letters = tests::stock::read_topic(
        &office.world.servers,
        "millrace.effect.email.dlq",
        3,
        60_000,
    )?;
    // A value in Avro may hold line ends.
    let letters = letters
        .iter()
        .filter(|line| line.contains("millrace_dlq_cause"));
    assert_eq!(letters.count(), 3);

    // By the words that processors' letters go by.
    let listed = office.world.done(&["dlq", "list", "--json"])?;
    let letters: Vec<Value> = listed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let mut keys: Vec<&str> = letters
        .iter()
        .filter(|one| one["effect"] == "email")
        .filter_map(|one| one["key"].as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["full", "nobody", "spam"], "{listed}");
    let shown = office.world.done(&["dlq", "show", "email", "spam"])?;
    ensure!(shown.contains("554 5.7.1"), "{shown}");
    let unknown = office.world.run(&["dlq", "show", "emial", "spam"])?;
    assert_eq!(unknown.status.code(), Some(2));
    let none = office.world.run(&["dlq", "redrive", "email", "well"])?;
    assert_eq!(none.status.code(), Some(1));

    office.smtp.set(&address("full"), &[Mode::Well]);
    let event = office.asked_by("full").await?;
    let again = office.world.done(&["dlq", "redrive", "email", "full"])?;
    ensure!(again.contains(&event), "{again}");
    let full = office.until("full", "sent").await?;
    assert_eq!(full.attempts, ATTEMPTS_MAX + 1);
    let reason = "the SMTP server answered 452 4.2.2";
    assert_eq!(full.last_error.as_deref(), Some(reason));

    // The operator looked into the server's log; the recipient hears it by a command.
    let event = office.asked_by("lost").await?;
    let note = ["--note", "the server's log has it"];
    let settle = [&["effects", "settle", "email", &event, "done"][..], &note].concat();
    office.world.done(&settle)?;
    let lost = office.until("lost", "uncertain").await?;
    let word = json!({"notification_id": lost.notification_id, "outcome": "sent", "attempts": 1});
    office
        .command("recipient/lost", "RecordDelivery", word)
        .await?;
    office.until("lost", "sent").await?;
    assert_eq!(office.smtp.taken(&address("lost")).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mail_server_is_away_no_attempt_is_counted_and_then_everything_goes_out()
-> Result<()> {
    let mut office = Office::open().await?;
    office.smtp.go_down().await;
    let credentials = [("SMTP_USERNAME", "shop"), ("SMTP_PASSWORD", "hush-hush")];
    let up = office.up(&credentials).await?;
    let recipients: Vec<String> = (0..5).map(|number| format!("waits-{number}")).collect();
    for recipient in &recipients {
        office.welcome(recipient).await?;
    }
    // More calls than may be refused, and none of them counts.
    let calls = "SELECT count(*) FROM millrace_effects.calls
                 WHERE effect = 'email' AND calls > 4 AND attempts = 0 AND class = 'outage'";
    office.world.until_number(calls, 5).await?;
    let dead = "SELECT count(*) FROM millrace_effects.calls WHERE state = 'dead'";
    assert_eq!(office.world.number(dead).await?, 0);
    office.until(&recipients[0], "requested").await?;
    office.smtp.come_back().await?;
    for recipient in &recipients {
        office.until(recipient, "sent").await?;
        assert_eq!(office.smtp.taken(&address(recipient)).len(), 1);
    }
    // \0shop\0hush-hush
    let said = office.smtp.signed_in();
    assert_eq!(said, vec!["PLAIN AHNob3AAaHVzaC1odXNo"; 5]);
    ensure!(!up.printed().contains("hush-hush"));
    up.stop().await
}
