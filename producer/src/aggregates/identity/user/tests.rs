//! What a user does, and what it refuses.

use super::*;
use millrace::aggregate::fold;
use millrace::testing::given;

fn create(registration: &str) -> CreateUser {
    CreateUser {
        tenant_id: "acme".into(),
        registration_id: registration.into(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: None,
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        credential_id: Some("c1".into()),
        role: UserRole::Admin,
    }
}

fn registered() -> UserEvent {
    UserRegistered {
        tenant_id: "acme".into(),
        registration_id: "r1".into(),
        email: "ada@example.com".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        phone: None,
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
        credential_id: Some("c1".into()),
        role: UserRole::Admin,
    }
    .into()
}

fn verified() -> UserEvent {
    UserEmailVerified {
        email: "ada@example.com".into(),
    }
    .into()
}

fn activated() -> UserEvent {
    UserActivated {
        tenant_id: "acme".into(),
    }
    .into()
}

fn deactivated(reason: &str) -> UserEvent {
    UserDeactivated {
        reason: reason.into(),
        tenant_id: "acme".into(),
        email: "ada@example.com".into(),
        registration_id: "r1".into(),
    }
    .into()
}

fn refused_to(registration: &str, reason: &str) -> UserEvent {
    refused(registration.into(), reason.into())
}

fn deactivate() -> DeactivateUser {
    DeactivateUser {
        reason: "left".into(),
    }
}

fn withdraw(registration: &str) -> WithdrawUser {
    WithdrawUser {
        registration_id: registration.into(),
        reason: "not completed in time".into(),
    }
}

/// Nothing given: nothing changes.
fn update() -> UpdateUser {
    UpdateUser {
        first_name: None,
        last_name: None,
        avatar_url: None,
        phone: None,
        timezone: None,
        language: None,
    }
}

fn updated() -> UserUpdated {
    UserUpdated {
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        avatar_url: None,
        phone: None,
        timezone: Some("Europe/London".into()),
        language: Some("en".into()),
    }
}

/// One of each command that acts on a user who is there.
fn actions() -> Vec<UserCommand> {
    vec![
        VerifyUserEmail {}.into(),
        ActivateUser {}.into(),
        update().into(),
        ChangeUserRole {
            role: UserRole::Member,
        }
        .into(),
    ]
}

#[test]
fn a_registration_brings_its_user_once() {
    given::<User>([]).when(create("r1")).then([registered()]);
    given::<User>([registered()])
        .when(create("r1"))
        .then_nothing();
}

#[test]
fn a_registration_does_not_get_anothers_user() {
    let reason = "the user id is another user's";
    given::<User>([registered()])
        .when(create("r2"))
        .then([refused_to("r2", reason)]);
    given::<User>([registered(), deactivated("left")])
        .when(create("r2"))
        .then([refused_to("r2", reason)]);
}

#[test]
fn a_user_acts_when_their_address_is_verified_and_not_before() {
    given::<User>([registered()])
        .when(ActivateUser {})
        .then_rejected(Rejection::NotVerified);
    given::<User>([registered()])
        .when(VerifyUserEmail {})
        .then([verified()]);
    given::<User>([registered(), verified()])
        .when(ActivateUser {})
        .then([activated()]);
}

#[test]
fn a_repeated_command_changes_nothing() {
    let active = [registered(), verified(), activated()];
    let same = UpdateUser {
        first_name: Some("Ada".into()),
        ..update()
    };
    let role = UserRole::Admin;
    for repeated in [
        UserCommand::from(VerifyUserEmail {}),
        ActivateUser {}.into(),
        same.into(),
        ChangeUserRole { role }.into(),
    ] {
        given::<User>(active.clone()).when(repeated).then_nothing();
    }
    given::<User>([registered(), deactivated("left")])
        .when(deactivate())
        .then_nothing();
}

#[test]
fn a_profile_changes_where_something_is_given_and_an_empty_text_clears() {
    let change = UpdateUser {
        avatar_url: Some("https://example.com/ada.png".into()),
        timezone: Some(String::new()),
        language: Some("de-AT".into()),
        ..update()
    };
    let after = UserUpdated {
        avatar_url: Some("https://example.com/ada.png".into()),
        timezone: None,
        language: Some("de-AT".into()),
        ..updated()
    };
    given::<User>([registered()])
        .when(change)
        .then([after.clone().into()]);
    given::<User>([registered(), after.into()])
        .when(UpdateUser {
            avatar_url: Some(String::new()),
            language: Some("en".into()),
            timezone: Some("Europe/London".into()),
            ..update()
        })
        .then([updated().into()]);
}

#[test]
fn a_profile_holds_nothing_that_cannot_be() {
    let script = UpdateUser {
        avatar_url: Some("javascript:alert(1)".into()),
        ..update()
    };
    given::<User>([registered()]).when(script).then_rejected(
        BadField::NotA {
            field: "avatar_url",
            expected: "an https URL of at most 2000 bytes",
        }
        .into(),
    );
    let nameless = UpdateUser {
        first_name: Some(String::new()),
        ..update()
    };
    given::<User>([registered()])
        .when(nameless)
        .then_rejected(BadField::Empty("first_name").into());
}

#[test]
fn a_role_changes() {
    let role = UserRole::Member;
    given::<User>([registered()])
        .when(ChangeUserRole { role })
        .then([UserRoleChanged { role }.into()]);
}

#[test]
fn nothing_is_done_to_a_user_who_is_deactivated() {
    given::<User>([registered()])
        .when(deactivate())
        .then([deactivated("left")]);
    for action in actions() {
        given::<User>([registered(), verified(), activated(), deactivated("left")])
            .when(action)
            .then_rejected(Rejection::Deactivated);
    }
}

#[test]
fn nothing_is_done_to_a_user_who_is_not_there() {
    for action in actions().into_iter().chain([deactivate().into()]) {
        given::<User>([])
            .when(action)
            .then_rejected(Rejection::Unknown);
    }
}

#[test]
fn a_registration_that_takes_its_user_back_leaves_none_that_acts_and_hears_of_it() {
    let late = "not completed in time";
    given::<User>([registered()])
        .when(withdraw("r1"))
        .then([deactivated(late), refused_to("r1", late)]);
    given::<User>([registered(), verified(), activated()])
        .when(withdraw("r1"))
        .then([deactivated(late), refused_to("r1", late)]);
    // Asked again, or of a user that never came: there is nothing to take back, and that is the answer.
    for history in [vec![], vec![registered(), deactivated(late)]] {
        given::<User>(history)
            .when(withdraw("r1"))
            .then([refused_to("r1", late)]);
    }
}

#[test]
fn nobody_takes_anothers_user_back() {
    let late = "not completed in time";
    given::<User>([registered()])
        .when(withdraw("r2"))
        .then([refused_to("r2", late)]);
}

#[test]
fn a_user_is_rebuilt_from_its_events_alone() {
    let after = UserUpdated {
        first_name: "Augusta".into(),
        avatar_url: Some("https://example.com/ada.png".into()),
        ..updated()
    };
    let role = UserRole::Member;
    let history = [
        registered(),
        verified(),
        activated(),
        after.clone().into(),
        UserRoleChanged { role }.into(),
        refused_to("r2", "the user id is another user's"),
        deactivated("left"),
    ];
    let expected = User {
        status: Status::Deactivated,
        tenant_id: "acme".into(),
        registration_id: "r1".into(),
        email: "ada@example.com".into(),
        email_verified: true,
        credential_id: Some("c1".into()),
        role,
        profile: after.into(),
    };
    assert_eq!(fold::<User>(&history), expected);
}
