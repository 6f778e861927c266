//! What a workspace does, and what it refuses.

use super::*;
use millrace::aggregate::fold;
use millrace::testing::given;

fn create(registration: Option<&str>) -> CreateWorkspace {
    CreateWorkspace {
        tenant_id: "acme".into(),
        name: "Home".into(),
        owner_id: "ada".into(),
        registration_id: registration.map(str::to_owned),
    }
}

/// A workspace with its owner, `ada`.
fn created(registration: Option<&str>) -> Vec<WorkspaceEvent> {
    let created = WorkspaceCreated {
        tenant_id: "acme".into(),
        name: "Home".into(),
        registration_id: registration.map(str::to_owned),
    };
    vec![created.into(), added("ada", MemberRole::Owner)]
}

fn with(more: &[WorkspaceEvent]) -> Vec<WorkspaceEvent> {
    [created(None), more.to_vec()].concat()
}

fn add(user: &str, role: MemberRole) -> AddWorkspaceMember {
    AddWorkspaceMember {
        user_id: user.into(),
        role,
    }
}

fn added(user: &str, role: MemberRole) -> WorkspaceEvent {
    WorkspaceMemberAdded {
        user_id: user.into(),
        role,
    }
    .into()
}

fn remove(user: &str) -> RemoveWorkspaceMember {
    RemoveWorkspaceMember {
        user_id: user.into(),
    }
}

fn removed(user: &str) -> WorkspaceEvent {
    WorkspaceMemberRemoved {
        user_id: user.into(),
    }
    .into()
}

fn change(user: &str, role: MemberRole) -> ChangeWorkspaceMemberRole {
    ChangeWorkspaceMemberRole {
        user_id: user.into(),
        role,
    }
}

fn changed(user: &str, role: MemberRole) -> WorkspaceEvent {
    WorkspaceMemberRoleChanged {
        user_id: user.into(),
        role,
    }
    .into()
}

fn deactivated() -> WorkspaceEvent {
    WorkspaceDeactivated {
        reason: "done".into(),
    }
    .into()
}

fn last_owner() -> Rejection {
    Rejection::LastOwner {
        user_id: "ada".into(),
    }
}

#[test]
fn a_workspace_comes_with_its_owner_and_once() {
    given::<Workspace>([])
        .when(create(None))
        .then(created(None));
    given::<Workspace>(created(None))
        .when(create(None))
        .then_nothing();
    let other = CreateWorkspace {
        name: "Office".into(),
        ..create(None)
    };
    given::<Workspace>(created(None))
        .when(other)
        .then_rejected(Rejection::Exists);
}

#[test]
fn a_registration_gets_its_workspace_once_and_never_anothers() {
    given::<Workspace>([])
        .when(create(Some("r1")))
        .then(created(Some("r1")));
    given::<Workspace>(created(Some("r1")))
        .when(create(Some("r1")))
        .then_nothing();
    for history in [created(Some("r1")), created(None)] {
        given::<Workspace>(history)
            .when(create(Some("r2")))
            .then([WorkspaceCreationRefused {
                registration_id: "r2".into(),
                reason: "the workspace id is another workspace's".into(),
            }
            .into()]);
    }
}

#[test]
fn a_registration_takes_back_its_own_workspace_only() {
    let withdraw = |registration: &str| WithdrawWorkspace {
        registration_id: registration.into(),
        reason: "done".into(),
    };
    given::<Workspace>(created(Some("r1")))
        .when(withdraw("r1"))
        .then([deactivated()]);
    for history in [
        vec![],
        created(None),
        created(Some("r2")),
        [created(Some("r1")), vec![deactivated()]].concat(),
    ] {
        given::<Workspace>(history)
            .when(withdraw("r1"))
            .then_nothing();
    }
}

#[test]
fn members_come_change_their_role_and_go_and_a_repeat_changes_nothing() {
    let (member, admin) = (MemberRole::Member, MemberRole::Admin);
    given::<Workspace>(with(&[]))
        .when(add("bob", member))
        .then([added("bob", member)]);
    let bob = with(&[added("bob", member)]);
    given::<Workspace>(bob.clone())
        .when(add("bob", member))
        .then_nothing();
    given::<Workspace>(bob.clone())
        .when(change("bob", admin))
        .then([changed("bob", admin)]);
    given::<Workspace>(with(&[added("bob", member), changed("bob", admin)]))
        .when(change("bob", admin))
        .then_nothing();
    given::<Workspace>(bob)
        .when(remove("bob"))
        .then([removed("bob")]);
    given::<Workspace>(with(&[added("bob", member), removed("bob")]))
        .when(remove("bob"))
        .then_nothing();
}

#[test]
fn a_member_who_is_added_with_another_role_keeps_the_first_one() {
    given::<Workspace>(with(&[added("bob", MemberRole::Admin)]))
        .when(add("bob", MemberRole::Member))
        .then_rejected(Rejection::OtherRole {
            user_id: "bob".into(),
            role: "admin",
        });
    given::<Workspace>(with(&[]))
        .when(change("bob", MemberRole::Member))
        .then_rejected(Rejection::NotAMember {
            user_id: "bob".into(),
        });
}

#[test]
fn the_last_owner_neither_goes_nor_becomes_less() {
    given::<Workspace>(with(&[]))
        .when(remove("ada"))
        .then_rejected(last_owner());
    given::<Workspace>(with(&[added("bob", MemberRole::Admin)]))
        .when(change("ada", MemberRole::Member))
        .then_rejected(last_owner());
    let two = with(&[added("bob", MemberRole::Owner)]);
    given::<Workspace>(two.clone())
        .when(remove("ada"))
        .then([removed("ada")]);
    given::<Workspace>(two)
        .when(change("ada", MemberRole::Member))
        .then([changed("ada", MemberRole::Member)]);
}

#[test]
fn name_and_description_change_where_they_are_given() {
    let update = |name: Option<&str>, description: Option<&str>| UpdateWorkspace {
        name: name.map(str::to_owned),
        description: description.map(str::to_owned),
    };
    let updated = |name: &str, description: Option<&str>| -> WorkspaceEvent {
        WorkspaceUpdated {
            name: name.into(),
            description: description.map(str::to_owned),
        }
        .into()
    };
    given::<Workspace>(with(&[]))
        .when(update(None, Some("where we live")))
        .then([updated("Home", Some("where we live"))]);
    let described = with(&[updated("Home", Some("where we live"))]);
    given::<Workspace>(described.clone())
        .when(update(Some("Home"), None))
        .then_nothing();
    given::<Workspace>(described)
        .when(update(None, Some("")))
        .then([updated("Home", None)]);
}

#[test]
fn nothing_is_done_in_a_workspace_that_is_deactivated_or_not_there() {
    let reason = || "done".to_owned();
    let end = || DeactivateWorkspace { reason: reason() };
    given::<Workspace>(with(&[]))
        .when(end())
        .then([deactivated()]);
    given::<Workspace>(with(&[deactivated()]))
        .when(end())
        .then_nothing();
    let (name, description) = (Some("Office".to_owned()), None);
    for action in [
        WorkspaceCommand::from(UpdateWorkspace { name, description }),
        add("bob", MemberRole::Member).into(),
        remove("ada").into(),
        change("ada", MemberRole::Member).into(),
    ] {
        given::<Workspace>(with(&[deactivated()]))
            .when(action.clone())
            .then_rejected(Rejection::Deactivated);
        given::<Workspace>([])
            .when(action)
            .then_rejected(Rejection::Unknown);
    }
}

#[test]
fn members_are_bounded() {
    let many: Vec<WorkspaceEvent> = (1..MEMBERS_MAX)
        .map(|number| added(&format!("u{number}"), MemberRole::Member))
        .collect();
    given::<Workspace>(with(&many))
        .when(add("one-more", MemberRole::Member))
        .then_rejected(Rejection::TooManyMembers);
}

/// All sequences of five of these commands over two users.
#[test]
fn there_is_an_owner_after_whatever_is_asked_in_whatever_order() {
    let commands: Vec<WorkspaceCommand> = ["ada", "bob"]
        .into_iter()
        .flat_map(|user| {
            [
                WorkspaceCommand::from(add(user, MemberRole::Owner)),
                remove(user).into(),
                change(user, MemberRole::Owner).into(),
                change(user, MemberRole::Member).into(),
            ]
        })
        .collect();
    let context = Context {
        aggregate_id: "w1".into(),
        now: chrono::DateTime::UNIX_EPOCH,
    };
    for number in 0..commands.len().pow(5) {
        let mut workspace: Workspace = fold(&created(None));
        let mut rest = number;
        for _ in 0..5 {
            let command = commands[rest % commands.len()].clone();
            rest /= commands.len();
            for event in workspace.decide(command, &context).unwrap_or_default() {
                workspace.evolve(&event);
            }
            let mut roles = workspace.members.values();
            assert!(
                roles.any(|role| *role == MemberRole::Owner),
                "{number}: {workspace:?}"
            );
        }
    }
}
