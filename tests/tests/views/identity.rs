//! Users, tenants, workspaces with their members, and registrations.

use millrace::projection::fold;
use millrace::testing::view::{TestError, ViewTest};
use projections::views::identity::{
    registrations::Registrations, tenants::Tenants, users::Users,
    workspace_members::WorkspaceMembers, workspaces::Workspaces,
};
use schemas::identity::registration::*;
use schemas::identity::tenant::*;
use schemas::identity::user::*;
use schemas::identity::workspace::*;
use serde_json::{Value, json};

use super::{at, database};

const TIME: &str = "2026-01-02T03:04:05.678+00:00";

fn text(of: &str) -> String {
    of.to_owned()
}

fn registered(first_name: &str, last_name: &str) -> UserEvent {
    UserRegistered {
        tenant_id: text("acme"),
        registration_id: text("r1"),
        email: text("ada@example.com"),
        first_name: text(first_name),
        last_name: text(last_name),
        phone: None,
        timezone: None,
        language: Some(text("en")),
        credential_id: Some(text("c1")),
        role: UserRole::Admin,
    }
    .into()
}

/// What every user of these tests shows, changed by what is given.
fn user(id: &str, changes: Value) -> Value {
    let mut row = json!({"user_id": id, "tenant_id": "acme", "email": "ada@example.com", "first_name": "Ada",
        "last_name": "Lovelace", "display_name": "Ada Lovelace", "status": "registered", "role": "admin",
        "email_verified": false, "avatar_url": null, "phone": null, "timezone": null, "language": "en",
        "registered_at": TIME, "updated_at": TIME, "version": 1});
    for (name, value) in changes.as_object().unwrap() {
        row[name] = value.clone();
    }
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_shows_what_they_say_of_themselves_and_what_they_may_do() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Users), &schemas::all()).await?;
    view.at(at());
    view.given("1", vec![registered("Ada", "Lovelace")]).await?;
    view.given(
        "2",
        vec![
            registered("Ada", "Lovelace"),
            UserEmailVerified {
                email: "ada@example.com".into(),
            }
            .into(),
        ],
    )
    .await?;
    view.given::<UserEvent>(
        "2",
        vec![
            UserActivated {
                tenant_id: "acme".into(),
            }
            .into(),
        ],
    )
    .await?;
    let updated = UserUpdated {
        first_name: text("Augusta"),
        last_name: String::new(),
        avatar_url: Some(text("https://example.com/ada.png")),
        phone: Some(text("+4930123456")),
        timezone: Some(text("Europe/London")),
        language: None,
    };
    let role = UserRole::Member;
    view.given::<UserEvent>("2", vec![updated.into(), UserRoleChanged { role }.into()])
        .await?;
    let deactivated = UserDeactivated {
        reason: text("left"),
        tenant_id: text("acme"),
        email: text("ada@example.com"),
        registration_id: text("r1"),
    };
    view.given("3", vec![registered("Ada", "Lovelace"), deactivated.into()])
        .await?;
    assert_eq!(
        view.rows().await?,
        [
            user("1", json!({})),
            user(
                "2",
                json!({"first_name": "Augusta", "last_name": "", "display_name": "Augusta",
                "status": "active", "role": "member", "email_verified": true, "phone": "+4930123456",
                "avatar_url": "https://example.com/ada.png", "timezone": "Europe/London", "language": null,
                "version": 5})
            ),
            user("3", json!({"status": "deactivated", "version": 2})),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_refused_shows_only_where_there_is_another_of_the_id()
-> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Users), &schemas::all()).await?;
    view.at(at());
    let refused = || UserRegistrationRefused {
        registration_id: text("r2"),
        reason: text("late"),
    };
    view.given::<UserEvent>("1", vec![refused().into()]).await?;
    assert_eq!(view.rows().await?, Vec::<Value>::new());
    view.given("1", vec![registered("Ada", "Lovelace"), refused().into()])
        .await?;
    assert_eq!(view.rows().await?, [user("1", json!({"version": 3}))]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_shows_its_plan_and_is_gone_when_the_registration_takes_it_back()
-> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Tenants), &schemas::all()).await?;
    view.at(at());
    let registration_id = || text("r1");
    let created = |registration_id: Option<String>| {
        TenantEvent::from(TenantCreated {
            name: text("Acme"),
            plan: Plan::Free,
            registration_id,
        })
    };
    let (name, plan) = (text("Acme Ltd"), Plan::Enterprise);
    view.given("acme", vec![created(None), TenantUpdated { name }.into()])
        .await?;
    view.given::<TenantEvent>("acme", vec![TenantPlanChanged { plan }.into()])
        .await?;
    let admitted = TenantAdmittedRegistration {
        registration_id: registration_id(),
        tenant_created: true,
    };
    let brought = vec![created(Some(registration_id())), admitted.into()];
    view.given("brought", brought.clone()).await?;
    let reason = text("left");
    view.given(
        "closed",
        vec![created(None), TenantDeactivated { reason }.into()],
    )
    .await?;
    view.given("gone", brought.clone()).await?;
    let withdrawn = TenantWithdrawn {
        registration_id: registration_id(),
    };
    view.given::<TenantEvent>("gone", vec![withdrawn.into()])
        .await?;
    let row = |id: &str, name: &str, plan: &str, status: &str, by: Option<&str>, version: i64| {
        json!({"tenant_id": id, "name": name, "plan": plan, "status": status, "registration_id": by,
               "created_at": TIME, "updated_at": TIME, "version": version})
    };
    let rows = vec![
        row("acme", "Acme Ltd", "enterprise", "active", None, 3),
        row("brought", "Acme", "free", "active", Some("r1"), 2),
        row("closed", "Acme", "free", "deactivated", None, 2),
    ];
    assert_eq!(view.rows().await?, rows);
    // Brought anew by another registration it is there again.
    view.given("gone", brought).await?;
    let again = row("gone", "Acme", "free", "active", Some("r1"), 5);
    assert_eq!(view.rows().await?, [rows, vec![again]].concat());
    Ok(())
}

fn workspace() -> WorkspaceEvent {
    WorkspaceCreated {
        tenant_id: text("acme"),
        name: text("Home"),
        registration_id: Some(text("r1")),
    }
    .into()
}

fn added(user: &str, role: MemberRole) -> WorkspaceEvent {
    WorkspaceMemberAdded {
        user_id: text(user),
        role,
    }
    .into()
}

fn removed(user: &str) -> WorkspaceEvent {
    WorkspaceMemberRemoved {
        user_id: text(user),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_shows_how_many_members_it_has() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Workspaces), &schemas::all()).await?;
    view.at(at());
    let (ada, bob) = (
        added("ada", MemberRole::Owner),
        added("bob", MemberRole::Member),
    );
    view.given("1", vec![workspace(), ada, bob]).await?;
    view.given("1", vec![removed("bob")]).await?;
    let updated = WorkspaceUpdated {
        name: text("Office"),
        description: Some(text("where we work")),
    };
    view.given::<WorkspaceEvent>("2", vec![workspace(), updated.into()])
        .await?;
    let reason = text("done");
    view.given::<WorkspaceEvent>("2", vec![WorkspaceDeactivated { reason }.into()])
        .await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"workspace_id": "1", "tenant_id": "acme", "name": "Home", "description": null, "status": "active",
                   "member_count": 1, "created_at": TIME, "updated_at": TIME, "version": 4}),
            json!({"workspace_id": "2", "tenant_id": "acme", "name": "Office", "description": "where we work",
                   "status": "deactivated", "member_count": 0, "created_at": TIME, "updated_at": TIME, "version": 3}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_of_a_workspace_has_a_row_with_the_role_until_they_go() -> Result<(), TestError>
{
    let mut view =
        ViewTest::start(&database().await?, fold(WorkspaceMembers), &schemas::all()).await?;
    view.at(at());
    let events = vec![
        workspace(),
        added("ada", MemberRole::Owner),
        added("bob", MemberRole::Member),
        added("eve", MemberRole::Member),
    ];
    view.given("1", events).await?;
    let promoted = WorkspaceMemberRoleChanged {
        user_id: text("bob"),
        role: MemberRole::Admin,
    };
    view.given("1", vec![promoted.into(), removed("eve")])
        .await?;
    let row = |user: &str, role: &str| json!({"workspace_id": "1", "user_id": user, "role": role, "added_at": TIME, "updated_at": TIME});
    assert_eq!(
        view.rows().await?,
        [row("ada", "owner"), row("bob", "admin")]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_shows_where_it_is_and_why_it_was_refused() -> Result<(), TestError> {
    let mut view =
        ViewTest::start(&database().await?, fold(Registrations), &schemas::all()).await?;
    view.at(at());
    let begun = || {
        RegistrationEvent::from(RegistrationStarted {
            tenant_id: text("acme"),
            tenant_name: None,
            email: text("ada@example.com"),
            user_id: text("u1"),
            first_name: text("Ada"),
            last_name: text("Lovelace"),
            phone: None,
            timezone: None,
            language: None,
            workspace_id: text("w1"),
            workspace_name: text("Home"),
            credential_id: Some(text("c1")),
        })
    };
    let claimed = RegistrationEmailClaimed {
        tenant_id: text("acme"),
        tenant_name: None,
    };
    let overdue = RegistrationOverdue {
        user_id: text("u1"),
        reason: text("late"),
    };
    let completed = RegistrationCompleted {
        tenant_id: text("acme"),
        email: text("ada@example.com"),
        user_id: text("u1"),
        workspace_id: text("w1"),
    };
    let refused = RegistrationRefused {
        step: RegistrationStep::Email,
        reason: text("taken"),
        tenant_id: text("acme"),
        email: text("ada@example.com"),
        workspace_id: text("w1"),
        give_back: Vec::new(),
    };
    view.given("1", vec![begun(), claimed.into()]).await?;
    view.given("2", vec![begun(), overdue.into()]).await?;
    view.given("3", vec![begun(), completed.into()]).await?;
    view.given("4", vec![begun(), refused.into()]).await?;
    let row = |id: &str, status: &str, step: &str, reason: Option<&str>| {
        json!({"registration_id": id, "tenant_id": "acme", "email": "ada@example.com", "user_id": "u1",
               "workspace_id": "w1", "status": status, "step": step, "reason": reason, "started_at": TIME,
               "updated_at": TIME, "version": 2})
    };
    assert_eq!(
        view.rows().await?,
        [
            row("1", "in_progress", "tenant", None),
            row("2", "withdrawing", "user", Some("late")),
            row("3", "completed", "user", None),
            row("4", "refused", "email", Some("taken")),
        ]
    );
    Ok(())
}
