//! A process that dies between a call and its record.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Office, address};

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_mail_went_out_it_stands_as_uncertain_and_is_not_sent_again() -> Result<()>
{
    let office = Office::open().await?;
    let mut doomed = office
        .up(&[("MILLRACE_FAILPOINTS", "effect.after-call=kill")])
        .await?;
    office.welcome("ada").await?;
    doomed.ended().await?;
    assert_eq!(office.smtp.taken(&address("ada")).len(), 1);

    let up = office.up(&[]).await?;
    let row = office.until("ada", "uncertain").await?;
    let reason = row.last_error.clone().unwrap_or_default();
    ensure!(reason.contains("did not record how it ended"), "{row:?}");
    assert_eq!(row.attempts, 1);
    // What comes later for the same recipient goes out, and this does not.
    let request = serde_json::json!({"kind": "collection_welcome", "source_event_id": "f",
                                     "params": {"collection_name": "Teas"}});
    office
        .command("recipient/ada", "RequestNotification", request)
        .await?;
    let sent = "SELECT count(*) FROM views.notifications WHERE state = 'sent'";
    office.world.until_number(sent, 1).await?;
    let subjects: Vec<_> = office.smtp.taken(&address("ada"));
    let subjects: Vec<_> = subjects
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!(subjects, ["Welcome, ada", "Your collection Teas"]);
    let status: Value = office.world.status()?;
    ensure!(status.to_string().contains("uncertain"), "{status:#}");

    // The operator knows that the server has not got it.
    let event = office.asked_by("ada").await?;
    office.world.done(&["effects", "retry", "email", &event])?;
    office.world.until_number(sent, 2).await?;
    let taken = office.smtp.taken(&address("ada"));
    assert_eq!(taken.len(), 3);
    // The reader's program knows it by its Message-ID.
    assert_eq!(taken[0].header("Message-ID"), taken[2].header("Message-ID"));
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_word_about_it_was_produced_the_mail_goes_out_once() -> Result<()> {
    for point in ["effect.after-outcome", "effect.after-produce"] {
        let office = Office::open().await?;
        let armed = format!("{point}=kill");
        let mut doomed = office.up(&[("MILLRACE_FAILPOINTS", &armed)]).await?;
        office.welcome("ada").await?;
        doomed.ended().await?;
        let up = office.up(&[]).await?;
        let row = office.until("ada", "sent").await?;
        assert_eq!(row.attempts, 1, "{point}");
        assert_eq!(office.smtp.taken(&address("ada")).len(), 1, "{point}");
        up.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_setback_is_told_it_is_told_and_counted_once() -> Result<()> {
    let office = Office::open().await?;
    let refuses = tests::smtp::Mode::RefusesRecipient("550 5.1.1 nobody");
    office.smtp.set(&address("ada"), &[refuses]);
    let mut doomed = office
        .up(&[("MILLRACE_FAILPOINTS", "effect.after-produce=kill")])
        .await?;
    office.welcome("ada").await?;
    doomed.ended().await?;
    let up = office.up(&[]).await?;
    office.until("ada", "failed").await?;
    let dead = "SELECT count(*) FROM millrace_effects.calls WHERE state = 'dead' AND calls = 1";
    office.world.until_number(dead, 1).await?;
    let told = "SELECT count(*) FROM millrace.events WHERE event_type = 'NotificationFailed'";
    assert_eq!(office.world.journal::<i64>(told).await?, 1);
    up.stop().await
}
