//! Somebody becomes a user: from HTTP through journal, Kafka, processors and four aggregates to the views.

mod crashes;
mod race;
mod schedules;
mod secrets;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tests::wait::eventually;

use crate::operate::world::World;

const PASSWORD: &str = "correct horse battery staple";

/// Servers, and whoever talks to what runs on them.
struct Town {
    world: World,
    http: reqwest::Client,
}

impl Town {
    fn open() -> Result<Self> {
        Ok(Self {
            world: World::start()?,
            http: reqwest::Client::new(),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.world.url);
        let answer = self.http.post(url).json(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| text.to_owned())?,
        };
        Ok((status, body))
    }

    /// Registers over HTTP; the registration's id.
    async fn register(&self, body: &Value) -> Result<String> {
        let (status, body) = self.post("/identity/registrations", body).await?;
        ensure!(status == 202, "{status} {body}");
        let id = body["registration_id"].as_str().context("no id")?;
        Ok(id.to_owned())
    }

    async fn command(
        &self,
        aggregate: &str,
        id: &str,
        kind: &str,
        data: Value,
    ) -> Result<(StatusCode, Value)> {
        let body = json!({"type": kind, "data": data});
        self.post(&format!("/commands/{aggregate}/{id}"), &body)
            .await
    }

    async fn accepted(&self, aggregate: &str, id: &str, kind: &str, data: Value) -> Result<()> {
        let (status, body) = self.command(aggregate, id, kind, data).await?;
        ensure!(status == 201, "{kind}: {status} {body}");
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.world.url));
        Ok(answer.send().await?.json().await?)
    }

    /// Waits until the registration stands there.
    async fn ended(&self, registration: &str, status: &str) -> Result<Value> {
        let path = format!("/views/registrations/{registration}");
        eventually(&format!("{registration} is {status}"), || async {
            self.get(&path)
                .await
                .is_ok_and(|row| row["status"] == status)
        })
        .await
        .with_context(|| self.world.logs())?;
        self.get(&path).await
    }

    /// Waits until a row of a view is as said.
    async fn becomes(&self, path: &str, expected: Value) -> Result<()> {
        let shows = |row: &Value| {
            let fields = expected.as_object().into_iter().flatten();
            fields.into_iter().all(|(name, value)| row[name] == *value)
        };
        eventually(&format!("{path} shows {expected}"), || async {
            self.get(path).await.is_ok_and(|row| shows(&row))
        })
        .await
        .with_context(|| self.world.logs())
    }

    /// Waits until a number of the journal's database is as given.
    async fn until_journal(&self, sql: &str, wanted: i64) -> Result<()> {
        eventually(&format!("{sql} gives {wanted}"), || async {
            self.world
                .journal::<i64>(sql)
                .await
                .is_ok_and(|found| found == wanted)
        })
        .await
    }
}

fn ada() -> Value {
    json!({"registration_id": "ada", "password": PASSWORD, "tenant_id": "acme", "tenant_name": "Acme",
           "email": "Ada@Example.com", "first_name": "Ada", "last_name": "Lovelace", "language": "en",
           "workspace_name": "Home"})
}

fn but(mut body: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_over_http_becomes_a_user_with_a_tenant_and_a_first_workspace() -> Result<()>
{
    let town = Town::open()?;
    let mut up = town.world.up()?;
    up.ready().await?;
    assert_eq!(town.register(&ada()).await?, "ada");
    town.ended("ada", "completed").await?;
    town.becomes(
        "/views/users/ada",
        json!({"tenant_id": "acme", "email": "ada@example.com", "display_name": "Ada Lovelace",
               "status": "registered", "role": "admin", "language": "en", "version": 1}),
    )
    .await?;
    let tenant =
        json!({"name": "Acme", "plan": "free", "status": "active", "registration_id": "ada"});
    town.becomes("/views/tenants/acme", tenant).await?;
    let workspace =
        json!({"tenant_id": "acme", "name": "Home", "status": "active", "member_count": 1});
    town.becomes("/views/workspaces/ada", workspace).await?;
    let member = "SELECT count(*) FROM views.workspace_members WHERE user_id = 'ada'";
    town.world.until_number(member, 1).await?;
    let members = town.get("/views/workspace-members?user_id=ada").await?;
    assert_eq!(members["items"][0]["workspace_id"], "ada", "{members}");
    assert_eq!(members["items"][0]["role"], "owner", "{members}");

    it_is_found(&town).await?;
    again_and_others(&town).await?;
    passwords(&town).await?;
    a_life(&town).await?;
    up.stop().await
}

/// By address however it is written, tenant and status, under both paths.
async fn it_is_found(town: &Town) -> Result<()> {
    for path in ["/views/users", "/events/projections/users"] {
        for (filter, found) in [
            ("email=ADA@example.com", 1),
            ("tenant_id=acme&status=registered", 1),
            ("tenant_id=globex", 0),
            ("status=deactivated", 0),
        ] {
            let users = town.get(&format!("{path}?{filter}")).await?;
            let items = users["items"].as_array().context("no items")?;
            assert_eq!(items.len(), found, "{path}?{filter}: {users}");
        }
    }
    Ok(())
}

/// The same again changes nothing; the same address in other letters is refused, in another tenant it is not.
async fn again_and_others(town: &Town) -> Result<()> {
    let (status, body) = town.post("/identity/registrations", &ada()).await?;
    assert_eq!(status, 202, "{body}");
    assert_eq!(body["repeated"], true, "{body}");
    let other = but(ada(), json!({"first_name": "Augusta"}));
    let (status, body) = town.post("/identity/registrations", &other).await?;
    assert_eq!(status, 422, "{body}");
    let short = but(
        ada(),
        json!({"registration_id": "short", "password": "1234567"}),
    );
    let (status, body) = town.post("/identity/registrations", &short).await?;
    assert_eq!(status, 422, "{body}");

    // What would pass by the claim is not taken from callers.
    let past = json!({"tenant_id": "acme", "registration_id": "past", "email": "ada@example.com",
                      "first_name": "Ada", "last_name": ""});
    let (status, body) = town.command("user", "past", "CreateUser", past).await?;
    assert_eq!(status, 403, "{body}");
    let release = json!({"registration_id": "ada"});
    let (status, body) = town
        .command("email", "acme:x", "ReleaseEmail", release)
        .await?;
    assert_eq!(status, 403, "{body}");

    let taken = but(
        ada(),
        json!({"registration_id": "late", "email": "aDA@example.com"}),
    );
    town.register(&taken).await?;
    let row = town.ended("late", "refused").await?;
    assert_eq!(row["reason"], "the e-mail address is taken in this tenant");
    assert_eq!(row["step"], "email");
    let elsewhere = but(
        ada(),
        json!({"registration_id": "globe", "tenant_id": "globex", "user_id": "ada-g"}),
    );
    town.register(&elsewhere).await?;
    town.ended("globe", "completed").await?;

    // Its last step is refused, for the user id is another's: what it took is given back.
    let clash = but(
        ada(),
        json!({"registration_id": "clash", "tenant_id": "initech", "user_id": "ada", "email": "c@example.com"}),
    );
    town.register(&clash).await?;
    let row = town.ended("clash", "refused").await?;
    assert_eq!(row["reason"], "the user id is another user's");
    town.becomes("/views/workspaces/clash", json!({"status": "deactivated"}))
        .await?;
    // Its tenant too: whoever comes next brings it anew.
    let again = but(clash, json!({"registration_id": "again", "user_id": null}));
    town.register(&again).await?;
    town.ended("again", "completed").await?;
    let anew = json!({"registration_id": "again", "status": "active"});
    town.becomes("/views/tenants/initech", anew).await
}

/// A hash for each of three users, and none for who was refused, asked twice or left on the way.
async fn passwords(town: &Town) -> Result<()> {
    let mut journal = PgConnection::connect(town.world.servers.database_url()).await?;
    sqlx::query(
        "INSERT INTO identity.credentials (credential_id, registration_id, hash, created_at)
         VALUES (gen_random_uuid(), 'never-begun', 'x', now() - interval '2 hours')",
    )
    .execute(&mut journal)
    .await?;
    let kept = "SELECT count(*) FROM identity.credentials WHERE kept";
    town.until_journal(kept, 3).await?;
    town.until_journal("SELECT count(*) FROM identity.credentials", 3)
        .await?;
    for (user, password, expected) in [
        ("ada", PASSWORD, 204),
        ("ada-g", PASSWORD, 204),
        ("ada", "correct horse battery stable", 401),
        ("nobody", PASSWORD, 401),
    ] {
        let path = format!("/identity/users/{user}/password-checks");
        let (status, body) = town.post(&path, &json!({"password": password})).await?;
        assert_eq!(status, expected, "{user}: {body}");
    }
    Ok(())
}

/// Verified, activated, changed, deactivated; then nothing more, and the address is free.
async fn a_life(town: &Town) -> Result<()> {
    let early = town
        .command("user", "ada", "ActivateUser", json!({}))
        .await?;
    assert_eq!(early.0, 422, "{}", early.1);
    for _ in 0..2 {
        town.accepted("user", "ada", "VerifyUserEmail", json!({}))
            .await?;
        town.accepted("user", "ada", "ActivateUser", json!({}))
            .await?;
    }
    let profile = json!({"last_name": "King", "avatar_url": "https://example.com/ada.png",
                         "timezone": "Europe/London", "language": "de-AT"});
    town.accepted("user", "ada", "UpdateUser", profile.clone())
        .await?;
    let shown = but(
        profile,
        json!({"status": "active", "email_verified": true, "display_name": "Ada King", "version": 5}),
    );
    town.becomes("/views/users/ada", shown).await?;
    // The state is folded from the journal's events at that moment, and from nothing else. The second event is the refusal of
    // who wanted the same id.
    let state = town.get("/aggregates/user/ada/state?at=4").await?;
    assert_eq!(state["state"]["status"], "active", "{state}");
    assert_eq!(
        state["state"]["profile"]["last_name"], "Lovelace",
        "{state}"
    );

    let removal = json!({"user_id": "ada"});
    let (status, body) = town
        .command("workspace", "ada", "RemoveWorkspaceMember", removal)
        .await?;
    assert_eq!(status, 422, "{body}");

    let reason = json!({"reason": "left"});
    town.accepted("user", "ada", "DeactivateUser", reason)
        .await?;
    let (status, body) = town
        .command("user", "ada", "VerifyUserEmail", json!({}))
        .await?;
    assert_eq!(status, 422, "{body}");
    assert_eq!(body["detail"], "the user is deactivated");
    let check = json!({"password": PASSWORD});
    let path = "/identity/users/ada/password-checks";
    assert_eq!(town.post(path, &check).await?.0, 401);

    let released = "SELECT count(*) FROM millrace.events WHERE event_type = 'EmailReleased'
                    AND payload LIKE '%ada'::bytea";
    town.until_journal(released, 1).await?;
    let back = but(ada(), json!({"registration_id": "back"}));
    town.register(&back).await?;
    town.ended("back", "completed").await?;
    let role = json!({"role": "member", "status": "registered", "tenant_id": "acme"});
    town.becomes("/views/users/back", role).await
}
