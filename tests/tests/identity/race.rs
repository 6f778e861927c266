//! Many who want one address at once.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::json;

use super::{PASSWORD, Town};

const RACERS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn of_five_hundred_racing_registrations_of_one_address_one_becomes_a_user_and_nothing_is_left_of_the_others()
-> Result<()> {
    let town = Town::open()?;
    let mut up = town.world.up()?;
    up.ready().await?;
    let race = (0..RACERS).map(|number| {
        let town = &town;
        async move {
            let email = match number % 2 {
                0 => "ada@example.com",
                _ => "ADA@Example.Com",
            };
            let body = json!({"registration_id": format!("racer-{number}"), "password": PASSWORD,
                              "tenant_id": "acme", "email": email, "first_name": "Ada", "last_name": ""});
            let mut status = town.post("/identity/registrations", &body).await?.0;
            while status == 503 {
                status = town.post("/identity/registrations", &body).await?.0;
            }
            ensure!(status == 202, "{status}");
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(race).await?;
    let world = &town.world;
    let of = |status: &str| {
        format!("SELECT count(*) FROM views.registrations WHERE status = '{status}'")
    };
    world
        .until_number(&of("refused"), RACERS as i64 - 1)
        .await?;
    world.until_number(&of("completed"), 1).await?;
    let told =
        "SELECT count(*) FROM views.registrations WHERE status = 'refused' AND step = 'email'
                AND reason = 'the e-mail address is taken in this tenant'";
    world.until_number(told, RACERS as i64 - 1).await?;

    for (view, rows) in [
        ("users", 1),
        ("tenants", 1),
        ("workspaces", 1),
        ("workspace_members", 1),
    ] {
        let count = format!("SELECT count(*) FROM views.{view}");
        world.until_number(&count, rows).await?;
    }
    // By the journal, which holds all that ever happened: each of these once, and no step beyond the first one's.
    for (event, times) in [
        ("EmailClaimed", 1),
        ("EmailClaimRefused", RACERS as i64 - 1),
        ("EmailReleased", 0),
        ("TenantCreated", 1),
        ("TenantAdmittedRegistration", 1),
        ("WorkspaceCreated", 1),
        ("UserRegistered", 1),
        ("RegistrationStarted", RACERS as i64),
        ("RegistrationEmailClaimed", 1),
        ("RegistrationOverdue", 0),
    ] {
        let count = format!("SELECT count(*) FROM millrace.events WHERE event_type = '{event}'");
        assert_eq!(town.world.journal::<i64>(&count).await?, times, "{event}");
    }
    let pending = "SELECT count(*) FROM millrace.timers WHERE state = 'pending'";
    assert_eq!(town.world.journal::<i64>(pending).await?, 0);
    town.until_journal("SELECT count(*) FROM identity.credentials WHERE kept", 1)
        .await?;
    town.until_journal("SELECT count(*) FROM identity.credentials", 1)
        .await?;
    up.stop().await
}
